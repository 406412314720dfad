"""NIfTI in and out: the only module that knows image files.

Above it there are volumes, ``(nx, ny, nz)`` arrays with an affine, and nothing of nibabel.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import nibabel as nib
import nibabel.processing
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gpustats.spaces import Grid

ImageLike: TypeAlias = str | os.PathLike[str] | SpatialImage
"""What can be read as an image: a path, or an image in memory."""

AFFINE_TOLERANCE = 1e-4
"""Affines that differ by less, relatively or in mm, describe the same grid."""

INFLATER: Any = zlib
with suppress(ImportError):
    from isal import isal_zlib as INFLATER  # noqa: N812
"""isal inflates what was not compressed at level 1 up to 1.6 times as fast as zlib."""

DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, zlib.error, INFLATER.error)
"""What reading a damaged file raises."""


@dataclass(frozen=True, eq=False)
class Volumes:
    """An opened image: its header is read and checked, its data are read volume by volume.

    Parameters
    ----------
    image
        The nibabel image, data untouched.
    name
        How messages call it: its path, or ``image 3`` for one in memory.
    path
        Where it is stored, None for an image in memory.
    """

    image: Any
    name: str
    path: Path | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one volume."""
        x, y, z = self.image.shape[:3]
        return x, y, z

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine from voxel indices to mm, ``(4, 4)``."""
        affine: NDArray[np.float64] = np.asarray(self.image.affine, dtype=np.float64)
        return affine

    @property
    def n_volumes(self) -> int:
        """Number of volumes: 1 for a 3D image."""
        return int(self.image.shape[3]) if len(self.image.shape) == 4 else 1

    def read(self, index: int = 0) -> NDArray[np.float32]:
        """Return volume ``index`` as float32 ``(nx, ny, nz)``, scaling applied, NaN kept.

        Volumes of a compressed 4D file are cheap in ascending order only.

        Raises
        ------
        ValueError
            If the file ends early or is damaged.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self.read_exactly(index).astype(np.float32, copy=False)

    def read_exactly(self, index: int = 0) -> NDArray[Any]:
        """Return volume ``index`` in the file's own floating type; otherwise as `read`."""
        try:
            return self._data(index)
        except DAMAGE as error:
            raise _damaged(self.name, str(error)) from error

    def _data(self, index: int) -> NDArray[Any]:
        """Return one volume, inflated by us where the checksum is to be seen."""
        if self.path is None or not _is_gzip(self.path) or not _is_single_file(self.image):
            whole = self.image.dataobj
            volume = whole[..., index] if self.n_volumes > 1 else whole
            return np.asarray(volume).reshape(self.shape, order="F")
        proxy = self.image.dataobj
        inflated: bytes | memoryview
        if self.n_volumes > 1:
            inflated, offset = self.stream.volume(index), 0
        else:
            inflated, offset = inflate(self.path.read_bytes(), _data_end(self.image)), proxy.offset
        stored: NDArray[Any] = np.ndarray(
            self.shape, proxy.dtype, buffer=inflated, offset=offset, order="F"
        )
        return np.asarray(apply_read_scaling(stored, proxy.slope, proxy.inter))

    @cached_property
    def stream(self) -> _Stream:
        """The volumes of a compressed 4D file."""
        n_bytes = self.image.dataobj.dtype.itemsize * math.prod(self.shape)
        return _Stream(Path(self.name), int(self.image.dataobj.offset), n_bytes, self.n_volumes)


class _Stream:
    """Inflate the volumes of a 4D file one after the other, down to the checksum."""

    def __init__(self, path: Path, offset: int, n_bytes: int, n_volumes: int) -> None:
        self.path = path
        self.offset = offset
        self.n_bytes = n_bytes
        self.n_volumes = n_volumes
        self.file: gzip.GzipFile | None = None

    def volume(self, index: int) -> bytes:
        """Return the bytes of a volume; going back starts anew."""
        if self.file is None:
            self.file = gzip.GzipFile(self.path)
        self.file.seek(self.offset + index * self.n_bytes)
        data = self.file.read(self.n_bytes)
        if len(data) < self.n_bytes:
            raise EOFError(f"volume {index + 1} is not whole")
        if index == self.n_volumes - 1:
            while self.file.read(1 << 20):  # the checksum is behind the last byte
                pass
            self.file.close()
            self.file = None
        return data


