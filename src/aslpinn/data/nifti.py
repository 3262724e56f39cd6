"""NIfTI in, checked: whole to its last byte, float32 with scaling applied, a finite affine, a known grid in mm."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError

#: What nibabel raises where a file is damaged or no NIfTI.
UNREADABLE: tuple[type[Exception], ...] = (ImageFileError, HeaderDataError, ImageDataError, zlib.error)
UNREADABLE += (OSError, EOFError, ValueError, TypeError, KeyError, MemoryError, OverflowError)

#: Factor to mm of the units of length that a NIfTI header can name; an unnamed one is mm.
_TO_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
#: Voxel sides in mm that an image of a head (or of a mouse's) can have.
SHORTEST, LONGEST = 0.02, 100.0
#: Largest relative difference between pixdim and the affine's own voxel size that rounding explains.
PIXDIM_TOLERANCE = 0.05
#: Bytes of header extensions, and of what follows the image, that are read: more belongs to no image.
_EXTENSIONS, _TRAILING = 64 * 2**20, 2**20
_CHUNK = 2**22


@dataclass
class Image:
    """One NIfTI file: data (float32), affine (4, 4), voxel size in mm, header, path."""

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    voxel_size: tuple[float, float, float]
    header: Any
    path: Path


@dataclass(frozen=True)
class Stored:
    """The header of a NIfTI file, checked, before a voxel is read: its class, itself, its shape."""

    kind: Any
    header: Any
    shape: tuple[int, ...]


def read_image(
    path: Path, dimensions: tuple[int, ...], allow: Callable[[tuple[int, ...]], None] | None = None
) -> Image:
    """Read a NIfTI file whose number of dimensions is one of `dimensions`, to its end.

    A compressed file carries a checksum behind its last byte; a file of which one bit has changed is refused. Lengths
    in meters or micrometers become mm. `allow` is called with the shape before anything is unpacked, to refuse it.

    Raises
    ------
    InputError
        Where it is missing, truncated, damaged, not NIfTI, not of real numbers, of another shape, too large for this
        machine, or its affine or voxel size is unusable.
    """
    stored = read_header(path, dimensions)
    if allow is not None:
        allow(stored.shape)
    with _readable(path):
        size = int(np.prod(stored.shape, dtype=object)) * stored.header.get_data_dtype().itemsize
        end = int(stored.header.get_data_offset()) + size
        _require_memory(path, 4 * int(np.prod(stored.shape, dtype=object)) + size)
        if _compressed(path):
            image: Any = stored.kind.from_bytes(_unpacked(path, end))
        elif path.stat().st_size < end:
            raise InputError(
                f"{path}: cannot be read (it has {path.stat().st_size} bytes, its header asks for {end}); "
                "expected a whole NIfTI file"
            )
        else:
            image = stored.kind.from_filename(path)
        affine: NDArray[np.float64] = np.array(image.affine, dtype=np.float64)
        # A scaled value beyond float32 becomes inf, which the caller's finiteness checks then name.
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
        header = image.header
        if not np.all(np.isfinite(affine)) or not abs(np.linalg.det(affine[:3, :3])) > 0:
            raise InputError(
                f"{path}: its affine (sform/qform) is singular or not finite; expected a voxel-to-mm matrix"
            )
        sizes = _voxel_size(path, stored.header, affine)
        unit = stored.header.get_xyzt_units()[0]
        if _TO_MM[unit] != 1.0:
            affine[:3] *= _TO_MM[unit]
            header = header.copy()
            header.set_xyzt_units("mm", header.get_xyzt_units()[1])
    return Image(data, affine, sizes, header, path)


def read_header(path: Path, dimensions: tuple[int, ...]) -> Stored:
    """The header of a NIfTI file, without its voxels.

    Raises
    ------
    InputError
        Where it is missing, not NIfTI, not of real numbers or not of so many dimensions.
    """
    with _readable(path):
        if path.is_dir():
            raise InputError(f"{path}: is a folder; expected a NIfTI file (.nii or .nii.gz)")
        if not path.is_file():
            raise InputError(f"{path}: not found; expected a NIfTI file")
        with gzip.open(path) if _compressed(path) else open(path, "rb") as stream:
            start = stream.read(nib.Nifti2Header.sizeof_hdr)
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            if kind.header_class.may_contain_header(start) and path.name.lower().endswith((".nii", ".nii.gz")):
                break
        else:
            raise InputError(f"{path}: cannot be read (not a NIfTI header); expected a whole NIfTI file")
        size = kind.header_class.sizeof_hdr
        header: Any = kind.header_class.from_fileobj(io.BytesIO(start[:size]), check=False)
        if header["magic"].item().rstrip(b"\0") not in (b"n+1", b"n+2"):
            raise InputError(f"{path}: cannot be read (header and voxels in two files); expected one NIfTI file")
        if not (float(header["vox_offset"]) == 0 or size <= float(header["vox_offset"]) <= _EXTENSIONS):
            raise InputError(f"{path}: cannot be read (vox_offset is {header['vox_offset']}); expected a NIfTI file")
        shape, number = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
        if number.kind not in "iuf":
            raise InputError(f"{path}: holds values of type {number}; expected real numbers")
        if len(shape) not in dimensions or min(shape, default=0) < 1:
            expected = " or ".join(f"{n} dimensions" for n in dimensions)
            raise InputError(f"{path}: has shape {' x '.join(map(str, shape))}; expected {expected}, none of length 0")
        for name in ("scl_slope", "scl_inter"):
            if np.isinf(header[name]):
                raise InputError(f"{path}: {name} is {header[name]}; expected a finite number")
    return Stored(kind, header, shape)


def _compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What a damaged or foreign file makes nibabel raise, as an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise InputError(f"{path}: cannot be read ({reason}); expected a whole NIfTI file") from error


def _unpacked(path: Path, end: int) -> bytes:
    """Every byte of a gzip file, its checksum compared; refused where more follows than an image of `end` bytes has."""
    parts, total = [], 0
    with gzip.open(path) as stream:
        while part := stream.read(_CHUNK):
            total += len(part)
            if total > end + _TRAILING:
                raise InputError(f"{path}: unpacks to more than the {end} bytes of its header; expected a NIfTI file")
            parts.append(part)
    if total < end:
        raise InputError(
            f"{path}: cannot be read (it has {total} bytes, its header asks for {end}); expected a whole NIfTI file"
        )
    return b"".join(parts)


def _require_memory(path: Path, needed: int) -> None:
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return
    if needed > there:
        raise InputError(
            f"{path}: its header asks for {needed / 2**30:.0f} GiB, this machine has {there / 2**30:.0f}; "
            "expected an image that fits into memory"
        )


def _voxel_size(path: Path, header: Any, affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel sides in mm by pixdim, which has to agree with the affine."""
    said = [float(size) for size in header["pixdim"][1:4]]
    if not all(np.isfinite(size) and size > 0 for size in said):
        raise InputError(f"{path}: pixdim is {_numbers(said)}; expected positive voxel sizes in mm")
    real = np.linalg.norm(affine[:3, :3], axis=0)
    if np.any(np.abs(real / said - 1) > PIXDIM_TOLERANCE):
        raise InputError(
            f"{path}: pixdim is {_numbers(said)}, the affine (sform/qform) has voxels of {_numbers(real)}; expected "
            "the same size twice"
        )
    unit = header.get_xyzt_units()[0]
    sizes = [size * _TO_MM[unit] for size in said]
    if not all(SHORTEST <= size <= LONGEST for size in sizes):
        raise InputError(
            f"{path}: voxels are {_numbers(sizes)} mm by pixdim and xyzt_units ({unit}); "
            f"expected sides of {SHORTEST:g} to {LONGEST:g} mm (is it in meters?)"
        )
    return sizes[0], sizes[1], sizes[2]


