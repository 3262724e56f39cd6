"""How much of P's slope a smooth curve through the samples has, without the physics acting back on it.

An interpolant takes the place of f_tissue in the pointwise loss: the chapter on losses and a test use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from ..physics import Acquisition, delta_m, delta_m_rate

Float = NDArray[np.float64]


def interpolate(cbf: float, att: float, acquisition: Acquisition, interpolator: Callable[..., Any]) -> Any:
    """Interpolant in t = tau + PLD through Buxton's noise-free samples of one voxel; has .derivative()."""
    order = np.argsort(acquisition.time)
    signal = delta_m(cbf, att, acquisition.post_labeling_delay, acquisition.labeling_duration, acquisition.constants)
    return interpolator(acquisition.time[order], signal[order])


def match_slope(
    cbf: float,
    att: float,
    acquisition: Acquisition,
    collocation: int,
    rng: np.random.Generator,
    interpolator: Callable[..., Any] = PchipInterpolator,
) -> tuple[float, float]:
    """CBF and ATT whose P matches the slope of an interpolant through a voxel's noise-free samples best.

    The slope is compared at the acquired times and at `collocation` random delays, as in the paper's loss. ATT is
    searched on a grid of 0.01 s, CBF is linear at the voxel's own T1'. Without bias the truth would come back.
    """
    pld = acquisition.post_labeling_delay
    drawn = rng.uniform(pld.min(), pld.max(), collocation)
    tau_drawn, slope_drawn = acquisition.duration_at(drawn)
    every_pld, every_tau = np.r_[pld, drawn], np.r_[acquisition.labeling_duration, tau_drawn]
    slope = np.r_[acquisition.duration_at(pld)[1], slope_drawn]
    rate = interpolate(cbf, att, acquisition, interpolator).derivative()(every_pld + every_tau)
    grid = np.arange(0.3, 2.8, 0.01)
    unit = delta_m_rate(cbf, grid[:, None], every_pld, every_tau, slope, acquisition.constants) / cbf
    overlap, power = unit @ rate, np.maximum((unit**2).sum(axis=1), 1e-30)
    best = int(np.argmax(np.maximum(overlap, 0) ** 2 / power))
    return float(overlap[best] / power[best]), float(grid[best])
