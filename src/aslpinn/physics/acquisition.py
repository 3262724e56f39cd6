"""What the scanner was told to do: labeling durations, delays, slice times.

The only place where t = tau + PLD is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .constants import Constants

if TYPE_CHECKING:
    from scipy.interpolate import BSpline

Float = NDArray[np.float64]


class AcquisitionError(InputError):
    """The timing of a series is impossible or contradicts itself."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """Timing of an ASL series, one entry a volume, and the constants that its signal depends on.

    Parameters
    ----------
    labeling_duration, post_labeling_delay : (T,) array
        tau and PLD in s of each volume, in the order of the volumes; a scalar serves all. Any order, repeats allowed.
    slice_offset : (S,) array, optional
        Time in s by which each slice is read later than the first; it lengthens that slice's PLD.
    slice_axis : int
        Array axis along which slices lie (2 for BIDS unless SliceEncodingDirection says otherwise).
    constants : Constants
        Relaxation times, partition coefficient, labeling efficiency.
    crushed : bool
        Vascular crushing takes the signal of arteries away.

    Raises
    ------
    AcquisitionError
        Where lengths differ, a value is negative, not finite, or too long to be in seconds.
    """

    labeling_duration: Float
    post_labeling_delay: Float
    slice_offset: Float | None = None
    slice_axis: int = 2
    constants: Constants = field(default_factory=Constants)
    crushed: bool = False

    def __init__(
        self,
        labeling_duration: ArrayLike,
        post_labeling_delay: ArrayLike,
        slice_offset: Sequence[float] | Float | None = None,
        slice_axis: int = 2,
        constants: Constants | None = None,
        crushed: bool = False,
    ) -> None:
        # Copies: they are made read-only below, and a caller's arrays stay the caller's.
        tau = np.atleast_1d(np.array(labeling_duration, dtype=float))
        pld = np.atleast_1d(np.array(post_labeling_delay, dtype=float))
        if tau.ndim > 1 or pld.ndim > 1:
            raise AcquisitionError(
                "labeling_duration and post_labeling_delay must be numbers or lists of numbers, in s"
            )
        if tau.size == 1:
            tau = np.full(pld.shape, tau[0])
        elif pld.size == 1:
            pld = np.full(tau.shape, pld[0])
        offset = None if slice_offset is None else np.array(slice_offset, dtype=float)
        _check(tau, pld, offset)
        if offset is not None and not np.any(offset):
            offset = None
        for name, value in (("labeling_duration", tau), ("post_labeling_delay", pld), ("slice_offset", offset)):
            if value is not None:
                value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "slice_axis", int(slice_axis))
        object.__setattr__(self, "constants", constants or Constants())
        object.__setattr__(self, "crushed", bool(crushed))

    def __len__(self) -> int:
        return int(self.post_labeling_delay.size)

    @property
    def time(self) -> Float:
        """t = tau + PLD in s: time of each volume's readout since its labeling began, slice offset not counted. (T,)"""
        return self.labeling_duration + self.post_labeling_delay

    def pld_at(self, voxels: NDArray[np.integer]) -> Float:
        """Effective PLD in s of voxels given by (N, 3) array indices: (N, T), or (1, T) where slices do not matter."""
        if self.slice_offset is None:
            return self.post_labeling_delay[None, :]
        slices = np.asarray(voxels)[:, self.slice_axis]
        if slices.size and slices.max() >= self.slice_offset.size:
            raise AcquisitionError(
                f"the volume has slice {int(slices.max())} but slice timing names {self.slice_offset.size} slices"
            )
        return self.post_labeling_delay[None, :] + self.slice_offset[slices][:, None]

    @cached_property
    def distinct(self) -> tuple[Acquisition, NDArray[np.intp]]:
        """The distinct (tau, PLD) pairs in order of first appearance, and for each volume the index of its pair."""
        pairs: dict[tuple[float, float], int] = {}
        index = np.array(
            [
                pairs.setdefault((round(tau, 6), round(pld, 6)), len(pairs))
                for tau, pld in zip(self.labeling_duration, self.post_labeling_delay, strict=True)
            ],
            dtype=np.intp,
        )
        first = [int(np.flatnonzero(index == k)[0]) for k in range(len(pairs))]
        return self.select(first), index

    @cached_property
    def repeats(self) -> NDArray[np.intp]:
        """How many volumes each distinct (tau, PLD) pair has. (D,)"""
        return np.bincount(self.distinct[1])

    def mean_over_repeats(self, volumes: ArrayLike, among: NDArray[np.integer] | None = None) -> NDArray[Any]:
        """Means of (..., T) values over the repeats of each distinct (tau, PLD) pair: (..., D), float32 of float32.

        among: numbers of the volumes that are averaged, T of them, each pair among them; by default all of the series.
        """
        values = np.asarray(volumes)
        pair = self.distinct[1] if among is None else self.distinct[1][among]
        if values.shape[-1:] != pair.shape:
            raise AcquisitionError(f"{values.shape[-1]} volumes are to be averaged; expected {len(pair)}, one a delay")
        shares = np.zeros((len(pair), len(self.repeats)), np.result_type(values, np.float32))
        shares[np.arange(len(pair)), pair] = 1.0 / np.bincount(pair, minlength=len(self.repeats))[pair]
        return values @ shares

    def select(self, volumes: Sequence[int] | NDArray[np.integer]) -> Acquisition:
        """The acquisition of some of the volumes, in the order given."""
        chosen = np.asarray(volumes, dtype=np.intp)
        return Acquisition(
            self.labeling_duration[chosen],
            self.post_labeling_delay[chosen],
            self.slice_offset,
            self.slice_axis,
            self.constants,
            self.crushed,
        )

    def with_constants(self, constants: Constants) -> Acquisition:
        """The same volumes with other constants."""
        timing = self.labeling_duration, self.post_labeling_delay
        return Acquisition(*timing, self.slice_offset, self.slice_axis, constants, self.crushed)

    @cached_property
    def _duration_spline(self) -> BSpline | None:
        """tau as a fifth-order spline of PLD (paper, appendix A.4); lower order with fewer than six delays."""
        pld, first = np.unique(self.post_labeling_delay, return_index=True)
        tau = self.labeling_duration[first]
        if np.ptp(tau) < 1e-9 or pld.size < 2:
            return None
        from scipy.interpolate import make_interp_spline  # as slow to import as all else together, and seldom needed

        return make_interp_spline(pld, tau, k=(min(5, pld.size - 1) - 1) | 1)  # odd, at most 5

    def duration_at(self, pld: ArrayLike) -> tuple[Float, Float]:
        """tau in s and d tau / d t at any PLD in s, from the fifth-order spline through the acquired pairs.

        With t = tau + PLD the slope along t is tau' / (1 + tau'), tau' the spline's derivative with PLD.
        """
        pld = np.asarray(pld, dtype=float)
        spline = self._duration_spline
        if spline is None:
            return np.full(pld.shape, self.labeling_duration[0]), np.zeros(pld.shape)
        slope = spline.derivative()(pld)
        return spline(pld), slope / (1.0 + slope)


def _check(tau: Float, pld: Float, offset: Float | None) -> None:
    if tau.size == 0:
        raise AcquisitionError("there is no volume: labeling_duration and post_labeling_delay are empty")
    if tau.size != pld.size:
        raise AcquisitionError(
            f"labeling_duration has {tau.size} entries, post_labeling_delay {pld.size}; expected one of each a volume"
        )
    for name, values in (("labeling_duration", tau), ("post_labeling_delay", pld), ("slice_offset", offset)):
        if values is None:
            continue
        if not np.all(np.isfinite(values)):
            raise AcquisitionError(f"{name} holds a value that is not a finite number; expected seconds")
        if np.any(values < 0):
            raise AcquisitionError(f"{name} holds {values.min():g}; expected seconds, 0 or more")
        if np.any(values > 20):
            raise AcquisitionError(f"{name} holds {values.max():g}; expected seconds (is it in milliseconds?)")
    if np.any(tau <= 0):
        raise AcquisitionError("labeling_duration holds 0; expected a positive duration in s for every label volume")
