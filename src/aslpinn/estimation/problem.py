"""The inverse problem that every estimator is given: voxels, their mean signals, their delays.

Repeats of a (tau, PLD) pair are averaged, and the mean weighs as much as it has repeats; slice times are in the delays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv

from ..errors import InputError
from ..physics import Acquisition, delta_m
from ..physics.kinetics import Factors, factors
from .estimate import Estimate

Floats = NDArray[np.float32]
Progress = Callable[[int, int, str], None]

#: |delta-M / M0b| cannot exceed twice the labeling efficiency: a larger value was not divided by M0b.
LARGEST_SIGNAL = 2.0


def chi2_quantile(share: float, freedom: float) -> float:
    """The value below which a chi-square variable of so many degrees of freedom lies with probability `share`.

    That of scipy.stats, which takes as long to import as a small fit takes.
    """
    return float(2 * gammaincinv(freedom / 2, share))


def own_variance(mean: float, precision: NDArray[np.floating]) -> NDArray[np.float64]:
    """Variances (N,) of mean about `mean` that go with the precisions (N,) of the voxels' own data.

    That is 1 / (precision + constant): variances differ between neighbors of different tissue as precisions do.
    """
    return np.asarray(1.0 / (precision + max(1.0 / mean - float(np.mean(precision)), 1e-3 / mean)))


@dataclass(frozen=True)
class Request:
    """What goes with the data of a fit beside the estimator's options; an estimator uses what concerns it.

    given_size: voxel size in mm, where it was given; guide (X, Y, Z): an anatomical image;
    tissue (2, X, Y, Z): shares of gray and of white matter; apart: whether CBF of each is asked for.
    """

    given_size: tuple[float, float, float] | None = None
    guide: NDArray[Any] | None = None
    progress: Progress | None = None
    tissue: NDArray[Any] | None = None
    apart: bool = True

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel size in mm; InputError where none was given."""
        if self.given_size is None:
            raise InputError("voxel_size is not given; expected three lengths in mm")
        return self.given_size

    def report(self, done: int, total: int, message: str) -> None:
        """Tell the caller how far the work is, where the caller wants to know."""
        if self.progress is not None:
            self.progress(done, total, message)


class Timing(NamedTuple):
    """What the compiled loops need to know of D samples of N voxels.

    row (N,): each voxel's row of pld (R, D), the effective PLDs in s of the R different slice times; tau and counts
    (D,): labeling duration in s and repeats; physics: of the constants, as the loops take them.
    """

    row: NDArray[np.int64]
    pld: NDArray[np.float64]
    tau: NDArray[np.float64]
    counts: NDArray[np.float64]
    physics: Factors