def open_image(source: ImageLike, name: str = "image") -> Volumes:
    """Open an image and check all that can be checked without reading its data.

    Parameters
    ----------
    source
        A path, or an image in memory.
    name
        How messages call an image in memory.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not NIfTI, ends early, is not 3D or 4D, or does not hold real numbers.
    TypeError
        If ``source`` is neither a path nor an image.
    """
    if isinstance(source, SpatialImage):
        path = None
        image: Any = source
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        name = str(path)
        image = _open_file(path)
    else:
        raise TypeError(f"an image must be a path or a NIfTI image, got {type(source).__name__}")
    if len(image.shape) not in (3, 4):
        raise ValueError(f"{name}: an image must be 3D or 4D, got shape {image.shape}")
    kind = image.get_data_dtype().kind
    if kind not in "biuf":
        raise ValueError(f"{name}: voxels must be real numbers, got {image.get_data_dtype()}")
    return Volumes(image, name, path)


def _open_file(path: Path) -> Any:
    """Load the header of a NIfTI file and check that the data are all there."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        image: Any = nib.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path}: not a readable NIfTI image ({error})") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise ValueError(f"{path}: must be NIfTI-1 or NIfTI-2, got {type(image).__name__}")
    if _is_single_file(image):
        _check_length(path, image)
    return image


def _is_gzip(path: Path) -> bool:
    """Tell a gzip file by its name, as nibabel does."""
    return path.suffix.lower() == ".gz"


def _is_single_file(image: Any) -> bool:
    """Tell a ``.nii`` from an ``.hdr``/``.img`` pair."""
    return isinstance(image, nib.Nifti1Image)


def _check_length(path: Path, image: Any) -> None:
    """Refuse a file that is shorter than its header says, without inflating healthy ones."""
    needed = _data_end(image)
    if not _is_gzip(path):
        if path.suffix.lower() == ".nii" and path.stat().st_size < needed:
            raise _damaged(str(path), f"{path.stat().st_size} bytes where {needed} are needed")
        return
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        announced = int.from_bytes(file.read(4), "little")
    # the trailer of a whole one-member file tells its length modulo 2^32;
    # anything else is rare (several members, padding, a cut) and inflated to see
    if announced != needed % 2**32:
        length = _inflated_length(path)
        if length < needed:
            raise _damaged(str(path), f"{length} bytes where {needed} are needed")


def _data_end(image: Any) -> int:
    """Return the length in bytes of an uncompressed single-file image."""
    itemsize = int(image.header["bitpix"]) // 8
    return int(image.dataobj.offset + itemsize * np.prod(image.shape, dtype=np.int64))


def _damaged(name: str, detail: str) -> ValueError:
    """Return the one error for a truncated or corrupt file."""
    return ValueError(f"{name}: the file is truncated or damaged ({detail}); copy it again")


def inflate(data: bytes, length: int, step: int = 1 << 16) -> memoryview:
    """Return the first bytes of what a gzip file holds, ``length`` of them.

    The members that hold them are inflated whole, outside the interpreter lock; raises one of
    `DAMAGE` if one ends early or its checksum is wrong.
    """
    inflated = np.empty(length, dtype=np.uint8).data
    filled, rest = 0, memoryview(data)
    while filled < length:
        member = INFLATER.decompressobj(wbits=31)
        while not member.eof:
            if not rest:
                raise EOFError("compressed data end early")
            # in pieces that stay in the cache, rather than in one large block of fresh memory
            piece = member.decompress(rest[:step])[: length - filled]
            inflated[filled : filled + len(piece)] = piece
            filled += len(piece)
            rest = rest[step:]
        rest = memoryview(member.unused_data + rest)
    return inflated


def _inflated_length(path: Path) -> int:
    """Return how many bytes the whole members of a gzip file yield, in constant memory."""
    length = whole = 0
    member = zlib.decompressobj(wbits=31)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                while chunk:
                    length += len(member.decompress(chunk))
                    chunk = member.unused_data.lstrip(b"\0")
                    if member.eof:
                        whole = length
                        member = zlib.decompressobj(wbits=31)
    except zlib.error:
        pass
    return whole


def is_image(source: object) -> bool:
    """Tell an image in memory from anything else."""
    return isinstance(source, SpatialImage)


def same_grid(
    shape: tuple[int, ...], affine: ArrayLike, other_shape: tuple[int, ...], other: ArrayLike
) -> bool:
    """Tell whether two images have one shape and, to 1e-4, one affine."""
    close = np.allclose(affine, other, rtol=AFFINE_TOLERANCE, atol=AFFINE_TOLERANCE)
    return tuple(shape) == tuple(other_shape) and bool(close)


def read_mask(source: Any) -> Grid:
    """Read a mask: every voxel that is finite and not zero is in.

    Parameters
    ----------
    source
        A path, an image, a `Grid`, or a fitted masker (anything with ``mask_img_``).

    Raises
    ------
    ValueError
        If the mask is empty or has more than one volume.
    """
    if isinstance(source, Grid):
        return source
    if hasattr(source, "mask_img") and not hasattr(source, "mask_img_"):
        raise ValueError(f"the mask is a {type(source).__name__} that was not fitted; fit it first")
    volumes = open_image(getattr(source, "mask_img_", source), "mask")
    if volumes.n_volumes != 1:
        raise ValueError(f"{volumes.name}: a mask must be 3D, got shape {volumes.image.shape}")
    data = volumes.read()
    grid = Grid(np.isfinite(data) & (data != 0), volumes.affine)
    if grid.n_voxels == 0:
        raise ValueError(f"{volumes.name}: the mask is empty; no voxel is finite and non-zero")
    return grid


def read_map(source: ImageLike, name: str = "stat_img") -> tuple[NDArray[np.float64], Any]:
    """Read one 3D map in float64, with its affine.

    Returns
    -------
    volume : ndarray
        A copy, ``(nx, ny, nz)``: changing it leaves the image as it was.
    affine : ndarray
        ``(4, 4)``.
    """
    volumes = open_image(source, name)
    if volumes.n_volumes != 1:
        raise ValueError(f"{volumes.name}: must be one 3D map, got shape {volumes.image.shape}")
    return volumes.read_exactly().astype(np.float64), volumes.affine  # astype copies


def resample(volume: NDArray[np.float32], affine: ArrayLike, target: Grid) -> NDArray[np.float32]:
    """Bring a volume onto another grid by linear interpolation.

    A voxel is NaN where it would need one that is missing or out of the field of view.
    """
    finite = np.isfinite(volume)
    moved = _moved(np.where(finite, volume, 0), affine, target)
    # a missing neighbour of weight 0 does no harm, which NaN arithmetic cannot tell
    known = _moved(finite.astype(np.float32), affine, target)
    return np.where(known > 1 - AFFINE_TOLERANCE, moved, np.float32(np.nan))


def _moved(volume: NDArray[Any], affine: ArrayLike, target: Grid) -> NDArray[np.float32]:
    """Interpolate on another grid; 0 outside the field of view."""
    image = nib.Nifti1Image(volume, np.asarray(affine))
    moved = nibabel.processing.resample_from_to(image, (target.mask.shape, target.affine), order=1)
    return np.asarray(moved.dataobj, dtype=np.float32)


def to_image(volume: ArrayLike, affine: ArrayLike, description: str = "") -> Any:
    """Make a NIfTI image of a volume, in its own dtype (bool and int64 become smaller integers)."""
    array = np.asarray(volume)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    elif array.dtype == np.int64:
        array = array.astype(np.int32)
    image = nib.Nifti1Image(array, np.asarray(affine))
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.header.set_xyzt_units("mm", "sec")
    return image


def unmask(values: ArrayLike, grid: Grid, description: str = "") -> Any:
    """Make a NIfTI image of voxel values ``(..., n_voxels)``; voxels outside the mask are 0."""
    return to_image(grid.unmask(values), grid.affine, description)


def save_image(image: Any, path: Path, dtype: DTypeLike | None = None) -> None:
    """Write an image whole or not at all.

    Parameters
    ----------
    image
        A NIfTI image.
    path
        Where to write, ``.nii`` or ``.nii.gz``.
    dtype
        The type on disk; that of the data if None.
    """
    with whole_file(path) as partial:
        if dtype is not None:
            image = nib.Nifti1Image(np.asarray(image.dataobj, dtype), image.affine, image.header)
            image.set_data_dtype(dtype)
        nib.save(image, partial)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to, and rename it to ``path`` when all went well."""
    partial = path.with_name(f".partial-{uuid4().hex[:8]}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
