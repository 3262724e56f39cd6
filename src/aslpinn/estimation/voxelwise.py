"""Voxelwise least squares by a grid over ATT, with CBF in closed form: the start and the yardstick of the other fits.

At fixed T1' Buxton's signal is linear in CBF, so for every ATT of a grid the best CBF is a quotient of two
sums, and the fit has no local minimum to fall into. The best ATT is then refined by interval
halving, T1' following CBF.
"""

from __future__ import annotations

import time

import numpy as np

from ..physics import ATT_BOUNDS, CBF_BOUNDS, Acquisition, apparent_t1, delta_m, sensitivities
from .estimate import Estimate
from .problem import Floats, Problem, Request

GRID_STEP = 0.02  # s
TYPICAL_ATT = 1.2  # s
TYPICAL_CBF = 50.0  # ml/100g/min, for T1' on the grid; the refinement replaces it by the voxel's own
KINK = 0.02  # s
CHUNK = 4096  # voxels at a time: their scores on the whole grid fit in cache


def grid_search(
    signal: Floats,
    pld: Floats,
    tau: Floats,
    weights: Floats,
    acquisition: Acquisition,
    step: float = GRID_STEP,
    halvings: int = 5,
    att_weight: float = 0.0,
    tilt: float = 1e-5,
) -> tuple[Floats, Floats]:
    """Weighted least-squares CBF in ml/100g/min and ATT in s of each voxel, inside the physiological bounds.

    Parameters
    ----------
    signal : (N, D) array
        delta-M / M0b.
    pld : (1, D) or (N, D) array
        Effective PLD in s.
    tau, weights : (D,) array
        Labeling duration in s; weight of each pair (its repeats).
    step : float
        Spacing of the ATT grid in s.
    halvings : int
        Times that the interval around the best grid point is halved.
    att_weight : float
        Weight, in squared signal per s^2, of a penalty on a grid point's squared distance from TYPICAL_ATT.
    tilt : float
        Share by which the latest ATT of the grid counts as explaining more than the first, where fits are equal.

    Returns
    -------
    cbf, att : (N,) float32
        ATT is at most the second latest sample time: with label in a single sample it is not determined.
        Where no positive CBF fits, CBF is 0, and ATT, which the data then do not determine, the median of the others.
    """
    n = signal.shape[0]
    cbf = np.zeros(n, np.float32)
    att = np.zeros(n, np.float32)
    grid = np.arange(ATT_BOUNDS[0], ATT_BOUNDS[1] + step / 2, step).astype(np.float32)
    rows, group = np.unique(pld, axis=0, return_inverse=True)
    for k, row in enumerate(rows):
        members = np.arange(n) if pld.shape[0] == 1 else np.flatnonzero(group.ravel() == k)
        # With label in one sample only, a late ATT and a huge CBF fit its noise: at least two have to hold label.
        latest = max(np.sort(row + tau)[-2], grid[0])
        reachable = grid[grid <= latest]
        shape = _unit_signal(np.full(1, TYPICAL_CBF, np.float32), reachable[:, None], row, tau, acquisition)
        for start in range(0, members.size, CHUNK):
            chosen = members[start : start + CHUNK]
            best = _best_on_grid(signal[chosen], shape, weights, att_weight * (reachable - TYPICAL_ATT) ** 2, tilt)
            cbf[chosen], att[chosen] = _refine(
                signal[chosen], reachable[best], row, tau, weights, acquisition, step, halvings
            )
    found = cbf > 0
    att[~found] = np.median(att[found]) if found.any() else np.float32(np.mean(ATT_BOUNDS))
    return cbf, att


def _unit_signal(cbf: Floats, att: Floats, pld: Floats, tau: Floats, acquisition: Acquisition) -> Floats:
    """Signal of 1 ml/100g/min, with the T1' that belongs to cbf."""
    constants = acquisition.constants
    return delta_m(np.float32(1.0), att, pld, tau, constants, t1_apparent=apparent_t1(cbf, constants))


def _best_on_grid(signal: Floats, shape: Floats, weights: Floats, penalty: Floats, tilt: float) -> np.ndarray:
    """Index of the grid's ATT of smallest weighted sum of squares plus (G,) penalty, CBF inside its bounds."""
    power = (weights * shape**2).sum(axis=1)
    overlap = signal @ (weights * shape).T  # (n, G)
    cbf = np.clip(overlap / np.maximum(power, np.float32(1e-30)), *CBF_BOUNDS)
    explained = cbf * (2 * overlap - cbf * power)
    # Label that has all passed before the first readout leaves ATT and CBF undetermined: of equal fits, the latest ATT.
    explained *= 1 + np.float32(tilt) * np.linspace(0, 1, shape.shape[0], dtype=np.float32)
    return (explained - penalty).argmax(axis=1)


