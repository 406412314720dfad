"""The stack: one map per subject, voxel by subject, in one array."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from gpustats import images
from gpustats.environment import n_cores
from gpustats.exchangeability import check_integer
from gpustats.images import ImageLike, Volumes
from gpustats.pairwise_stack import PairwiseStack
from gpustats.patterns import Patterns, find_patterns
from gpustats.progress import shown
from gpustats.spaces import Grid
from gpustats.stacking import Stack, logged, prefetch
from gpustats.subjects import repeated_labels

logger = logging.getLogger("gpustats")

Missing: TypeAlias = Literal["drop_voxel", "raise", "pairwise"]
FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Hold one map per subject, stacked.

    Parameters
    ----------
    values
        ``(n_voxels, n_subjects)`` float32, Fortran order (each subject's map is contiguous),
        in the units of the first level; finite, but where ``missing`` says otherwise.
    grid
        Which voxels these are.
    subjects
        Label of each subject, in the order of the columns, or None when they carry none.
    dropped
        How many voxels left the mask, by reason.
    missing
        Which subjects each voxel lacks, from ``find_patterns``; None if none lacks any.

    Raises
    ------
    ValueError
        If shape, type or layout of ``values`` is not the one above, or labels repeat.
    """

    values: NDArray[np.float32]
    grid: Grid
    subjects: tuple[str, ...] | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    missing: Patterns | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[0] != self.grid.n_voxels:
            raise ValueError(
                f"values must be (n_voxels, n_subjects) with {self.grid.n_voxels} voxels, "
                f"got shape {self.values.shape}"
            )
        if self.values.dtype != np.float32 or not self.values.flags.f_contiguous:
            raise ValueError("values must be float32 in Fortran order: np.asfortranarray them")
        if self.subjects is not None:
            check_labels(self.subjects, self.n_subjects, "maps")

    @property
    def n_voxels(self) -> int:
        """Number of voxels in the mask."""
        return int(self.values.shape[0])

    @property
    def n_subjects(self) -> int:
        """Number of maps."""
        return int(self.values.shape[1])

    def read(self, span: range) -> NDArray[np.float32]:
        """Return a block of voxels, ``(len(span), n_subjects)``; all of them are no copy."""
        return np.asfortranarray(self.values[span.start : span.stop])

    def blocks(self, size: int) -> Iterator[tuple[range, NDArray[np.float32]]]:
        """Yield all voxels block by block."""
        for first in range(0, self.n_voxels, size):
            span = range(first, min(first + size, self.n_voxels))
            yield span, self.read(span)

    def part(self, subjects: NDArray[np.intp], voxels: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the values of some voxels of some subjects, in Fortran order."""
        return self.values.T[np.ix_(subjects, voxels)].T

    def digest(self) -> str:
        """Return 16 hexadecimal digits that are equal for equal values."""
        return blake2b(self.values.T.data, digest_size=8).hexdigest()

    def subset(self, keep: NDArray[np.bool_], reason: str) -> Maps:
        """Return the maps without the voxels where ``keep``, ``(n_voxels,)``, is false."""
        dropped = {**self.dropped, reason: int(np.count_nonzero(~keep))}
        kept = np.flatnonzero(keep)
        values = np.empty((kept.size, self.n_subjects), dtype=np.float32, order="F")
        for subject in range(self.n_subjects):
            values[:, subject] = self.values[kept, subject]
        missing = None if self.missing is None else self.missing.subset(keep)
        return Maps(values, self.grid.subset(keep), self.subjects, dropped, missing)

    def without(self, keep: NDArray[np.bool_], reason: str, complaint: str) -> Maps:
        """Return the maps of the voxels that may stay, saying how many do not, and why.

        Raises
        ------
        ValueError
            With the complaint, if none may.
        """
        if keep.all():
            return self
        if not keep.any():
            raise ValueError(complaint)
        logged({reason: int(np.count_nonzero(~keep))})
        return self.subset(keep, reason)


def check_labels(labels: Sequence[str], n_expected: int, owner: str) -> None:
    """Refuse subject labels that repeat or do not number ``n_expected``."""
    if len(labels) != n_expected:
        raise ValueError(f"{len(labels)} subject labels for {n_expected} {owner}; one each, please")
    repeated = repeated_labels(labels)
    if repeated:
        raise ValueError(f"subject labels of the {owner} must be unique; repeated: {repeated}")


def load_maps(
    maps: ImageLike | Iterable[ImageLike],
    mask: Any = None,
    *,
    subjects: Sequence[str] | None = None,
    missing: Missing = "drop_voxel",
    min_subjects: int | None = None,
    zero_is_missing: bool = False,
    smoothing_fwhm: float | None = None,
    resample: bool = False,
) -> Maps:
    """Read one map per subject into a voxel-by-subject stack.

    Files are inflated on all cores; at no time is more held than the stack and a few volumes.

    Parameters
    ----------
    maps
        3D images (paths or in memory), or one 4D image with a volume per subject.
    mask
        A path, an image, a `Grid` or a fitted masker. Without one, the mask is made of the
        voxels that are finite in all maps and differ between some of them.
    subjects
        Label of each map. Without them, the BIDS ``sub-<label>`` entities of the file names,
        when every name has one and no two agree.
    missing
        What to do with voxels that are not finite in some map: ``"drop_voxel"`` takes them out
        of the mask and logs their number, ``"raise"`` refuses them, ``"pairwise"`` keeps them:
        a voxel is analysed in the subjects that have data there.
    min_subjects
        With ``"pairwise"``: how many subjects must have data at a voxel, 2 or more; by default half
        of them, rounded up. Other voxels leave the mask and are counted.
    zero_is_missing
        Whether a value of exactly 0 means "no data here".
    smoothing_fwhm
        Full width at half maximum of a Gaussian to smooth each map with, in mm. Missing voxels
        stay missing and take no part.
    resample
        Whether to bring images of another grid to that of the mask (or of the first map) by
        linear interpolation, rather than to refuse them.

    Returns
    -------
    Maps
        Values in float32, voxels that vary and are finite in every map, or in enough of them.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If there are fewer than two maps; a file is damaged, not NIfTI or of another grid; a map
        has no finite voxel in the mask; no voxel is left; or ``missing="raise"`` and one is.

    Examples
    --------
    >>> import nibabel as nib
    >>> noise = np.random.default_rng(0).standard_normal((4, 5, 6, 10), dtype=np.float32)
    >>> load_maps(nib.Nifti1Image(noise, np.eye(4))).values.shape
    (120, 10)
    """
    check_width(smoothing_fwhm)
    found = survey(
        maps,
        mask,
        subjects=subjects,
        missing=missing,
        min_subjects=min_subjects,
        resample=resample,
    )
    volumes, grid, all_rows = found.volumes, found.grid, found.has_mask
    stack = Stack(grid, len(volumes), all_rows=all_rows)
    if missing == "pairwise":
        stack = PairwiseStack(grid, len(volumes), found.min_subjects, all_rows=all_rows)
    cells = stack.cells if all_rows else None
    reader = Reader(grid, cells, zero_is_missing, smoothing_fwhm or 0.0)
    for values, (volume, index) in zip(_read_all(reader, volumes), volumes, strict=True):
        stack.add(values, volume.name)
        logger.debug("read %s, volume %d", volume.name, index + 1)
    dropped = stack.dropped(allow_missing=missing != "raise")
    values, grid = stack.finish()
    patterns = find_patterns(values) if missing == "pairwise" else None
    return Maps(values, grid, found.subjects, dropped, patterns)


@dataclass(frozen=True, eq=False)
class Survey:
    """Hold what the headers of maps, and a mask, tell before any map is read.

    Parameters
    ----------
    volumes
        The opened images, and which volume of each is a map.
    subjects
        Label of each map, if they are known.
    min_subjects
        How many subjects a voxel must have.
    grid
        The voxels of the mask; without one, all of the first map.
    has_mask
        Whether there is one.
    """

    volumes: list[tuple[Volumes, int]]
    subjects: tuple[str, ...] | None
    min_subjects: int
    grid: Grid
    has_mask: bool


def survey(
    maps: ImageLike | Iterable[ImageLike],
    mask: Any,
    *,
    subjects: Sequence[str] | None,
    missing: Missing,
    min_subjects: int | None,
    resample: bool,
) -> Survey:
    """Open what `load_maps` is to read, and check all that can be checked without reading it."""
    volumes = list(_open_all(maps))
    if len(volumes) < 2:
        raise ValueError(f"a group needs at least 2 maps, got {len(volumes)}")
    least = checked_minimum(missing, min_subjects, len(volumes))
    if subjects is None:
        subjects = file_labels(volume.path for volume, _ in volumes)
    labels = None if subjects is None else tuple(map(str, subjects))
    if labels is not None:
        check_labels(labels, len(volumes), "maps")
    first = volumes[0][0]
    target = images.read_mask(mask) if mask is not None else None
    grid = target or Grid(np.ones(first.shape, bool), first.affine)
    if not resample:
        check_grids([v for v, _ in volumes], grid, "the mask" if target else first.name)
    return Survey(volumes, labels, least, grid, target is not None)


def checked_minimum(missing: Missing, min_subjects: int | None, n_subjects: int) -> int:
    """Return how many subjects a voxel must have; refuse an unknown word or an unfit number."""
    if missing not in get_args(Missing):
        words = ", ".join(map(repr, get_args(Missing)))
        raise ValueError(f"missing must be one of {words}, got {missing!r}")
    if min_subjects is None:
        return max(2, -(-n_subjects // 2)) if missing == "pairwise" else n_subjects
    if missing != "pairwise":
        raise ValueError(f"min_subjects goes with missing='pairwise', got missing={missing!r}")
    check_integer("min_subjects", min_subjects, 2, n_subjects)
    return int(min_subjects)


def check_width(fwhm: object) -> None:
    """Refuse a width of smoothing that is none."""
    if fwhm is not None and not (isinstance(fwhm, int | float) and 0 <= fwhm < np.inf):
        raise ValueError(f"smoothing_fwhm must be a width in mm >= 0, got {fwhm!r}")


def _open_all(maps: ImageLike | Iterable[ImageLike]) -> Iterator[tuple[Volumes, int]]:
    """Open every image and yield each volume with its index, or say which image is wrong."""
    if isinstance(maps, str | os.PathLike) or images.is_image(maps):
        whole = images.open_image(maps)
        yield from ((whole, index) for index in range(whole.n_volumes))
        return
    sources = list(maps)
    for number, source in enumerate(sources):
        volumes = images.open_image(source, f"image {number + 1}")
        if volumes.n_volumes != 1 and len(sources) > 1:
            raise ValueError(
                f"{volumes.name}: images in a list must be 3D, got shape {volumes.image.shape}; "
                "give either 3D images or one 4D image"
            )
        yield from ((volumes, index) for index in range(volumes.n_volumes))


def file_labels(sources: Iterable[Any]) -> tuple[str, ...] | None:
    """Return the BIDS subjects of the paths if every path names one and none repeats."""
    found = [
        bids_subject(Path(source)) if isinstance(source, str | os.PathLike) else None
        for source in sources
    ]
    labels = tuple(label for label in found if label is not None)
    return labels if len(labels) == len(set(labels)) == len(found) else None


def bids_subject(path: Path) -> str | None:
    """Return the BIDS subject entity of a file name: ``sub-01`` of ``sub-01_con.nii.gz``."""
    entity = path.name.split("_")[0]
    return entity.split(".")[0] if entity.startswith("sub-") else None


def check_grids(volumes: Sequence[Volumes], grid: Grid, reference: str) -> None:
    """Refuse the first image that is not on the common grid, with both grids in the message."""
    for volume in volumes:
        if images.same_grid(volume.shape, volume.affine, grid.mask.shape, grid.affine):
            continue
        if volume.shape != grid.mask.shape:
            theirs, ours = f"shape {volume.shape}", f"shape {grid.mask.shape}"
        else:
            theirs, ours = (
                f"affine {a[:3].round(4).tolist()}" for a in (volume.affine, grid.affine)
            )
        raise ValueError(
            f"{volume.name}: {theirs} differs from {ours} of {reference}; all images must share "
            "one grid, or be aligned on request (resample=True, --resample)"
        )


@dataclass(frozen=True, eq=False)
class Reader:
    """Turn one volume of a file into the values of the candidate voxels, NaN where missing."""

    grid: Grid
    cells: NDArray[np.intp] | None
    zero_is_missing: bool
    smoothing_fwhm: float

    def __call__(self, item: tuple[Volumes, int]) -> NDArray[np.float32]:
        """Read, align, mark the missing, smooth; ``(n_candidates,)`` in memory order."""
        volumes, index = item
        volume = volumes.read(index)
        if not images.same_grid(
            volumes.shape, volumes.affine, self.grid.mask.shape, self.grid.affine
        ):
            volume = images.resample(volume, volumes.affine, self.grid)
        if self.zero_is_missing:
            volume = np.where(volume == 0, np.float32(np.nan), volume)
        if self.smoothing_fwhm > 0:
            volume = smooth(volume, self.smoothing_fwhm / self.grid.voxel_sizes_mm)
        values = volume.ravel(order="F")
        return values if self.cells is None else values.take(self.cells, mode="clip")


def smooth(volume: NDArray[np.float32], fwhm_voxels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Smooth a volume with a Gaussian; it is mirrored at the edges of its field, as in nilearn.

    Missing voxels stay missing; around them the weights of the others are renormalised, so that
    no missing value counts as 0.
    """
    finite = np.isfinite(volume)
    blurred = gaussian(np.where(finite, volume, 0), fwhm_voxels)
    if not finite.all():
        holes = gaussian((~finite).astype(np.float32), fwhm_voxels)
        blurred = np.where(finite, blurred / np.maximum(1 - holes, 1e-6), np.nan)
    return blurred.astype(np.float32, copy=False)


def gaussian(volume: NDArray[Any], fwhm_voxels: NDArray[np.float64]) -> NDArray[Any]:
    """Filter a volume with a Gaussian along each axis; widths are in voxels."""
    for axis, sigma in enumerate(fwhm_voxels / FWHM_PER_SIGMA):
        volume = gaussian_filter1d(volume, sigma, axis=axis)
    return volume


def _read_all(
    reader: Reader, volumes: Sequence[tuple[Volumes, int]]
) -> Iterator[NDArray[np.float32]]:
    """Read all volumes in order, on all cores where files can be read independently."""
    one_file = volumes[0][0].n_volumes > 1
    n_threads = 1 if one_file else n_cores()
    results = prefetch(reader, volumes, n_threads)
    yield from shown(results, "reading maps", len(volumes), "map")
