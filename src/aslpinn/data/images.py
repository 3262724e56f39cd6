"""NIfTI in, checked: float32 with scaling applied, a finite affine, a known grid."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from numpy.typing import NDArray

from ..errors import InputError

#: What nibabel raises where a file is damaged or no NIfTI.
UNREADABLE: tuple[type[Exception], ...] = (ImageFileError, HeaderDataError, ImageDataError, zlib.error)
UNREADABLE += (OSError, EOFError, ValueError, TypeError, KeyError, MemoryError, OverflowError)


@dataclass
class Image:
    """One NIfTI file: data (float32), affine (4, 4), voxel size in mm, header, path."""

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    voxel_size: tuple[float, float, float]
    header: Any
    path: Path


def read_image(path: Path, dimensions: tuple[int, ...]) -> Image:
    """Read a NIfTI file whose number of dimensions is one of `dimensions`.

    Raises
    ------
    InputError
        Where it is missing, truncated, not NIfTI, not of real numbers, of another shape, or its affine is unusable.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected a NIfTI file (.nii or .nii.gz)")
    if not path.is_file():
        raise InputError(f"{path}: not found; expected a NIfTI file")
    try:
        image: Any = nib.load(path)
        shape, header = image.shape, image.header
        if image.get_data_dtype().kind not in "iuf":
            raise InputError(f"{path}: holds values of type {image.get_data_dtype()}; expected real numbers")
        if len(shape) not in dimensions or 0 in shape:
            expected = " or ".join(f"{n} dimensions" for n in dimensions)
            raise InputError(f"{path}: has shape {' x '.join(map(str, shape))}; expected {expected}, none of length 0")
        affine: NDArray[np.float64] = np.asarray(image.affine, dtype=np.float64)
        zooms = tuple(float(size) for size in header.get_zooms()[:3])
        # A scaled value beyond float32 becomes inf, which the caller's finiteness checks then name.
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    except InputError:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); expected a whole NIfTI file") from error
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: its affine (sform/qform) is singular or not finite; expected a voxel-to-mm matrix")
    if not all(np.isfinite(size) and size > 0 for size in zooms):
        raise InputError(f"{path}: pixdim is {zooms}; expected positive voxel sizes in mm")
    return Image(data, affine, (zooms[0], zooms[1], zooms[2]), header, path)


def require_same_grid(image: Image, reference: Image, what: str) -> None:
    """InputError unless an image lies on the grid of the series: same shape, voxel positions within half a voxel."""
    shape, expected = image.data.shape[:3], reference.data.shape[:3]
    if shape != expected:
        raise InputError(
            f"{image.path}: the {what} is {' x '.join(map(str, shape))} voxels; "
            f"expected {' x '.join(map(str, expected))}, the grid of {reference.path.name}"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in expected], [1], indexing="ij")).reshape(4, -1)
    shift = np.linalg.norm(((image.affine - reference.affine) @ corners)[:3], axis=0).max()
    if shift > 0.5 * min(reference.voxel_size):
        raise InputError(
            f"{image.path}: the {what} lies up to {shift:.1f} mm away from {reference.path.name}; "
            f"expected the same affine (resample it to the series)"
        )
