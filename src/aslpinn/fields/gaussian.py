"""A multiresolution field that is linear in its weights: sums of Gaussian levels on the voxels of a mask.

Take a multiresolution grid encoding with a linear head. Every level interpolates independent weights at the vertices of
its grid; with Gaussian weights, and with the grid's origin averaged over, the field of a level is a stationary Gaussian
process whose covariance is that of the interpolating function. Here that function is a Gaussian, so a level has one
width, in mm, and one variance: how much of the map it may carry. A variance near 0 switches a level off, as fewer
levels of an encoding would; large variances at small widths are what a table with private rows for every
voxel is to a network. No level is chosen by hand: who fits the field learns the variances.

Because the field is linear and stationary, it is handled through the fast Fourier transform: a draw is white noise
times the square root of the spectrum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ..errors import InputError

Floats = NDArray[np.float32]
Fourier = NDArray[np.complex64]

LEVELS = 6  # Gaussian levels
RATIO = 1.72  # between the widths of neighboring levels
MARGIN = 13  # padding, in voxel edges: beyond it the transform's period does not tie opposite sides together


class GaussianLevels:
    """Levels, their spectra, and the transforms between N voxels and Fourier coefficients.

    Parameters
    ----------
    mask : (X, Y, Z) bool array
        Its N voxels carry the field.
    voxel_size : (3,) floats
        mm.
    levels : int
        Gaussian levels; the narrowest is as wide as the shortest voxel edge, the next ones RATIO times wider each.
        Before them come a constant and a level of independent voxels.
    threads : int
        Threads of the transforms; results do not depend on it.

    Raises
    ------
    InputError
        An empty mask, or no level.
    """

    def __init__(
        self, mask: NDArray[np.bool_], voxel_size: Sequence[float], levels: int = LEVELS, threads: int = 1
    ) -> None:
        if not mask.any():
            raise InputError("mask is empty; expected voxels that carry the field")
        if levels < 1:
            raise InputError(f"levels is {levels}; expected at least 1")
        edge = min(voxel_size)
        self.threads = threads
        self.widths = tuple(edge * RATIO**k for k in range(levels))  # mm
        occupied = np.nonzero(mask)
        first = [int(axis.min()) for axis in occupied]
        extent = [int(axis.max()) - start + 1 for axis, start in zip(occupied, first, strict=True)]
        padding = [max(2, round(MARGIN * edge / size)) for size in voxel_size]
        self.shape = tuple(fft.next_fast_len(n + more, True) for n, more in zip(extent, padding, strict=True))
        inside = [axis - start for axis, start in zip(occupied, first, strict=True)]
        self._index = np.ravel_multi_index(tuple(inside), self.shape)
        self.size = int(self._index.size)
        self.spectra = self._spectra(voxel_size)
        self.weight = np.full(self.spectra.shape[1:], 2, np.float32)  # each coefficient stands for its conjugate too
        self.weight[..., 0] = 1
        if self.shape[2] % 2 == 0:
            self.weight[..., -1] = 1

    def _spectra(self, voxel_size: Sequence[float]) -> Floats:
        """Spectrum of each level at variance 1, its covariance periodic on the padded grid: (levels + 2, *frequencies).

        A Gaussian is the product of one along each axis, and so is its transform.
        """

        widths = (np.inf, 1e-3 * min(voxel_size), *self.widths)
        return np.stack([self.gaussian([width / size for size in voxel_size]) for width in widths])

    def gaussian(self, widths: Sequence[float]) -> Floats:
        """Spectrum of a field of variance 1 with Gaussian covariance, widths (3,) in voxels: (*frequencies)."""

        def along(axis: int, width: float) -> NDArray[np.float64]:
            n = self.shape[axis]
            distance = np.minimum(np.arange(n), n - np.arange(n))
            covariance = np.exp(-(distance**2) / (2 * width**2))
            transform = fft.rfft(covariance) if axis == 2 else fft.fft(covariance)
            return np.maximum(transform.real, 0.0)

        x, y, z = (along(axis, width) for axis, width in enumerate(widths))
        spectrum: Floats = (x[:, None, None] * y[:, None] * z).astype(np.float32)
        return spectrum

    def spectrum(self, variances: NDArray[np.floating]) -> Floats:
        """Spectra of F fields from their (F, levels + 2) variances: (F, *frequencies)."""
        return np.tensordot(variances.astype(np.float32), self.spectra, (1, 0))

    def up(self, values: NDArray[np.floating]) -> Fourier:
        """Coefficients of (F, N) voxel values, zero outside the mask; the adjoint of `down`."""
        padded = np.zeros((len(values), int(np.prod(self.shape))), np.float32)
        padded[:, self._index] = values
        volumes = padded.reshape(-1, *self.shape)
        return fft.rfftn(volumes, axes=(1, 2, 3), norm="ortho", overwrite_x=True, workers=self.threads)

    def down(self, coefficients: Fourier) -> Floats:
        """(F, N) values at the voxels."""
        volumes = fft.irfftn(coefficients, self.shape, (1, 2, 3), norm="ortho", workers=self.threads)
        return volumes.reshape(len(coefficients), -1)[:, self._index]

    def white(self, rng: np.random.Generator, count: int) -> Fourier:
        """Coefficients of `count` fields of white noise; times the root of a spectrum they are draws of the field."""
        noise = rng.standard_normal((count, *self.shape), dtype=np.float32)
        return fft.rfftn(noise, axes=(1, 2, 3), norm="ortho", workers=self.threads)

    def inner(self, a: Fourier, b: Fourier) -> float:
        """Inner product of two sets of fields."""
        products: Any = a.real * b.real
        products += a.imag * b.imag
        return float(np.einsum("fxyz,xyz->", products, self.weight, dtype=np.float64, optimize=False))

    def power(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Power of (F, N) values in the band of each level: (F, levels + 2)."""
        coefficients = self.up(values)
        squares = (coefficients.real**2 + coefficients.imag**2) * self.weight
        flat = squares.reshape(len(values), -1).astype(np.float64)
        return flat @ self.spectra.reshape(len(self.spectra), -1).T.astype(np.float64)
