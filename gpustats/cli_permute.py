"""``gpustats permute``: a permutation test, whole or in part."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats import cli_options
from gpustats.archives import save_inference
from gpustats.checkpoints import remove_checkpoint
from gpustats.cli_data import (
    describe_data,
    find_group,
    make_contrasts,
    make_design,
    parameters,
    read_design_table,
    reading,
    take_blocks,
)
from gpustats.cli_report import report_name, write_report
from gpustats.cli_results import (
    file_of,
    print_part,
    print_summary,
    seconds_since,
    wanted_results,
    with_run,
    write_results,
)
from gpustats.cli_test_plan import print_plan_of_test
from gpustats.contrasts import Contrast
from gpustats.crew import cluster
from gpustats.engines import resolve
from gpustats.enhancements import ClusterExtent, ClusterMass, Statistic, Voxelwise
from gpustats.environment import versions
from gpustats.inference import permutation_test
from gpustats.outputs import result_folder
from gpustats.partition import SCHEMES
from gpustats.shuffles import Shard
from gpustats.simes import TrueDiscoveries
from gpustats.tfce import Tfce

EXAMPLES = """\
p maps hold p corrected over voxels (fwe) or of each voxel alone (unc), and 1 outside the mask.
The thresholded map, the clusters and their table are those of the first of --statistics.

