"""``gpustats randomise``: FSL's command, its options and its files."""

from __future__ import annotations

import argparse
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpustats import images
from gpustats.cli_report import write_report
from gpustats.contrast_maps import ContrastMaps
from gpustats.drop_ins import read_maps, said_when_interrupted, write_results
from gpustats.engines import Engine, resolve
from gpustats.environment import versions
from gpustats.fits import Fit
from gpustats.fsl_model import FslModel, FslTest, image_path, read_model, statistics_of
from gpustats.fsl_options import RandomiseOptions, as_written, parse, usage
from gpustats.fsl_outputs import (
    critical_values,
    described,
    glm_pictures,
    image_ending,
    pictures_of,
    texts_of,
    together,
    write_permutations,
)
from gpustats.glm import fit
from gpustats.inference import permutation_test
from gpustats.maps import Maps
from gpustats.outcomes import Inference
from gpustats.outputs import result_folder, save_images, write_json
from gpustats.presets import CONVENTIONS
from gpustats.records import RESULT
from gpustats.smoothing import Blur

logger = logging.getLogger("gpustats")

IN_MASK = 0.5
"""Voxels of a mask above this are in it, as in FSL."""


def add_randomise(commands: Any) -> None:
    """Add the command; its words are left to FSL's rules of options."""
    command = commands.add_parser(
        "randomise",
        help="a drop-in for FSL's randomise: its options, design files and outputs",
        add_help=False,
        prefix_chars="\0",
    )
    command.add_argument("words", nargs=argparse.REMAINDER)
    command.set_defaults(run=_randomise)


def _randomise(parsed: argparse.Namespace) -> None:
    """Read the options, and do what they say."""
    options = parse(parsed.words)
    if options.help or not parsed.words:
        print(usage(), end="")
        return
    if options.input is None or options.output is None:
        raise ValueError("randomise needs -i <input> and -o <out_root>; see --help")
    before = logger.level
    if options.quiet:
        logger.setLevel(logging.WARNING)
    try:
        _Run.prepare(options, parsed.words).carry_out()
    finally:
        logger.setLevel(before)


