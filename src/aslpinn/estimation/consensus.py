"""CBF from one delay, by the formula of the ASL consensus paper: estimator "consensus".

One delay cannot tell less flow from later flow, so there is no ATT. The formula takes the label for arrived; how wrong
that makes CBF, over the ATT that a brain may have, is part of its SD.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ..physics import ATT_BOUNDS, Constants, delta_m, single_delay_cbf
from .estimate import Estimate
from .options import ConsensusOptions
from .problem import Floats, Problem, Request

FORMULA = (
    "CBF = 6000 dM/M0b exp(PLD/T1b) / (2 alpha T1b (1 - exp(-tau/T1b))) (Alsop et al. 2015, doi:10.1002/mrm.25197)"
)
NO_ATT = "one delay: less flow and later flow cannot be told apart, so there is no ATT"

#: Mean and SD in s of the ATT that a voxel may have. The mean is BASIL's for pCASL (Chappell et al. 2023); the SD is a
#: convention of this project, wider than what regions of ten healthy brains had, 1.4 +- 0.3 s (Wang et al. 2014,
#: doi:10.1002/nbm.3040), for patients' arrive later.
ASSUMED_ATT, ASSUMED_ATT_SD = 1.3, 0.4
TYPICAL_CBF = 50.0  # ml/100g/min at which the error by ATT is computed; it depends on CBF by T1' alone, which is little
NODES = 64  # of the ATT distribution


def fit_consensus(problem: Problem, request: Request, options: ConsensusOptions) -> Estimate:
    """CBF of a series of one (tau, PLD), slice times in the delays, and its SD; the ATT of the estimate is None.

    CBF may be negative where noise is. Its variance is that of the noise of the mean over repeats (of one volume alone
    from differences of neighboring voxels) and the mean square of the formula's error over ATT (`error_by_att`).
    """
    began = time.perf_counter()
    constants = problem.acquisition.constants
    per_signal = np.broadcast_to(
        single_delay_cbf(1.0, problem.pld[:, 0], problem.tau[0], constants), len(problem.voxels)
    )
    cbf = per_signal * problem.signal[:, 0]
    noise_sd, source = _noise(problem)
    error = np.broadcast_to(error_by_att(problem.pld[:, 0], float(problem.tau[0]), constants), cbf.shape)
    by_noise = np.broadcast_to(per_signal * noise_sd / np.sqrt(problem.counts[0]), cbf.shape)
    sd = np.sqrt(by_noise**2 + (error * cbf) ** 2)
    request.report(1, 1, "consensus done")
    info = {
        "no_att": NO_ATT,
        "noise_sd": noise_sd,
        "noise_from": source,
        "median_cbf_sd_by_noise": float(np.median(by_noise)),
        "median_relative_error_by_att": float(np.median(error)),
        "seconds": time.perf_counter() - began,
    }
    settings = {"formula": FORMULA, "assumed_att": ASSUMED_ATT, "assumed_att_sd": ASSUMED_ATT_SD}
    return Estimate(
        cbf=problem.volume(cbf),
        att=None,
        cbf_sd=problem.volume(sd) if np.isfinite(noise_sd) else None,
        att_sd=None,
        fitted=problem.volume(problem.signal),
        estimator="consensus",
        settings=settings,
        info=info,
    )


def error_by_att(pld: NDArray[np.floating], tau: float, constants: Constants) -> NDArray[np.float64]:
    """RMS error of the formula's CBF, as a share of that CBF, over ATT of `ASSUMED_ATT` and its SD, for each PLD in s.

    The formula is applied to Buxton's signal of normally distributed ATT. Its mean is part of the error: label that has
    arrived decays with T1 of tissue, not with that of blood, so that CBF by the formula is about a fifth too low at
    usual delays, and more where some has not arrived.
    """
    att = np.linspace(ASSUMED_ATT - 4 * ASSUMED_ATT_SD, ASSUMED_ATT + 4 * ASSUMED_ATT_SD, NODES)
    att = att[(att > ATT_BOUNDS[0]) & (att < ATT_BOUNDS[1])]
    weight = np.exp(-0.5 * ((att - ASSUMED_ATT) / ASSUMED_ATT_SD) ** 2)
    delays = np.asarray(pld, dtype=float)[:, None]
    signal = delta_m(TYPICAL_CBF, att, delays, tau, constants)
    share = single_delay_cbf(signal, delays, tau, constants) / TYPICAL_CBF
    mean_square: NDArray[np.float64] = ((share - 1.0) ** 2 @ weight) / weight.sum()
    return np.sqrt(mean_square) / np.maximum((share @ weight) / weight.sum(), 1e-3)


def _noise(problem: Problem) -> tuple[float, str]:
    """SD of one volume's noise, and what it is taken from."""
    if problem.counts[0] > 1:
        return problem.noise_sd(problem.signal, parameters=1), "repeats"
    volume: Floats = problem.volume(problem.signal[:, 0])
    inner = problem.mask[1:-1] & problem.mask[2:] & problem.mask[:-2]
    bent = (2 * volume[1:-1] - volume[2:] - volume[:-2])[inner] / np.sqrt(6.0)
    return (float(1.4826 * np.median(np.abs(bent))) if bent.size else float("nan")), "neighboring voxels"