examples:
  gpustats permute sub-*_con.nii.gz --n-permutations 10000
  gpustats permute con.nii.gz --design participants.tsv --columns age --intercept --contrast age \\
      --statistics cluster-mass --cluster-forming-p 0.001 --cluster-connectivity 26
  gpustats permute cohort.zarr --memory 2G --checkpoint unfinished    (goes on after a kill)
  gpustats permute cohort.zarr --dask-local 4    (or --dask tcp://HOST:PORT)
  gpustats permute con.nii.gz --shard 3/20    (on 20 machines, then: gpustats merge FOLDER)
"""

OF_TEST = (
    *("n_permutations", "seed", "block_exchange", "errors", "scheme"),
    *("uncorrected", "null_contributions"),
)
"""Options that are arguments of the test."""

STATISTICS: dict[str, Callable[[argparse.Namespace], Statistic]] = {
    "voxelwise": lambda _: Voxelwise(),
    "tfce": lambda options: Tfce(
        extent=options.tfce_extent,
        height=options.tfce_height,
        connectivity=options.tfce_connectivity,
        step=options.tfce_step,
    ),
    "cluster-extent": lambda options: ClusterExtent(**_forming(options)),
    "cluster-mass": lambda options: ClusterMass(**_forming(options)),
    "true-discoveries": lambda _: TrueDiscoveries(),
}
"""How the statistics that can be named are made of the options."""


def add_permute(commands: Any) -> None:
    """Add the command that runs a permutation test."""
    permute = commands.add_parser(
        "permute",
        help="test a group model by permutation: voxels, clusters, TFCE",
        description="Test a group model by permutation, controlling the family-wise error rate.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli_options.add_maps(permute)
    cli_options.add_data(permute.add_argument_group("data"))
    model = permute.add_argument_group("model")
    cli_options.add_model(model)
    model.add_argument("--blocks", metavar="COLUMN", help="column with exchangeability blocks")
    cli_options.add_survival(permute.add_argument_group("thresholds"), alpha=0.05)
    cli_options.add_extra_maps(permute.add_argument_group("further results"))
    _add_statistics(permute.add_argument_group("statistics"))
    _add_shuffles(permute.add_argument_group("shuffles"))
    _add_survival_of_kills(permute.add_argument_group("long runs"))
    cli_options.add_report(permute.add_argument_group("report"))
    cli_options.add_device(permute)
    cli_options.add_machines(permute.add_argument_group("many machines"))
    cli_options.add_dry_run(permute)
    permute.set_defaults(run=_permute)


def _add_statistics(group: Any) -> None:
    """Add what says what is compared."""
    group.add_argument(
        "--statistics",
        default="voxelwise,tfce",
        metavar="A,B",
        help=f"any of {', '.join(STATISTICS)}; default: %(default)s",
    )
    forming = group.add_mutually_exclusive_group()
    forming.add_argument("--cluster-forming-t", type=float, metavar="T")
    forming.add_argument("--cluster-forming-z", type=float, metavar="Z")
    forming.add_argument(
        "--cluster-forming-p", type=float, metavar="P", help="of both tails where both count"
    )
    group.add_argument("--cluster-connectivity", type=int, choices=[6, 18, 26])
    group.add_argument("--tfce-connectivity", type=int, choices=[6, 18, 26], default=6)
    group.add_argument("--tfce-extent", type=float, default=0.5, metavar="E")
    group.add_argument("--tfce-height", type=float, default=2.0, metavar="H")
    group.add_argument("--tfce-step", type=float, metavar="STEP", help="exact integral if absent")
    group.add_argument(
        "--uncorrected", action="store_true", help="uncorrected p of clusters and TFCE too"
    )
    group.add_argument(
        "--null-contributions",
        action="store_true",
        help="maps of how many shuffles have their maximum at each voxel",
    )
    group.add_argument(
        "--variance-smoothing",
        type=float,
        metavar="MM",
        help="pseudo-t: smooth the variance of t, in every shuffle, by a Gaussian of this standard "
        "deviation (randomise -v; FWHM / 2.355)",
    )


def _add_shuffles(group: Any) -> None:
    """Add what says how the data are shuffled."""
    group.add_argument("--n-permutations", type=int, default=5000, help="default: %(default)s")
    group.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    group.add_argument("--errors", choices=["auto", "ee", "ise", "both"], default="auto")
    group.add_argument("--scheme", choices=list(SCHEMES), default="freedman-lane")
    group.add_argument("--block-exchange", choices=["within", "whole", "both"], default="within")
    part = group.add_mutually_exclusive_group()
    part.add_argument("--shuffles", metavar="A:B", help="only shuffles A to B - 1, to be merged")
    part.add_argument("--shard", metavar="K/N", help="only the K-th of N parts, to be merged")


def _add_survival_of_kills(group: Any) -> None:
    """Add what bounds the memory, and lets a test go on after it was killed."""
    cli_options.add_memory(group)
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="keep there what is done: after a kill the same command goes on from it",
    )
    group.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        metavar="N",
        help="how old a checkpoint must be to be replaced; default: %(default)g",
    )


def _permute(options: argparse.Namespace) -> None:
    """Test, and write the results or the part of them that was asked for."""
    started = time.perf_counter()
    statistics = _statistics(options)
    part = _part(options)
    wanted = wanted_results(vars(options))
    engine = resolve(options.device)
    group = find_group(options)
    table, blocks = take_blocks(options, read_design_table(options), group)
    design = make_design(options, table, group)
    contrasts = make_contrasts(options, design)
    _check_unit(options, contrasts)
    test = _arguments(options, statistics, part, blocks)
    if options.dry_run:
        print_plan_of_test(options, group, design, contrasts, test, wanted)
        return
    with (
        cluster(options.dask, options.dask_local) as client,
        result_folder(options.output_dir) as partial,
    ):
        maps = reading(options).read(group)
        with _said_when_interrupted(options.checkpoint):
            inference = permutation_test(
                maps,
                design,
                {contrast.name: contrast for contrast in contrasts},
                **test,
                device=options.device,
                memory=options.memory,
                checkpoint=options.checkpoint,
                checkpoint_seconds=options.checkpoint_seconds,
                client=client,
                allow_mixed=options.allow_mixed,
            )
        run = {
            "command": "permute",
            "versions": versions(),
            "engine": engine.describe(),
            "parameters": parameters(options),
            "data": describe_data(group, design, inference.grid, inference.settings),
            "design": design.table.to_dict(orient="list"),
            "blocks": None if blocks is None else blocks.tolist(),
            "seconds": seconds_since(started),
        }
        inference = with_run(inference, run)
        save_inference(inference, partial / file_of(part))
        if part is None:
            report = report_name(wanted=not options.no_report)
            summary = write_results(partial, inference, wanted, started, report)
    if options.checkpoint is not None:
        remove_checkpoint(options.checkpoint)
    if part is None:
        write_report(summary, options.output_dir)
        print_summary(summary, options.output_dir)
    else:
        print_part(inference, options.output_dir / file_of(part))


def _arguments(
    options: argparse.Namespace,
    statistics: Sequence[Statistic],
    part: range | Shard | None,
    blocks: NDArray[np.int64] | None,
) -> dict[str, Any]:
    """Return what the test is told, by the names of its arguments."""
    return {
        "statistics": tuple(statistics),
        "shuffles": part,
        "blocks": blocks,
        "two_sided": False if options.one_sided else None,
        "variance_smoothing_mm": options.variance_smoothing,
        **{name: getattr(options, name) for name in OF_TEST},
    }


@contextmanager
def _said_when_interrupted(checkpoint: Path | None) -> Iterator[None]:
    """Say what becomes of a test that is interrupted."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        done = str(interruption) or "interrupted"
        kept = "no results were written"
        if checkpoint is not None and any(checkpoint.glob("*.checkpoint")):
            kept = f"the same command goes on from the checkpoint in {checkpoint}"
        raise type(interruption)(f"{done}; {kept}") from None


def _statistics(options: argparse.Namespace) -> list[Statistic]:
    """Return the statistics that are compared, in the order in which they were named."""
    names = [name.strip() for name in options.statistics.split(",")]
    if not set(names) <= set(STATISTICS) or len(set(names)) < len(names):
        raise ValueError(
            f"--statistics takes any of {', '.join(STATISTICS)}, each once; "
            f"got {options.statistics!r}"
        )
    forming = _forming(options)
    connectivity = forming.pop("connectivity")
    height = [value for value in forming.values() if value is not None]
    if any(name.startswith("cluster") for name in names):
        if connectivity is None or not height:
            raise ValueError(
                "statistics of clusters need --cluster-connectivity 6, 18 or 26, and one of "
                "--cluster-forming-t, --cluster-forming-z and --cluster-forming-p"
            )
    elif connectivity is not None or height:
        raise ValueError(
            "--cluster-connectivity and --cluster-forming-... are for statistics of clusters; "
            "add cluster-extent or cluster-mass to --statistics"
        )
    return [STATISTICS[name](options) for name in names]


def _forming(options: argparse.Namespace) -> dict[str, Any]:
    """Return how clusters are formed, as their statistics take it."""
    return {
        "connectivity": options.cluster_connectivity,
        "threshold_t": options.cluster_forming_t,
        "threshold_z": options.cluster_forming_z,
        "threshold_p": options.cluster_forming_p,
    }


def _check_unit(options: argparse.Namespace, contrasts: Sequence[Contrast]) -> None:
    """Refuse a threshold in t for a contrast without t before anything is computed."""
    for contrast in contrasts:
        if contrast.statistic == "F" and options.cluster_forming_t is not None:
            raise ValueError(
                f"contrast {contrast.name!r} is an F contrast, whose clusters are formed on z; "
                "give --cluster-forming-z or --cluster-forming-p"
            )


def _part(options: argparse.Namespace) -> range | Shard | None:
    """Return which shuffles are asked for; None for all."""
    if options.shard is not None:
        return Shard(*_two_numbers("--shard", options.shard, "K/N"))
    if options.shuffles is not None:
        return range(*_two_numbers("--shuffles", options.shuffles, "A:B"))
    return None


def _two_numbers(option: str, words: str, form: str) -> tuple[int, int]:
    """Read two numbers with a character between them."""
    match = re.fullmatch(rf"(\d+){form[1]}(\d+)", words)
    if match is None:
        raise ValueError(f"{option} must be {form}, two whole numbers, got {words!r}")
    return int(match[1]), int(match[2])
