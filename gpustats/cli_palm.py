"""``gpustats palm``: PALM's command, its options and its files."""

from __future__ import annotations

import argparse
import logging
import secrets
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats import images
from gpustats.cli_report import write_report
from gpustats.drop_ins import read_maps, said_when_interrupted, write_results
from gpustats.engines import Engine, resolve
from gpustats.environment import versions
from gpustats.fsl_model import image_path
from gpustats.inference import permutation_test
from gpustats.maps import Maps
from gpustats.outcomes import Inference
from gpustats.outputs import Pictures, result_folder, save_images, write_json
from gpustats.palm_model import PalmModel, read_model, statistics_of
from gpustats.palm_options import PalmOptions, as_written, configured, parse, usage
from gpustats.palm_outputs import Written, configuration, image_ending, mask_picture, titled
from gpustats.presets import CONVENTIONS
from gpustats.records import RESULT

logger = logging.getLogger("gpustats")


def add_palm(commands: Any) -> None:
    """Add the command; its words are left to PALM's rules of options."""
    command = commands.add_parser(
        "palm",
        help="a drop-in for PALM: its options, design files and outputs",
        add_help=False,
        prefix_chars="\0",
    )
    command.add_argument("words", nargs=argparse.REMAINDER)
    command.set_defaults(run=_palm)


def _palm(parsed: argparse.Namespace) -> None:
    """Read the options, and do what they say."""
    words = configured(parsed.words)
    options, notes = parse(words)
    if options.help or not words:
        print(usage(), end="")
        return
    if options.input is None:
        raise ValueError("palm needs -i <input>; see -help")
    before = logger.level
    if options.quiet:
        logger.setLevel(logging.WARNING)
    try:
        for note in notes:
            logger.info("%s", note)
        _Run.prepare(options, words).carry_out()
    finally:
        logger.setLevel(before)


@dataclass(frozen=True, eq=False)
class _Run:
    """What is to be done, checked before the data are read."""

    options: PalmOptions
    words: list[str]
    source: Path
    seed: int
    engine: Engine
    model: PalmModel
    started: float

    @classmethod
    def prepare(cls, options: PalmOptions, words: list[str]) -> _Run:
        """Check everything that can be known without the data."""
        started = time.perf_counter()
        source, engine = image_path(options.input or Path()), resolve(options.device)
        n_maps = images.open_image(source).n_volumes
        if n_maps < 2:
            raise ValueError(f"{source}: a group needs at least 2 volumes, got {n_maps}")
        model = read_model(options, n_maps)
        seed = secrets.randbelow(2**32) if options.seed is None else options.seed
        if options.seed is None:
            logger.info("seed %d was drawn; -seed %d repeats the run", seed, seed)
        return cls(options, words, source, seed, engine, model, started)

    def carry_out(self) -> None:
        """Test, and write the results."""
        root, results = self.options.output, self.options.results
        beside = nullcontext() if results is None else result_folder(results)
        with result_folder(root.parent) as folder, beside as own, said_when_interrupted():
            inference = self._inference(self._maps())
            written = Written(self.options, self.model, inference)
            found = []
            for test in self.model.tests:
                files = self._save(folder, written.pictures(test))
                for name, text in written.degrees_of_freedom(test).items():
                    files.append(f"{root.name}_{name}")
                    (folder / files[-1]).write_text(text, encoding="ascii")
                found.append({**written.described(test), "files": files})
            files = []
            if self.options.save_mask:
                files = self._save(folder, mask_picture(inference.grid), joint="")
            files.append(f"{root.name.removesuffix('_')}_palmconfig.txt")
            (folder / files[-1]).write_text(configuration(self.words), encoding="utf-8")
            summary = self._summary(inference, files, found)
            write_json(folder / f"{root.name}.json", summary)
            if own is not None and results is not None:
                content = write_results(own, results, titled(inference, self.model.tests), summary)
        if results is not None:
            write_report(content, results)
        self._say(f"written to {root}* in {time.perf_counter() - self.started:.1f} s")
        if results is not None:
            entry = results / (content["report"] or RESULT)
            self._say(f"clusters and maps of z and p are in {results}; start with {entry}")

    def _maps(self) -> Maps:
        """Read the data."""
        reverse = self.options.reverse_mask

        def is_in(mask: NDArray[Any]) -> NDArray[Any]:
            return np.asarray((np.isfinite(mask) & (mask != 0)) ^ reverse)

        which = "0" if reverse else "other than 0"
        return read_maps(self.source, self.options.mask, is_in, which)

    def _inference(self, maps: Maps) -> Inference:
        """Run the permutation test of all contrasts."""
        model, options = self.model, self.options
        return permutation_test(
            maps,
            model.design,
            {test.contrast.name: test.contrast for test in model.tests},
            statistics=statistics_of(options),
            n_permutations=model.n_permutations,
            two_sided=None if options.two_tailed else False,
            seed=self.seed,
            blocks=model.blocks.labels,
            block_exchange=model.blocks.exchange,
            errors=model.errors,
            scheme=options.scheme,
            uncorrected=options.tfce and not options.without_uncorrected,
            device=options.device,
        )

    def _save(self, folder: Path, pictures: Pictures, joint: str = "_") -> list[str]:
        """Write images; return their names."""
        root, ending = self.options.output.name, image_ending(self.source)
        named = {f"{root}{joint}{key}{ending}": one for key, one in pictures.items()}
        save_images(folder, named)
        return sorted(named)

    def _summary(
        self, inference: Inference, files: list[str], found: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Describe the run."""
        model, options, grid = self.model, replace(self.options, seed=self.seed), inference.grid
        form = "1 - p" if options.one_minus_p else "-log10 p" if options.log_p else "p"
        return {
            "command": "palm",
            "words": list(self.words),
            "versions": versions(),
            "engine": self.engine.describe(),
            "parameters": as_written(options),
            "conventions": CONVENTIONS["palm"]._asdict(),
            "data": {
                "input": str(self.source),
                "n_subjects": model.design.n_subjects,
                "n_voxels": grid.n_voxels,
                "dropped_voxels": inference.settings["dropped_voxels"],
                "missing_patterns": 0,
                "voxel_volume_mm3": grid.voxel_volume_mm3,
                "subjects": None,
                "rows_matched_by": "order",
            },
            "design": model.design.table.to_dict(orient="list"),
            "blocks": None if model.blocks.labels is None else model.blocks.labels.tolist(),
            "block_exchange": model.blocks.exchange,
            "p": f"files hold {form}; p = shuffles at least as extreme, the observed one included, "
            f"over all; {'two' if options.two_tailed else 'one'}-sided",
            "contrasts": found,
            "files": files,
            "seconds": round(time.perf_counter() - self.started, 3),
        }

    def _say(self, line: str) -> None:
        """Print a line, unless only errors are wanted."""
        if not self.options.quiet:
            print(line)
