"""Analytic variational Bayes as BASIL does it: estimators "vb" (voxelwise) and "svb" (spatial prior).

Chappell et al., IEEE Trans Signal Process 2009 (doi:10.1109/TSP.2008.2005752), with the priors, noise model, update
order and stopping rule of fabber_asl, so that the maps can be compared with BASIL's:

- perfusion has a flat prior, ATT the prior N(1.0 s, (1.0 s)^2); f inside T1' is held at 0.01 / s;
- one noise precision a voxel, prior Gamma(1e6, 1e-6) on data multiplied by 1e4;
- negative perfusion or ATT count as 0 in the model, so both can end below 0; ATT beyond the last sample
  less 0.2 s counts as that.

"svb" goes on from "vb" with a Markov random field over face neighbors on perfusion (fabber's prior type M, Penny et al.
2005), whose strength is estimated along the way.

The start matters: with short sub-boli only about one sample has a slope in ATT, and a single start stays in the
interval between samples where it began. The default start is an ATT grid; vb_start="prior" is BASIL's own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from ..errors import FitError, InputError
from ..physics import CBF_PER_FLOW
from ..threads import over_voxels
from .estimate import Estimate
from .options import SvbOptions, VbOptions
from .problem import Problem, Request

SCALE = 1e4  # data are multiplied by it, so that the noise prior's 1e-6 is small against their squares
FLOW_INSIDE_T1 = 0.01  # 1/s
START_NOISE = (1e-8, 50.0)  # scale, shape: fabber's start of the noise posterior
GRID_STEP = 0.1  # s
TOLERANCE = 0.01  # of the free energy

Array = NDArray[np.float64]


@dataclass
class _State:
    """Tables of the model and the posterior of N voxels; see variational_kernels for the layout."""

    data: Array
    row: NDArray[np.int64]
    mean: Array
    precision: Array
    noise: Array
    tables: tuple[Any, ...]  # time, tau, rise, fall, T1', T1b, latest ATT
    prior: tuple[float, float]
    unit: float  # ml/100g/min of amplitude 1


def fit_vb(problem: Problem, request: Request, options: VbOptions) -> Estimate:
    """Variational Bayes in every voxel by itself. Raises FitError for a posterior that is not finite."""
    began = time.perf_counter()
    state, info = _voxelwise(problem, request, options)
    return _estimate("vb", problem, state, options, info, began)


def fit_svb(problem: Problem, request: Request, options: SvbOptions) -> Estimate:
    """Variational Bayes with a spatial prior, continued from "vb". Raises FitError as `fit_vb` does."""
    began = time.perf_counter()
    state, info = _voxelwise(problem, request, options)
    info |= _spatial(problem, request, state, options)
    return _estimate("svb", problem, state, options, info, began)


def _voxelwise(problem: Problem, request: Request, options: VbOptions) -> tuple[_State, dict[str, Any]]:
    att_prior, trials = options.att_prior, options.trials
    from . import variational_kernels as kernels

    n, samples = problem.volumes.shape
    request.report(0, 2, f"variational Bayes of {n} voxels")
    state = _prepare(problem, att_prior, options.att_prior_sd)
    if options.vb_start == "grid":
        last = float(problem.acquisition.time.max()) - 0.5  # a later ATT leaves label in the last sample alone
        grid = np.arange(GRID_STEP, max(last, GRID_STEP) + 1e-9, GRID_STEP)
        shapes = np.empty((len(state.tables[0]), grid.size, samples))
        over_voxels(kernels.grid_shapes, len(shapes), grid, *state.tables, shapes)
        start = (state.data, state.row, state.mean, state.noise, grid, shapes, state.prior)
        over_voxels(kernels.grid_start, n, *start)
    else:
        state.mean[:, 0], state.mean[:, 1] = state.data.max(axis=1), att_prior
        state.noise[:] = START_NOISE
    energy, passes = np.empty(n), np.empty(n, np.int64)
    digamma_c = float(digamma(0.5 * (samples - 1) + kernels.NOISE_SHAPE))
    posterior = (state.data, state.row, state.mean, state.precision, state.noise)
    rest = (*state.tables, state.prior, digamma_c, trials, TOLERANCE, energy, passes)
    over_voxels(kernels.fit_voxels, n, *posterior, *rest)
    request.report(1, 2, "voxelwise updates done")
    return state, {"mean_passes": float(passes.mean()), "most_passes": int(passes.max())}


def _prepare(problem: Problem, att_prior: float, att_prior_sd: float) -> _State:
    """Data in the order that fabber sweeps (x fastest), and the tables of every distinct slice delay."""
    constants = problem.acquisition.constants
    t1 = 1.0 / (1.0 / constants.t1_tissue + FLOW_INSIDE_T1 / constants.partition_coefficient)
    pld = problem.acquisition.pld_at(problem.voxels)[:, problem.pair]
    tau = problem.acquisition.labeling_duration[problem.pair]
    rows, row = np.unique(pld, axis=0, return_inverse=True)
    n = problem.voxels.shape[0]
    row = np.zeros(n, np.int64) if pld.shape[0] == 1 else row.ravel().astype(np.int64)
    latest = float(problem.acquisition.time.max()) - 0.2
    if latest <= GRID_STEP:
        raise InputError(
            f"the latest sample is {latest + 0.2:.3g} s after labeling began; expected more than {GRID_STEP + 0.2:g} s"
        )
    order = _sweep_order(problem)
    readout = rows + tau
    rise = np.exp(-readout / t1)
    fall = np.exp(-rows / t1) * (1.0 - np.exp(-tau / t1))
    return _State(
        data=np.ascontiguousarray(problem.volumes[order].astype(np.float64) * SCALE),
        row=np.ascontiguousarray(row[order]),
        mean=np.zeros((n, 2)),
        precision=np.tile([1.0, 0.0, 1.0], (n, 1)),
        noise=np.zeros((n, 2)),
        tables=(readout, np.ascontiguousarray(tau), rise, fall, t1, constants.t1_blood, latest),
        prior=(float(att_prior), 1.0 / float(att_prior_sd) ** 2),
        unit=CBF_PER_FLOW / (constants.efficiency * SCALE),
    )


def _sweep_order(problem: Problem) -> NDArray[np.intp]:
    return np.lexsort(problem.voxels.T)


def _neighbors(problem: Problem) -> NDArray[np.int64]:
    """Indices of the six face neighbors inside the mask, in the order of the sweep; -1 where there is none. (N, 6)"""
    voxels = problem.voxels[_sweep_order(problem)] + 1
    index = np.full(np.add(problem.mask.shape, 2), -1, np.int64)
    index[tuple(voxels.T)] = np.arange(len(voxels))
    steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    return np.stack([index[tuple((voxels + step).T)] for step in steps], axis=1)


def _spatial(problem: Problem, request: Request, state: _State, options: SvbOptions) -> dict[str, Any]:
    """Sweeps of the spatial prior, in place; returns its precisions, in the data's unit, at the end."""
    from . import variational_kernels as kernels

    neighbors = np.ascontiguousarray(_neighbors(problem))
    center, sums = np.zeros_like(state.mean), np.zeros((len(state.mean), 6))
    fields = np.array([1e-8, 1e-8 if options.prior_on == "both" else 0.0])
    posterior = (state.mean, state.precision, state.noise, center, sums)
    model = (state.data, state.row, *posterior, *state.tables)
    over_voxels(kernels.linearize_all, len(state.mean), False, *model)
    for sweep in range(options.sweeps):
        if sweep > 0:
            fields[0] = kernels.smoothness(state.mean, state.precision, neighbors, 0)
            if options.prior_on == "both":
                fields[1] = kernels.smoothness(state.mean, state.precision, neighbors, 1)
        kernels.sweep(*posterior, neighbors, fields, state.prior)
        over_voxels(kernels.linearize_all, len(state.mean), True, *model)
        request.report(options.sweeps + sweep + 1, 2 * options.sweeps, "spatial updates")
    return {"spatial_precision_cbf": float(fields[0] / state.unit**2), "spatial_precision_att": float(fields[1])}


