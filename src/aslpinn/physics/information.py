"""How well CBF and ATT can be known at best: sensitivities of Buxton's signal, Fisher information, Cramer-Rao bound.

With independent Gaussian noise of SD sigma_k in sample k, F = sum_k g_k g_k' / sigma_k^2, g_k the gradient of the
signal with (CBF, ATT). No unbiased estimator has a smaller covariance than the inverse of F (Rao 1945; Cramer 1946;
for ASL see Xie et al. 2008, doi:10.1002/mrm.21549, and Woods et al. 2019, doi:10.1002/mrm.27580).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .constants import CBF_PER_FLOW, Constants
from .kinetics import DEFAULT, apparent_t1, delta_m

Float = NDArray[np.float64]


def sensitivities(
    cbf: ArrayLike, att: ArrayLike, pld: ArrayLike, tau: ArrayLike, constants: Constants = DEFAULT
) -> tuple[Float, Float]:
    """Derivatives of Buxton's delta-M / M0b with CBF, in 1/(ml/100g/min), and with ATT, in 1/s; T1' follows CBF.

    All four arguments broadcast; ml/100g/min and s. Where a sample falls on ATT or ATT + tau, at a kink of the signal,
    the derivative is that of the earlier phase.
    """
    flow, arrival, delay, duration = (np.asarray(v, dtype=float) for v in (cbf, att, pld, tau))
    if constants.disperses:  # no kinks: central differences serve
        step = 1e-4
        more, less = (delta_m(flow + d, arrival, delay, duration, constants) for d in (step, -step))
        later, earlier = (delta_m(flow, arrival + d, delay, duration, constants) for d in (step, -step))
        return (more - less) / (2 * step), (later - earlier) / (2 * step)
    t1 = np.asarray(apparent_t1(flow, constants), dtype=float)
    since_arrival = delay + duration - arrival
    inflow = np.clip(since_arrival, 0.0, duration)
    outflow = np.clip(since_arrival - duration, 0.0, None)
    left = np.exp(-outflow / t1)
    height = 2.0 * constants.efficiency / CBF_PER_FLOW * t1 * np.exp(-arrival / constants.t1_blood)  # K / CBF
    unit = height * (1.0 - np.exp(-inflow / t1)) * left  # signal / CBF
    # T1' shortens as flow grows: d T1'/d CBF = -T1'^2 / (6000 lambda)
    by_t1 = unit / t1 - height * left * np.exp(-inflow / t1) * inflow / t1**2 + unit * outflow / t1**2
    by_cbf = unit - flow * by_t1 * t1**2 / (CBF_PER_FLOW * constants.partition_coefficient)
    arriving = (since_arrival > 0) & (outflow <= 0)
    slope = np.where(arriving, -height / t1 * np.exp(-inflow / t1), np.where(outflow > 0, unit / t1, 0.0))
    by_att = flow * (slope - unit / constants.t1_blood)
    by_cbf, by_att = np.broadcast_arrays(by_cbf, by_att)
    return by_cbf, by_att


def fisher_information(
    cbf: ArrayLike,
    att: ArrayLike,
    pld: ArrayLike,
    tau: ArrayLike,
    noise_sd: ArrayLike,
    constants: Constants = DEFAULT,
) -> Float:
    """Fisher information of (CBF, ATT) in a series.

    Parameters
    ----------
    cbf, att : (...) array
        ml/100g/min and s; they broadcast.
    pld, tau, noise_sd : (T,) array or number
        s, s, and the SD of each sample in units of delta-M / M0b.

    Returns
    -------
    (..., 2, 2) array
        Rows and columns CBF, ATT.
    """
    given = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (pld, tau, noise_sd))
    delay, duration, sd = np.broadcast_arrays(*given)
    by_cbf, by_att = sensitivities(
        np.asarray(cbf, dtype=float)[..., None], np.asarray(att, dtype=float)[..., None], delay, duration, constants
    )
    gradient = np.stack([by_cbf, by_att], axis=-1) / sd[:, None]
    return np.swapaxes(gradient, -1, -2) @ gradient


def cramer_rao(
    cbf: ArrayLike,
    att: ArrayLike,
    pld: ArrayLike,
    tau: ArrayLike,
    noise_sd: ArrayLike,
    constants: Constants = DEFAULT,
) -> tuple[Float, Float]:
    """Smallest SDs of CBF (ml/100g/min) and ATT (s) that an unbiased estimate from one voxel can have, each (...).

    Infinite where the samples cannot tell the two apart. Arguments as in `fisher_information`. The bound is local:
    where noise is large, an estimate may jump to a distant (CBF, ATT) that fits as well, and its SD is then larger.
    """
    information = fisher_information(cbf, att, pld, tau, noise_sd, constants)
    a, b, c = information[..., 0, 0], information[..., 0, 1], information[..., 1, 1]
    determinant = a * c - b * b
    singular = determinant <= 1e-10 * a * c
    safe = np.where(singular, 1.0, determinant)
    cbf_sd = np.where(singular, np.inf, np.sqrt(np.where(singular, 1.0, c) / safe))
    att_sd = np.where(singular, np.inf, np.sqrt(np.where(singular, 1.0, a) / safe))
    return cbf_sd, att_sd