@dataclass(frozen=True, eq=False)
class _Run:
    """What is to be done, checked before the data are read."""

    options: RandomiseOptions
    words: list[str]
    source: Path
    root: Path
    ending: str
    engine: Engine
    model: FslModel
    started: float

    @classmethod
    def prepare(cls, options: RandomiseOptions, words: list[str]) -> _Run:
        """Check everything that can be known without the data."""
        started = time.perf_counter()
        source, root = image_path(Path(options.input or "")), Path(options.output or "")
        ending, engine = image_ending(), resolve(options.device)
        n_maps = images.open_image(source).n_volumes
        if n_maps < 2:
            raise ValueError(f"{source}: a group needs at least 2 volumes, got {n_maps}")
        model = read_model(options, n_maps)
        kinds = {test.contrast.statistic for test in model.tests}
        if options.results is not None and not all(statistics_of(options, k) for k in kinds):
            raise ValueError("--results holds p of every test; ask for some by -x, -T, -c or -F")
        return cls(options, words, source, root, ending, engine, model, started)

    def carry_out(self) -> None:
        """Test, and write the results; or say how many permutations there are."""
        if self.options.count_only:
            for test in self.model.tests:
                print(f"{test.n_distinct} {test.how} required for exhaustive test of {test.what}")
            return
        results = self.options.results
        beside = nullcontext() if results is None else result_folder(results)
        with result_folder(self.root.parent) as folder, beside as own, said_when_interrupted():
            maps = self._maps()
            fitted = fit(maps, self.model.design, device=self.options.device)
            files = []
            if self.options.glm_output:
                files += self._save(folder, glm_pictures(fitted, self.model))
            found, inferences = [], []
            for test in self.model.tests:
                inference = self._inference(fitted, test)
                found.append(self._write(folder, fitted, test, inference))
                if inference is not None and own is not None:
                    inferences.append((test, inference))
            summary = self._summary(fitted, files, found)
            write_json(folder / f"{self.root.name}.json", summary)
            if own is not None and results is not None:
                content = write_results(own, results, together(inferences), summary)
        if results is not None:
            write_report(content, results)
        self._say(f"written to {self.root}* in {time.perf_counter() - self.started:.1f} s")
        if results is not None:
            entry = results / (content["report"] or RESULT)
            self._say(f"clusters and maps of z and p are in {results}; start with {entry}")

    def _maps(self) -> Maps:
        """Read the data."""
        return read_maps(
            self.source,
            self.options.mask,
            lambda mask: np.nan_to_num(mask) > IN_MASK,
            f"above {IN_MASK}",
        )

    def _write(
        self, folder: Path, fitted: Fit, test: FslTest, inference: Inference | None
    ) -> dict[str, Any]:
        """Write the files of a test; return what is said of it."""
        maps = self._reported(fitted, test)
        files = self._save(folder, pictures_of(maps, inference, self.options))
        if inference is not None:
            name, options = self.root.name, self.options
            files += texts_of(folder, name, test, inference, options)
            files += write_permutations(folder, name, self.model, test, options)
        found = {**described(test, maps, inference), "files": files}
        for line in critical_values(str(self.root), found):
            self._say(line)
        return found

    def _reported(self, fitted: Fit, test: FslTest) -> ContrastMaps:
        """Return the maps of a contrast; t of smoothed variance on request, as randomise has it."""
        maps, sigma_mm = fitted.contrast(test.contrast), self._sigma_mm(test)
        if sigma_mm is None:
            return maps
        smoothed = Blur(maps.grid, sigma_mm)(maps.variance)
        return replace(maps, statistic=maps.effect / np.sqrt(smoothed))

    def _sigma_mm(self, test: FslTest) -> float | None:
        """Return how variances are smoothed: those of t alone are."""
        is_t = test.contrast.statistic == "t"
        return self.options.variance_smoothing_mm if is_t else None

    def _inference(self, fitted: Fit, test: FslTest) -> Inference | None:
        """Run the permutation test of a contrast, if it is asked for any."""
        statistics = statistics_of(self.options, test.contrast.statistic)
        if not statistics:
            logger.warning(
                "%s: only the statistic is written; -x, -T, --T2 and thresholds of clusters of %s "
                "ask for p",
                test.contrast.name,
                test.contrast.statistic,
            )
            return None
        model, options = self.model, self.options
        return permutation_test(
            fitted.maps,
            model.design,
            {test.contrast.name: test.contrast},
            statistics=statistics,
            n_permutations=test.n_permutations,
            two_sided=False,
            seed=options.seed,
            blocks=model.blocks,
            block_exchange=model.block_exchange,
            errors=test.errors,
            uncorrected=options.uncorrected,
            variance_smoothing_mm=self._sigma_mm(test),
            device=options.device,
        )

    def _save(self, folder: Path, pictures: Any) -> list[str]:
        """Write images; return their names."""
        named = {f"{self.root.name}_{key}{self.ending}": one for key, one in pictures.items()}
        save_images(folder, named)
        return sorted(named)

    def _summary(
        self, fitted: Fit, files: list[str], found: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Describe the run."""
        model, options = self.model, self.options
        return {
            "command": "randomise",
            "words": list(self.words),
            "versions": versions(),
            "engine": self.engine.describe(),
            "parameters": as_written(options),
            "conventions": CONVENTIONS["fsl"]._asdict(),
            "data": {
                "input": str(self.source),
                "n_subjects": fitted.maps.n_subjects,
                "n_voxels": fitted.maps.n_voxels,
                "dropped_voxels": fitted.maps.dropped,
                "missing_patterns": 0,
                "voxel_volume_mm3": fitted.maps.grid.voxel_volume_mm3,
                "subjects": None,
                "rows_matched_by": "order",
            },
            "design": model.design.table.to_dict(orient="list"),
            "blocks": None if model.blocks is None else model.blocks.tolist(),
            "block_exchange": model.block_exchange,
            "p": "files hold 1 - p; p = shuffles at least as extreme, the observed one included, "
            "over all; one-sided",
            "contrasts": found,
            "files": files,
            "seconds": round(time.perf_counter() - self.started, 3),
        }

    def _say(self, line: str) -> None:
        """Print a line, unless only errors are wanted."""
        if not self.options.quiet:
            print(line)
