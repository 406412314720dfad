"""Making a store: image files become the shards of a cohort, and more join them later."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpustats import images
from gpustats.cohort import Cohort
from gpustats.cohort_header import Entry, Header, Reading, Skipped, commit, write_grid
from gpustats.cohort_layout import DType, checksum
from gpustats.cohort_places import find_place
from gpustats.cohort_plan import Source, Wanted, list_sources, plan
from gpustats.cohort_writer import Writer
from gpustats.environment import n_cores
from gpustats.images import ImageLike, Volumes
from gpustats.maps import Reader, check_grids, check_width
from gpustats.progress import shown
from gpustats.stacking import prefetch

Outcome: TypeAlias = tuple[NDArray[np.float32], Entry] | Exception
"""A map and what is known of it, or why it cannot be used."""


def stack_maps(
    maps: ImageLike | Iterable[ImageLike],
    mask: Any,
    path: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    append: bool = False,
    skip_bad: bool = False,
    dtype: DType = "float32",
    zero_is_missing: bool = False,
    resample: bool = False,
    smoothing_fwhm: float | None = None,
    subjects_per_shard: int | None = None,
) -> Cohort:
    """Stack the maps of a cohort on disk, voxel by subject, where memory would not hold them.

    Files are inflated on all cores; the memory is that of two shards, 256 MiB at most for usual
    masks, and a few volumes. When it is interrupted, even by ``kill -9``, the same call goes on
    where it stopped. Missing voxels are kept, as NaN: which voxels to use is for the analysis to
    decide.

    Parameters
    ----------
    maps
        3D images (paths or in memory), or one 4D image with a volume per subject.
    mask
        Which voxels to keep: a path, an image, a `Grid` or a fitted masker; None only where there
        is a store already, whose mask it then is.
    path
        Where the store is or is to be: a folder, or a URL such as ``s3://bucket/cohort.zarr``.
    subjects
        Label of each map. Without them, the BIDS ``sub-<label>`` entities of the file names,
        when every name has one and no two agree.
    append
        Whether to add subjects to the store. Files that it holds already are passed over.
    skip_bad
        Whether to leave out files that are missing, damaged, of another grid or without data,
        rather than to stop at the first. They are told in the log, by `Cohort.skipped`, and in
        ``<path>.skipped.tsv``.
    dtype
        ``"float32"``; or ``"int16"``, half the size: a value is rounded by at most 1/32767 of the
        largest one that the subjects of its shard have in the voxel, by 2/32767 if larger ones
        joined the shard later.
    zero_is_missing, resample, smoothing_fwhm
        As in `load_maps`.
    subjects_per_shard
        How many subjects share a file of the store; by default 8 to 128, and 128 MiB of float32.

    Returns
    -------
    Cohort
        The store, opened.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    FileExistsError
        If ``path`` holds something else.
    BlockingIOError
        If another process is writing to the store.
    OSError
        If the store cannot be written, for want of room for example.
    ValueError
        If an image cannot be used, the store is damaged, or it holds other subjects or was made
        with other options.
    ImportError
        If an optional package is missing.
    KeyboardInterrupt
        With a message on how much is done.

    Notes
    -----
    The store is a Zarr v3 group with the arrays ``values``, ``(n_subjects, n_voxels)``, and
    ``mask``; int16 has a codec of its own, which Zarr finds where gpustats is installed.

    Examples
    --------
    >>> import nibabel as nib
    >>> from gpustats import Grid
    >>> noise = np.random.default_rng(0).standard_normal((4, 5, 6, 10), dtype=np.float32)
    >>> everywhere = Grid(np.ones((4, 5, 6), bool), np.eye(4))
    >>> cohort = stack_maps(nib.Nifti1Image(noise, np.eye(4)), everywhere, "memory://cohort.zarr")
    >>> cohort.n_subjects, cohort.n_voxels
    (10, 120)
    """
    check_width(smoothing_fwhm)
    sources = list_sources(maps, subjects)
    grid = None if mask is None else images.read_mask(mask)
    reading = Reading(zero_is_missing, resample, smoothing_fwhm or None)
    wanted = Wanted(grid, dtype, reading, subjects_per_shard, append, skip_bad)
    place = find_place(path)
    plan(place, sources, wanted)  # what can be refused is refused before anything is written
    with place.exclusive():
        header, new = plan(place, sources, wanted)
        if not header.entries:
            write_grid(place, header.grid)
            commit(place, header)
        if new:
            fill(Writer(place, header), new, skip_bad=skip_bad)
    return Cohort.open(path)


def fill(writer: Writer, sources: Sequence[Source], *, skip_bad: bool) -> None:
    """Read maps on all cores, and add them to a store in their order.

    Raises
    ------
    OSError, ValueError
        That of the first map that cannot be read, unless bad ones are to be skipped; or if the
        store cannot be written.
    KeyboardInterrupt
        With a message, if one comes: ``interrupted; 256 of 1,000 maps are in cohort.zarr``.
    """
    n_all = len(writer.entries) + len(sources)
    one_file = any(isinstance(source.image, Volumes) for source in sources)
    outcomes = prefetch(MapReader(writer.stored), sources, 1 if one_file else n_cores())
    progress = shown(outcomes, "stacking maps", len(sources), "map")
    try:
        with writer:
            for source, outcome in zip(sources, progress, strict=True):
                if not isinstance(outcome, Exception):
                    writer.add(*outcome)
                elif skip_bad:
                    reason = " ".join(str(outcome).split())
                    writer.skip(Skipped(source.label, source.file, source.volume, reason))
                else:
                    raise outcome
    except KeyboardInterrupt as interruption:
        done = f"{len(writer.committed.entries):,} of {n_all:,} maps are in {writer.place.name}"
        raise type(interruption)(
            f"interrupted; {done}, and the same command goes on from there"
        ) from None


class MapReader:
    """Turn a source into a map and what is known of it.

    Parameters
    ----------
    header
        That of the store.
    """

    def __init__(self, header: Header) -> None:
        grid, reading = header.grid, header.reading
        # a map lies in memory x fastest, voxels are numbered z fastest
        cells = np.ravel_multi_index(np.nonzero(grid.mask), grid.mask.shape, order="F")
        self.grid = grid
        self.resample = reading.resample
        self.reader = Reader(grid, cells, reading.zero_is_missing, reading.smoothing_fwhm or 0.0)

    def __call__(self, source: Source) -> Outcome:
        """Read a map, or return why it cannot be read."""
        try:
            return self._read(source)
        except (OSError, ValueError) as error:
            return error

    def _read(self, source: Source) -> tuple[NDArray[np.float32], Entry]:
        """Read a map; errors name the file."""
        state = source.state()
        volumes = source.image
        if not isinstance(volumes, Volumes):
            volumes = images.open_image(volumes, source.name)
            if volumes.n_volumes != 1:
                raise ValueError(
                    f"{volumes.name}: images in a list must be 3D, got {volumes.image.shape}"
                )
        if not self.resample:
            check_grids([volumes], self.grid, "the mask")
        values = self.reader((volumes, source.volume))
        n_finite = count_finite(values)
        if n_finite == 0:
            raise ValueError(f"{source.name}: no finite voxel in the mask")
        crc = int.from_bytes(checksum(values), "little")
        return values, Entry(source.label, source.file, source.volume, *state, n_finite, crc)


def count_finite(values: NDArray[np.float32]) -> int:
    """Count the values that are finite; the sum tells quickly when all are."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return values.size
    return int(np.count_nonzero(np.isfinite(values)))
