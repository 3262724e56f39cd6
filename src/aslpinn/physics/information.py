"""How well CBF and ATT can be known at best: Fisher information of Buxton's signal, Cramer-Rao bound.

With independent Gaussian noise of SD sigma_k in sample k, F = sum_k g_k g_k' / sigma_k^2, g_k the gradient of the
signal with (CBF, ATT). No unbiased estimator has a smaller covariance than the inverse of F (Rao 1945; Cramer 1946;
for ASL see Xie et al. 2008, doi:10.1002/mrm.21549, and Woods et al. 2019, doi:10.1002/mrm.27580).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .constants import Constants
from .kinetics import DEFAULT, sensitivities

Float = NDArray[np.float64]


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