def _refine(
    signal: Floats,
    att: Floats,
    pld: Floats,
    tau: Floats,
    weights: Floats,
    acquisition: Acquisition,
    step: float,
    halvings: int,
) -> tuple[Floats, Floats]:
    """Interval halving around a grid ATT; CBF and T1' follow each other by fixed point (they differ by about 1 %)."""

    def profile(att: Floats, cbf: Floats) -> tuple[Floats, Floats]:
        shape = _unit_signal(cbf[:, None], att[:, None], pld, tau, acquisition)
        power = np.maximum(np.einsum("nd,nd,d->n", shape, shape, weights), np.float32(1e-30))
        overlap = np.einsum("nd,nd,d->n", signal, shape, weights)
        cbf = np.clip(overlap / power, *CBF_BOUNDS)
        return cbf * (2 * overlap - cbf * power), cbf

    cbf = np.full(att.shape, TYPICAL_CBF, np.float32)
    for _ in range(3):
        explained, cbf = profile(att, cbf)
    half = step / 2
    for _ in range(halvings):
        for move in (-half, half):
            trial = np.clip(att + np.float32(move), *ATT_BOUNDS)
            trial_explained, trial_cbf = profile(trial, cbf)
            better = trial_explained > explained
            att, cbf = np.where(better, trial, att), np.where(better, trial_cbf, cbf)
            explained = np.where(better, trial_explained, explained)
        half /= 2
    for _ in range(2):
        _, cbf = profile(att, cbf)
    return cbf, att


def gauss_newton_sd(problem: Problem, cbf: Floats, att: Floats, noise_sd: float) -> tuple[Floats, Floats]:
    """SD of CBF and ATT from the inverse of J'WJ / noise_sd^2, J the model's Jacobian around the fit.

    J is the mean of those KINK before and after ATT: fits often end where a sample falls on ATT, and slopes jump there.

    Where the data say nothing of a parameter, its SD is that of a uniform value between its bounds.
    """
    constants, pld, tau = problem.acquisition.constants, problem.pld, problem.tau
    beside = (att[:, None] + KINK * side for side in (-1, 1))
    by_cbf, by_att = np.mean([sensitivities(cbf[:, None], at, pld, tau, constants) for at in beside], axis=0)
    precision = (problem.counts / noise_sd**2).astype(np.float64)
    a = np.einsum("nd,nd,d->n", by_cbf, by_cbf, precision) + 12 / (CBF_BOUNDS[1] - CBF_BOUNDS[0]) ** 2
    b = np.einsum("nd,nd,d->n", by_cbf, by_att, precision)
    c = np.einsum("nd,nd,d->n", by_att, by_att, precision) + 12 / (ATT_BOUNDS[1] - ATT_BOUNDS[0]) ** 2
    determinant = a * c - b * b
    return np.sqrt(c / determinant).astype(np.float32), np.sqrt(a / determinant).astype(np.float32)


def fit_grid(
    problem: Problem, request: Request, *, grid_step: float = GRID_STEP, halvings: int = 5, name: str = "nlls"
) -> Estimate:
    """Least squares in every voxel by itself: ATT grid, CBF in closed form, SD from the Gauss-Newton Jacobian.

    The noise SD behind the SDs is one number for the series, from the residuals. The SD of ATT is local: near a sample
    time of a time-encoded series, where the signal has a kink, it is only a rough guide.
    """
    began = time.perf_counter()
    request.report(0, 1, f"grid fit of {problem.signal.shape[0]} voxels")
    cbf, att = grid_search(
        problem.signal, problem.pld, problem.tau, problem.counts, problem.acquisition, grid_step, halvings
    )
    noise_sd = problem.noise_sd(problem.model(cbf, att))
    cbf_sd, att_sd = gauss_newton_sd(problem, cbf, att, noise_sd) if noise_sd > 0 else (None, None)
    request.report(1, 1, "grid fit done")
    info = {
        "noise_sd": noise_sd,
        "zero_cbf_share": float(np.mean(cbf == 0)),
        "seconds": time.perf_counter() - began,
    }
    settings = {"grid_step": grid_step, "halvings": halvings}
    return problem.estimate(name, cbf, att, cbf_sd, att_sd, settings, info)
