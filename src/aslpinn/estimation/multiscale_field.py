"""What a fit of the multiscale field needs of a series, and what it finds; `multiscale_run` iterates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from ..fields.multiscale import MultiscaleField
from ..fields.threads import over_voxels, workers
from .grid import grid_search
from .guide import depth_features, guide_features, smooth_inside
from .kinetic_kernels import physics_of, sigma_point_sums
from .problem import Problem
from .regions import Region, RegionSearch

Floats = NDArray[np.float64]

CBF_UNIT = 20.0  # ml/100g/min in the field's unit, so that both fields are of order 1
TOLERANCE, SOLVER = 2e-3, 20  # of the conjugate gradients: fall of the residual, and most iterations
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
FREEDOMS = (3.0, 5.0, 8.0, 14.0, 30.0, 1e3)  # of Student's t; the last is as good as Gaussian
LOCAL = 5.0  # shortest voxel edges, SD of the Gaussian whose residual is called local contrast
START_KERNEL = 1.13  # shortest voxel edges, SD of the Gaussian before the grid search that starts the fit


@dataclass
class FieldFit:
    """Posterior of the field at N voxels.

    Attributes
    ----------
    cbf, att : (N,)
        Posterior mode in ml/100g/min and s.
    fitted : (N, D)
        Expected signal.
    covariance, precision : (3, N)
        cbf-cbf, cbf-att, att-att of the posterior (from the members), and of the data.
    reported : (2, N)
        Variances of CBF and ATT once the contrast is restored.
    member_errors : (K, 2, N)
        Estimates minus draws of CBF and ATT, once the contrast is restored.
    remainder : (2, N)
        Gradient of the log likelihood by CBF and ATT at the mode.
    noise_variance, freedom : float
        Of one volume, and Student's degrees of freedom.
    restore : (2,)
        Factors of the local contrast of CBF and ATT that give back what shrinkage took off it.
    prior_sd : (2,)
        SD of CBF and ATT over the brain in the learned model.
    guided : (N,)
        psi, the function of the guide, or of depth.
    region, found : Region or None
        The focal region that the field has, and the one that its search found.
    outside : (N,)
        Probability that a voxel is in no focal region.
    """

    cbf: Floats
    att: Floats
    fitted: Floats
    covariance: Floats
    reported: Floats
    member_errors: NDArray[np.float32]
    precision: Floats
    remainder: Floats
    noise_variance: float
    freedom: float
    restore: Floats
    prior_sd: Floats
    guided: NDArray[np.float32]
    region: Region | None
    outside: Floats
    found: Region | None
    variances: Floats
    coupling: float
    iterations: list[int]
    change: Floats = field(repr=False)


class FieldEstimator:
    """What stays the same between the passes of one fit: the field, the delays, the guide's features."""

    def __init__(
        self,
        problem: Problem,
        voxel_size: tuple[float, float, float],
        guide: NDArray[np.floating] | None,
        levels: int,
        seed: int,
        report: Callable[[str], None],
    ) -> None:
        self.problem, self.voxel_size, self.seed, self.report = problem, voxel_size, seed, report
        self.field = MultiscaleField(problem.mask, voxel_size, levels, workers())
        self.depth = guide is None
        if guide is None:
            self.features = depth_features(problem.mask, voxel_size)
        else:
            self.features = guide_features(guide, problem.mask, voxel_size)
        self.pld, row = np.unique(problem.pld.astype(np.float64), axis=0, return_inverse=True)
        n = len(problem.signal)
        self.row = np.zeros(n, np.int64) if len(problem.pld) == 1 else row.ravel().astype(np.int64)
        self.tau, self.count = problem.tau.astype(np.float64), problem.counts.astype(np.float64)
        self.tolerance, self.solver = TOLERANCE, SOLVER
        self.physics = physics_of(problem.acquisition.constants)
        self.search = RegionSearch(problem.mask, voxel_size, self.row, self.pld, self.tau, self.count, self.physics)

    def start(self) -> tuple[Floats, Floats]:
        """CBF and ATT (N,) of a grid search on smoothed signals."""
        problem, edge = self.problem, min(self.voxel_size)
        sigma = [START_KERNEL * edge / size for size in self.voxel_size]
        signal = np.stack([smooth_inside(volume, problem.mask, sigma) for volume in problem.signal.T], axis=1)
        found = grid_search(
            signal.astype(np.float32), problem.pld, problem.tau, problem.counts, problem.acquisition, 0.05, 0
        )
        return np.clip(found[0].astype(np.float64), 1.0, 150.0), np.clip(found[1].astype(np.float64), 0.1, 3.0)

    def local(self, maps: NDArray[np.floating]) -> Floats:
        """Maps (F, N) minus their smooth part: contrast between tissues, without that between regions."""
        sigma = [LOCAL * min(self.voxel_size) / size for size in self.voxel_size]
        return np.stack([values - smooth_inside(values, self.problem.mask, sigma) for values in maps])

    def covariance(self, errors: Sequence[NDArray[np.floating]], precision: NDArray[np.floating]) -> Floats:
        """Covariance (3, N) of members' errors, averaged with nearby voxels, for few members say little of one voxel.

        What is averaged is the ratio to the variance that the voxel's own data suggest, 1 / (precision + constant):
        variances differ between neighbors of different tissue as the precisions do.
        """
        sigma = [max(1.0, 4.0 / size) for size in self.voxel_size]
        mask = self.problem.mask
        squares: Floats = np.mean(
            np.array([[e[0] ** 2, e[0] * e[1], e[1] ** 2] for e in errors], np.float64), axis=0, keepdims=True
        )[0]
        plain = np.stack([smooth_inside(values, mask, sigma) for values in squares])
        correlation = np.clip(plain[1] / np.sqrt(np.maximum(plain[0] * plain[2], 1e-30)), -0.95, 0.95)
        variances = []
        for raw, own in ((squares[0], precision[0]), (squares[2], precision[2])):
            mean = max(float(np.mean(raw)), 1e-30)
            typical = 1.0 / (own + max(1.0 / mean - float(np.mean(own)), 1e-3 / mean))
            variances.append(np.maximum(typical * smooth_inside(raw / typical, mask, sigma), 1e-12))
        return np.stack([variances[0], correlation * np.sqrt(variances[0] * variances[1]), variances[1]])

    def linearize(self, y: Floats, cbf: Floats, att: Floats, att_sd: float) -> tuple[Floats, Floats]:
        """Expected signal (N, D) and weighted sums (N, 5) of `sigma_point_sums`."""
        fitted, sums = np.empty_like(y), np.empty((len(y), 5))
        over_voxels(
            sigma_point_sums, len(y), y, cbf, att, att_sd, self.row, self.pld, self.tau, self.count, self.physics,
            NODES, NODE_WEIGHTS, fitted, sums,
        )  # fmt: skip
        return fitted, sums


def student_weights(squares: Floats, effective: float, scale: float) -> tuple[Floats, float, float]:
    """Weights (N,), degrees of freedom and scale of Student's t for the voxels' sums of squares, by its likelihood.

    A voxel's residuals share one weight: an artery or motion spoils the voxel, not one sample. `effective` is the
    number of samples a voxel less what the fit used up. On Gaussian data the last of FREEDOMS wins and all
    weights are 1.
    """
    best = -math.inf
    found = np.ones_like(squares), FREEDOMS[-1], scale
    for freedom in FREEDOMS:
        here = max(scale, 1e-30)
        for _ in range(6):
            here = float(((freedom + effective) / (freedom + squares / here) * squares).mean()) / effective
        half = (freedom + effective) / 2
        likelihood = gammaln(half) - gammaln(freedom / 2) - effective / 2 * math.log(freedom * here)
        likelihood -= half * float(np.log1p(squares / here / freedom).mean())
        if likelihood > best:
            best = likelihood
            found = (freedom + effective) / (freedom + squares / here), freedom, here
    return found
