"""Gaussian smoothing of the series, then the grid: estimator "smoothed", the honest rival of every spatial prior."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..smoothing import own_weight, smooth_inside
from .estimate import Estimate
from .options import SmoothedOptions
from .problem import Floats, Problem, Request
from .voxelwise import fit_grid, grid_search

#: Standard deviations in mm among which leave-one-delay-out chooses.
KERNELS = (0.0, 1.2, 1.8, 2.4, 3.0, 3.6, 4.2, 5.0, 6.0)
TRIAL_VOXELS = 2000


def smooth(
    values: Floats, problem: Problem, kernel: float, voxel_size: tuple[float, float, float]
) -> tuple[Floats, Floats]:
    """Average (N, T) values over mask neighbors by a Gaussian of SD `kernel` mm; also each voxel's own weight (N,)."""
    if kernel == 0:
        return values, np.ones(values.shape[0], np.float32)
    sigma = [kernel / size for size in voxel_size]
    return smooth_inside(values, problem.mask, sigma), own_weight(problem.mask, sigma)


def held_out_error(problem: Problem, smoothed: Floats, own: Floats, chosen: NDArray[np.intp]) -> float:
    """RMSE with which a voxel's sample is predicted by the fit that has not seen it, over delays and chosen voxels.

    For each delay the voxel's own sample is taken out of the smoothed one, (smoothed - own y) / (1 - own), and what its
    neighbors leave counts 1 - own; without smoothing (own = 1) the delay drops out.
    """
    pld = problem.pld if problem.pld.shape[0] == 1 else problem.pld[chosen]
    here = replace(problem, pld=pld)
    measured, own = problem.signal[chosen], own[chosen, None]
    without = (smoothed[chosen] - own * measured) / np.maximum(1 - own, np.float32(1e-6))
    total = 0.0
    for left_out in range(problem.tau.size):
        signal, weights = smoothed[chosen].copy(), problem.counts.copy()
        signal[:, left_out] = without[:, left_out]
        weights[left_out] *= np.float32(max(0.0, 1 - float(own.mean())))
        cbf, att = grid_search(signal, pld, problem.tau, weights, problem.acquisition, 0.05, 0)
        error = np.square(here.model(cbf, att)[:, left_out] - measured[:, left_out]).mean()
        total += float(error) * float(problem.counts[left_out])
    return float(np.sqrt(total / problem.counts.sum()))


def choose_kernel(problem: Problem, request: Request, seed: int = 0) -> tuple[float, dict[str, float]]:
    """Kernel SD in mm with the smallest leave-one-delay-out error, and the error of each candidate.

    Raises
    ------
    InputError
        With two delays nothing can be left out.
    """
    if problem.tau.size < 3:
        raise InputError(
            "kernel is not given and the series has 2 distinct delays; leaving one out needs 3: give kernel"
        )
    rng = np.random.default_rng(seed)
    n = problem.signal.shape[0]
    chosen = np.sort(rng.choice(n, min(n, TRIAL_VOXELS), replace=False))
    errors: dict[str, float] = {}
    for k, kernel in enumerate(KERNELS):
        request.report(k, len(KERNELS) + 1, f"leave-one-delay-out, kernel {kernel:g} mm")
        smoothed, own = smooth(problem.signal, problem, kernel, request.voxel_size)
        errors[f"{kernel:g}"] = held_out_error(problem, smoothed, own, chosen)
    return float(min(errors, key=errors.__getitem__)), errors


def fit_smoothed(problem: Problem, request: Request, options: SmoothedOptions) -> Estimate:
    """Masked Gaussian smoothing of the series, then the voxelwise grid fit.

    The kernel is by default the one of KERNELS with the smallest leave-one-delay-out error, measured against the
    unsmoothed signals of at most 2,000 voxels.

    The SDs say how noise passes through smoothing and fit; the bias that smoothing adds is not in them.
    """
    began = time.perf_counter()
    errors: dict[str, float] = {}
    width, source = options.kernel, "given"
    if width is None:
        width, errors = choose_kernel(problem, request, options.seed)
        source = "leave-one-delay-out"
    smoothed = problem
    if width > 0:
        smoothed = replace(
            problem,
            signal=smooth(problem.signal, problem, width, request.voxel_size)[0],
            volumes=smooth(problem.volumes, problem, width, request.voxel_size)[0],
        )
    estimate = fit_grid(smoothed, request, name="smoothed")
    estimate.settings |= {"kernel": width, "kernel_source": source, "voxel_size": request.given_size}
    estimate.info["held_out_rmse"] = errors
    estimate.info["seconds"] = time.perf_counter() - began
    return estimate
