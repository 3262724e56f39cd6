"""The paper's regularized nonlinear least squares: estimator "nlls".

In every voxel by itself: soft-L1 loss of the residuals in noise SDs, physiological bounds, a small penalty on the
departure of ATT from its start. The paper gives neither the start nor the weights: the start is an ATT grid here, and a
departure of 1 s costs as much as a residual of one noise SD (SciPy's loss acts on it too).

`fit_nlls` is a compiled projected Levenberg-Marquardt; `reference_voxel` states the same problem to SciPy, and a test
compares the two.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..physics import ATT_BOUNDS, CBF_BOUNDS, Acquisition, delta_m
from ..physics.kinetics import factors
from ..threads import over_voxels
from .estimate import Estimate
from .options import NllsOptions
from .problem import Floats, Problem, Request
from .voxelwise import fit_grid, gauss_newton_sd, grid_search

LOW = (CBF_BOUNDS[0], ATT_BOUNDS[0])
HIGH = (CBF_BOUNDS[1], ATT_BOUNDS[1])
SCALE = (50.0, 1.0)  # ml/100g/min and s: typical sizes, for SciPy's trust region


@dataclass(frozen=True)
class Start:
    """Where the minimization starts, and the noise SD that residuals are measured in."""

    cbf: Floats
    att: Floats
    noise_sd: float


def start_from_grid(
    problem: Problem, step: float = NllsOptions.grid_step, att_penalty: float = NllsOptions.att_penalty
) -> Start:
    """ATT grid with closed-form CBF, and the noise SD of one volume from the residuals of its best fit.

    Between grid points that fit about equally well the same penalty decides, on the distance from a typical ATT: late
    arrivals with an enormous CBF fit noise.
    """
    grid = (problem.signal, problem.pld, problem.tau, problem.counts, problem.acquisition, step, 0)
    noise_sd = problem.noise_sd(problem.model(*grid_search(*grid)))
    floor = 1e-3 * float(np.percentile(np.abs(problem.volumes), 99))  # noise-free data still need a unit of residuals
    noise_sd = max(noise_sd, floor) if np.isfinite(noise_sd) else 20 * floor
    cbf, att = grid_search(*grid, att_weight=(att_penalty * noise_sd) ** 2)
    return Start(cbf, att, noise_sd)


def fit_nlls(problem: Problem, request: Request, options: NllsOptions) -> Estimate:
    """Regularized robust least squares in every voxel by itself.

    With dispersion (`Constants.dispersion_sharpness`) it is the plain least squares of `voxelwise.fit_grid` instead.
    """
    att_penalty, grid_step = options.att_penalty, options.grid_step
    from . import nlls_kernels as kernels

    if problem.acquisition.constants.disperses:  # the compiled loop has Buxton's solution only
        return fit_grid(problem, request)
    began = time.perf_counter()
    n = problem.voxels.shape[0]
    request.report(0, 1, f"least squares in {n} voxels")
    start = start_from_grid(problem, grid_step, att_penalty)
    pld = problem.acquisition.pld_at(problem.voxels)[:, problem.pair]
    rows, row = np.unique(pld, axis=0, return_inverse=True)
    row = np.zeros(n, np.int64) if pld.shape[0] == 1 else row.ravel().astype(np.int64)
    x = np.clip(np.stack([start.cbf, start.att], axis=1).astype(np.float64), LOW, HIGH)
    cost, met = np.empty(n), np.zeros(n, np.bool_)
    tau = problem.acquisition.labeling_duration[problem.pair]
    data = (problem.volumes.astype(np.float64), row, rows, tau, 1.0 / start.noise_sd)
    rest = (factors(problem.acquisition.constants), np.array(LOW), np.array(HIGH), cost, met)
    over_voxels(kernels.fit_voxels, n, x, float(att_penalty), *data, *rest)
    cbf, att = x[:, 0].astype(np.float32), x[:, 1].astype(np.float32)
    noise_sd = problem.noise_sd(problem.model(cbf, att))
    cbf_sd, att_sd = gauss_newton_sd(problem, cbf, att, noise_sd) if noise_sd > 0 else (None, None)
    request.report(1, 1, "least squares done")
    at_bound = np.any((x <= LOW) | (x >= HIGH), axis=1)
    info = {
        "noise_sd": noise_sd,
        "mean_cost": float(cost.mean()),
        "not_converged_share": float(np.mean(~met)),
        "zero_cbf_share": float(np.mean(cbf == 0)),
        "at_bound_share": float(np.mean(at_bound)),
        "seconds": time.perf_counter() - began,
    }
    settings = {
        "att_penalty": att_penalty,
        "grid_step": grid_step,
        "loss": "soft_l1",
        "loss_scale_noise_sd": start.noise_sd,
        "cbf_bounds": CBF_BOUNDS,
        "att_bounds": ATT_BOUNDS,
    }
    return problem.estimate("nlls", cbf, att, cbf_sd, att_sd, settings, info)


def reference_voxel(
    volumes: NDArray[Any],
    pld: NDArray[Any],
    tau: NDArray[Any],
    acquisition: Acquisition,
    start: tuple[float, float],
    noise_sd: float,
    att_penalty: float = NllsOptions.att_penalty,
) -> tuple[NDArray[np.float64], float]:
    """(CBF, ATT) and cost of one voxel by scipy.optimize.least_squares: what `fit_nlls` solves, stated for SciPy.

    Parameters
    ----------
    volumes, pld, tau : (T,) array
        delta-M / M0b, effective PLD in s, labeling duration in s.
    start : (cbf, att)
        Start in ml/100g/min and s; its ATT is what the penalty refers to.
    noise_sd : float
        Noise SD of a volume.
    """
    from scipy.optimize import least_squares

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        misfit = (delta_m(x[0], x[1], pld, tau, acquisition.constants) - volumes) / noise_sd
        return np.append(misfit, att_penalty * (x[1] - start[1]))

    found = least_squares(
        residuals,
        np.clip(start, LOW, HIGH),
        jac="3-point",
        bounds=(LOW, HIGH),
        method="dogbox",
        loss="soft_l1",
        x_scale=SCALE,
    )
    return found.x, float(found.cost)