def _numbers(values: Any) -> str:
    return " x ".join(f"{value:g}" for value in values)


def same_grid(image: Image, reference: Image) -> bool:
    """Whether an image lies on the grid of another: same shape, voxel positions within half a voxel."""
    return image.data.shape[:3] == reference.data.shape[:3] and _shift(image, reference) <= 0.5 * min(
        reference.voxel_size
    )


def _shift(image: Image, reference: Image) -> float:
    """How far in mm two grids of one shape lie apart at most."""
    shape = reference.data.shape[:3]
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm(((image.affine - reference.affine) @ corners)[:3], axis=0).max())


def require_same_grid(image: Image, reference: Image, what: str) -> None:
    """InputError unless an image lies on the grid of the series: same shape, voxel positions within half a voxel."""
    shape, expected = image.data.shape[:3], reference.data.shape[:3]
    if shape != expected:
        raise InputError(
            f"{image.path}: the {what} is {' x '.join(map(str, shape))} voxels; "
            f"expected {' x '.join(map(str, expected))}, the grid of {reference.path.name}"
        )
    if not same_grid(image, reference):
        raise InputError(
            f"{image.path}: the {what} lies up to {_shift(image, reference):.1f} mm away from {reference.path.name}; "
            f"expected the same affine (resample it to the series)"
        )


#: Most points along each axis of a voxel at which a finer image is read: their mean is that of the voxel.
FINE = 4


def averaged(
    values: NDArray[np.float32], found: Image, image: Image, to_found: Any = None, beyond: str = "constant"
) -> NDArray[np.float32]:
    """Mean of values on the grid of one image over each voxel of another, linear between the values.

    They are read at as many points along each axis of a voxel as the finer grid has there, at most FINE; at one, its
    center, where their grid is no finer. to_found: (4, 4), from points of `image` in world mm to those of `found`; by
    default they share the world. beyond: what values are outside their grid, "constant" (0) or "nearest".
    """
    matrix = np.linalg.inv(found.affine) @ (np.eye(4) if to_found is None else to_found) @ image.affine
    shape = image.data.shape[:3]
    total = np.zeros(shape, dtype=np.float64)
    count = np.clip(np.ceil(np.linalg.norm(matrix[:3, :3], axis=0) - 0.05).astype(int), 1, FINE)
    steps = [(np.arange(n) + 0.5) / n - 0.5 for n in count]
    for shift in np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3):
        offset = matrix[:3, :3] @ shift + matrix[:3, 3]
        total += ndimage.affine_transform(values, matrix[:3, :3], offset, output_shape=shape, order=1, mode=beyond)
    return (total / count.prod()).astype(np.float32)


def reached(found: Image, image: Image) -> NDArray[np.bool_]:
    """Voxels of an image whose centers lie inside the outermost voxels of another: (X, Y, Z)."""
    shape = image.data.shape[:3]
    centers = np.concatenate([np.indices(shape).reshape(3, -1), np.ones((1, int(np.prod(shape))))])
    at = (np.linalg.inv(found.affine) @ image.affine @ centers)[:3]
    last = np.array(found.data.shape[:3])[:, None] - 0.5
    return np.asarray(((at >= -0.5) & (at <= last)).all(axis=0).reshape(shape))
