"""``--dry-run``: the plan of a run, from headers, the mask and a moment's work on noise."""

from __future__ import annotations

import errno
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np

from gpustats.cohort import Cohort
from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.expectation import in_words
from gpustats.maps import Maps, Survey
from gpustats.patterns import find_patterns
from gpustats.progress import STYLE
from gpustats.spaces import Grid

logger = logging.getLogger("gpustats")

Row: TypeAlias = tuple[str, str]
"""What a line of the plan is about, and what it says."""

TIMED_VALUES = 2**21
"""Values of noise, voxels times subjects, with which work is timed."""
FEW_VOXELS = 6, 6, 6
"""The volume on which the names of files are found out."""
WIDTH = 11


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Try a run on noise in the place of its maps.

    Parameters
    ----------
    found
        What headers tell, or the store.
    design
        The design, rows in the order of the maps.
    contrasts
        What is tested.
    pairwise
        Whether voxels may lack subjects.
    """

    found: Survey | Cohort
    design: Design
    contrasts: Sequence[Contrast]
    pairwise: bool

    @property
    def grid(self) -> Grid:
        """The voxels of the mask, or all there are."""
        return self.found.grid

    def few(self) -> Maps:
        """Return noise of a few voxels."""
        return self._noise(Grid(np.ones(FEW_VOXELS, dtype=bool), self.grid.affine))

    def timed(self, work: Callable[[Maps], object]) -> float:
        """Return the seconds that work on all voxels may take, by those that some take."""
        most = max(int(np.prod(FEW_VOXELS)), TIMED_VALUES // self.design.n_subjects)
        maps = self._noise(self.grid.subset(np.arange(self.grid.n_voxels) < most))
        with hushed():
            work(maps)  # what runs first is compiled
            started = time.perf_counter()
            work(maps)
            seconds = time.perf_counter() - started
        return seconds * self.grid.n_voxels / maps.n_voxels

    def names(self, write: Callable[[Path, Maps], object]) -> list[str]:
        """Return the names of the files that a run writes, given what writes them."""
        with hushed(), TemporaryDirectory() as folder:
            write(Path(folder), self.few())
            return sorted(path.name for path in Path(folder).iterdir())

    def _noise(self, grid: Grid) -> Maps:
        """Return maps of noise; where voxels may lack subjects one does."""
        shape = self.design.n_subjects, grid.n_voxels
        values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).T
        if not self.pairwise:
            return Maps(values, grid, self.found.subjects)
        values[0, -1] = np.nan
        return Maps(values, grid, self.found.subjects, missing=find_patterns(values))

    def rows(self) -> Iterator[Row]:
        """Say what headers, the mask, the design and the contrasts are."""
        yield from _rows_of_maps(self.found, self.pairwise)
        design = self.design
        yield (
            "design",
            f"{design.n_subjects} rows, matched by {design.matched_by}; columns "
            f"{', '.join(design.columns)}; rank {design.rank}, {design.df} degrees of freedom",
        )
        for contrast in self.contrasts:
            weights = "; ".join(_weights(row, contrast.columns) for row in contrast.weights)
            yield "contrast", f"{contrast.name}: {contrast.statistic} of {weights}; estimable"


def _rows_of_maps(found: Survey | Cohort, pairwise: bool) -> Iterator[Row]:
    """Say which maps there are, on which grid, and which voxels of them are looked at."""
    sizes = " x ".join(f"{size:.3g}" for size in found.grid.voxel_sizes_mm)
    volume = f"{' x '.join(map(str, found.grid.mask.shape))} voxels of {sizes} mm"
    n_voxels = f"{found.grid.n_voxels:,} voxels"
    missing = "kept where enough maps have data" if pairwise else "left out where a map lacks them"
    if isinstance(found, Cohort):
        yield "maps", f"{found.n_subjects:,} in the store {found.name}, {volume}"
        yield "mask", f"that of the store, {n_voxels}, {missing}"
        if pairwise:
            yield _memory_row(found.grid, found.n_subjects, is_known=True)
        return
    volumes = found.volumes
    paths = list(dict.fromkeys(volume.path for volume, _ in volumes if volume.path))
    n_bytes = sum(path.stat().st_size for path in paths)
    files = f"{len(paths)} files" if len(paths) > 1 else f"one file, {paths[0]}"
    yield "maps", f"{len(volumes)} in {files}, {n_bytes / 1e6:,.1f} MB, {volume}"
    if len(paths) > 1:
        yield "", f"{paths[0]} ... {paths[-1]}"
    if found.has_mask:
        yield "mask", f"{n_voxels}, {missing}"
    else:
        yield "mask", f"made of the voxels that vary, at most {n_voxels}, {missing}"
    yield _memory_row(found.grid, len(volumes), is_known=found.has_mask)


def _memory_row(grid: Grid, n_subjects: int, *, is_known: bool) -> Row:
    """Say how much maps take that are in memory."""
    size = f"{'' if is_known else 'at most '}{4 * grid.n_voxels * n_subjects / 2**20:,.0f} MiB"
    return "memory", f"all maps are held, {size}, beside what tests take"


def _weights(row: Sequence[float], columns: Sequence[str]) -> str:
    """Write the weights of a contrast beside the names of their columns."""
    return ", ".join(f"{w:+g} {name}" for w, name in zip(row, columns, strict=True) if w)


@contextmanager
def hushed() -> Iterator[None]:
    """Let the package say nothing: what it would say is about noise."""
    before, style = logger.level, STYLE.set("none")
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
        STYLE.reset(style)


def check_folder(folder: Path) -> None:
    """Refuse a folder for results that cannot be made or written to.

    Raises
    ------
    OSError
        What making it would raise.
    """
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not place.is_dir():
        code = errno.EEXIST if place == folder else errno.ENOTDIR
        raise OSError(code, os.strerror(code), str(folder))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def print_plan(rows: Sequence[Row], folder: Path, names: Sequence[str]) -> None:
    """Print the lines of a plan, and which files would be written."""
    print("dry run: only headers and the mask were read, and nothing was written")
    for about, words in rows:
        print(f"{about:<{WIDTH}}{words}")
    print(f"{'output':<{WIDTH}}{len(names)} files in {folder}")
    for name in names:
        replaced = "  (replaces a file)" if (folder / name).exists() else ""
        print(f"{'':<{WIDTH}}{name}{replaced}")


def time_row(seconds: float, beside: str) -> Row:
    """Say how long the run may take."""
    return "time", f"{in_words([seconds])} on this machine, by a trial on noise; {beside}"