@dataclass(frozen=True)
class Problem:
    """N voxels with D distinct (tau, PLD) pairs.

    Attributes
    ----------
    signal : (N, D) float32
        Mean delta-M / M0b over the repeats of each pair, in order of first appearance.
    counts : (D,) float32
        Repeats of each pair; the weight of its mean.
    pld : (1, D) or (N, D) float32
        Effective PLD in s, slice times added.
    tau : (D,) float32
        Labeling duration in s.
    voxels : (N, 3) int
        Array indices of the voxels.
    acquisition : Acquisition
        Of the D pairs.
    volumes : (N, T) float32
        The signals before averaging.
    pair : (T,) int
        Pair of each volume.
    """

    signal: Floats
    counts: Floats
    pld: Floats
    tau: Floats
    voxels: NDArray[np.intp]
    mask: NDArray[np.bool_]
    acquisition: Acquisition
    volumes: Floats = field(repr=False)
    pair: NDArray[np.intp] = field(repr=False)

    @property
    def timing(self) -> Timing:
        """Delays, durations, repeats and constants for compiled loops."""
        pld, row = np.unique(self.pld.astype(np.float64), axis=0, return_inverse=True)
        row = np.zeros(len(self.signal), np.int64) if len(self.pld) == 1 else row.ravel().astype(np.int64)
        tau, counts = self.tau.astype(np.float64), self.counts.astype(np.float64)
        return Timing(row, pld, tau, counts, factors(self.acquisition.constants))

    def model(self, cbf: Floats, att: Floats) -> Floats:
        """Buxton's signal of (N,) cbf and att at every voxel's own delays: (N, D)."""
        return delta_m(cbf[:, None], att[:, None], self.pld, self.tau, self.acquisition.constants)

    def noise_sd(self, fitted: Floats, parameters: float = 2) -> float:
        """Noise SD of one volume from the residuals of (N, D) fitted signals; NaN where no degree of freedom is left.

        The median over voxels of the residual sum of squares against its chi-square median: voxels that the model
        cannot follow (arteries, motion) do not raise it. `parameters` are the degrees of freedom used per voxel.
        """
        freedom = self.volumes.shape[1] - parameters
        if freedom <= 0:
            return float("nan")
        squares = np.square(self.volumes - fitted[:, self.pair]).sum(axis=1)
        return float(np.sqrt(np.median(squares) / chi2_quantile(0.5, freedom)))

    def volume(self, values: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
        """(N, ...) values put into an (X, Y, Z, ...) array, zero outside the mask."""
        out = np.zeros(self.mask.shape + values.shape[1:], dtype=dtype)
        out[tuple(self.voxels.T)] = values
        return out

    def estimate(
        self,
        name: str,
        cbf: Floats,
        att: Floats,
        cbf_sd: Floats | None = None,
        att_sd: Floats | None = None,
        settings: dict[str, Any] | None = None,
        info: dict[str, Any] | None = None,
    ) -> Estimate:
        """The Estimate of (N,) maps, with the signals that they fit."""
        return Estimate(
            cbf=self.volume(cbf),
            att=self.volume(att),
            cbf_sd=None if cbf_sd is None else self.volume(cbf_sd),
            att_sd=None if att_sd is None else self.volume(att_sd),
            fitted=self.volume(self.model(cbf, att)),
            estimator=name,
            settings=settings or {},
            info=info or {},
        )


def prepare(series: ArrayLike, mask: ArrayLike, acquisition: Acquisition) -> Problem:
    """Check a series, its mask and its timing against each other, and average the repeats.

    Raises
    ------
    InputError
        Shapes or counts that differ, an empty mask, values that are not finite or all zero inside the mask, or a series
        that was not divided by M0b or is label minus control.
    """
    values, inside = np.asarray(series), np.asarray(mask)
    _check_shapes(values, inside, acquisition)
    inside = inside > 0
    voxels = np.argwhere(inside)
    volumes = np.ascontiguousarray(values[inside], dtype=np.float32)
    _check_values(volumes, voxels)
    _check_sign(volumes.mean(axis=1))
    distinct, pair = acquisition.distinct
    return Problem(
        signal=acquisition.mean_over_repeats(volumes),
        counts=acquisition.repeats.astype(np.float32),
        pld=distinct.pld_at(voxels).astype(np.float32),
        tau=distinct.labeling_duration.astype(np.float32),
        voxels=voxels,
        mask=inside,
        acquisition=distinct,
        volumes=volumes,
        pair=pair,
    )


def _check_shapes(series: NDArray[Any], mask: NDArray[Any], acquisition: Acquisition) -> None:
    if series.ndim != 4:
        raise InputError(f"series has shape {series.shape}; expected (X, Y, Z, T)")
    if mask.shape != series.shape[:3]:
        raise InputError(f"mask has shape {mask.shape}; expected that of the series, {series.shape[:3]}")
    if series.shape[3] != len(acquisition):
        raise InputError(
            f"series has {series.shape[3]} volumes and the acquisition {len(acquisition)} delays; expected one a volume"
        )
    if not np.any(mask > 0):
        raise InputError(f"mask is empty: none of its {mask.size} voxels is above 0; expected a brain mask")


def _check_sign(mean: Floats) -> None:
    """InputError where the mean signals (N,) of voxels are negative, in most of them or in their mean beyond noise."""
    negative = float(np.mean(mean < 0))
    error = float(mean.std(dtype=np.float64)) / np.sqrt(mean.size)
    if negative > 0.9 or (negative > 0.55 and float(mean.mean(dtype=np.float64)) < -10.0 * error):
        raise InputError(
            f"the mean signal is negative in {100 * negative:.0f} % of the mask's voxels; expected control minus "
            "label: is label minus control given for control minus label?"
        )


def _check_values(volumes: Floats, voxels: NDArray[np.intp]) -> None:
    bad = ~np.isfinite(volumes)
    if bad.any():
        voxel, volume = np.argwhere(bad)[0]
        raise InputError(
            f"series holds {int(bad.sum())} values inside the mask that are not finite (first at voxel "
            f"{tuple(int(i) for i in voxels[voxel])}, volume {int(volume)}); expected numbers: correct them or the mask"
        )
    if not volumes.any():
        raise InputError("series is zero everywhere inside the mask; expected delta-M / M0b: check the series and mask")
    high = float(np.percentile(np.abs(volumes), 99.5))
    if high > LARGEST_SIGNAL:
        raise InputError(
            f"series reaches {high:.3g} inside the mask (99.5th percentile); expected delta-M as a fraction of M0b, "
            f"at most {LARGEST_SIGNAL:g} and usually about 0.01: divide it by M0b"
        )