def _estimate(
    name: str, problem: Problem, state: _State, options: VbOptions, info: dict[str, Any], began: float
) -> Estimate:
    from . import variational_kernels as kernels

    aa, cross, tt = state.precision.T
    determinant = aa * tt - cross**2
    values = {
        "cbf": state.mean[:, 0] * state.unit,
        "att": state.mean[:, 1],
        "cbf_sd": np.sqrt(tt / determinant) * state.unit,
        "att_sd": np.sqrt(aa / determinant),
    }
    bad = ~np.isfinite(np.sum([*values.values()], axis=0))
    if bad.any():
        raise FitError(f"{name}: the posterior of {int(bad.sum())} of {bad.size} voxels is not finite")
    first = [int(np.flatnonzero(problem.pair == k)[0]) for k in range(problem.signal.shape[1])]
    readout, tau, rise, fall, *rest = state.tables
    fitted = np.empty((len(state.mean), len(first)))
    cut = [np.ascontiguousarray(table[..., first]) for table in (readout, tau, rise, fall)]
    over_voxels(kernels.fitted_signal, len(fitted), state.mean, state.row, *cut, *rest, fitted)
    order = _sweep_order(problem)

    def volume(sorted_values: Array) -> NDArray[Any]:
        own = np.empty_like(sorted_values)
        own[order] = sorted_values
        return problem.volume(own)

    shape, scale = state.noise[:, 1], state.noise[:, 0]
    info |= {
        "noise_sd": float(np.median(1.0 / np.sqrt(shape * scale)) / SCALE),
        "seconds": time.perf_counter() - began,
    }
    return Estimate(
        **{key: volume(value) for key, value in values.items()},
        fitted=volume(fitted / SCALE),
        estimator=name,
        settings=options.as_dict() | {"tolerance": TOLERANCE, "data_scale": SCALE, "flow_inside_t1": FLOW_INSIDE_T1},
        info=info,
    )
