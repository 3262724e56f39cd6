"""Every voxel's own word: it stays with the field, deviates from it, or has an artery passing, by evidence.

The field's prediction of a voxel from all the others (the cavity) is the prior of that voxel. How often voxels deviate,
how often an artery passes and how large aBV is are learned over the brain by expectation and maximization, so on data
that the field explains nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..physics import ATT_BOUNDS
from ..threads import over_voxels
from .mixture_kernels import explain_voxels
from .problem import Timing, chi2_quantile

Floats = NDArray[np.float64]

#: Variances of CBF and ATT that the scales of deviation add: none, moderate, anything physiological.
SCALES = np.array([[0.0, 0.0], [15.0**2, 0.15**2], [60.0**2, 0.6**2]])
ARRIVAL_STEP = 0.2  # s
SUBSET = 2500  # voxels that the frequencies are learned from
#: Quantiles of chi-square: below the first a voxel stays with the field without being looked at, above the second what
#: is found counts in full.
SCREEN = 0.6, 0.75
RARE = 0.01  # with "auto", arteries are left out of the model where they are rarer, and count in full from twice on


@dataclass(frozen=True)
class VoxelPrior:
    """What is expected of each of N voxels from the others alone: by a field, or by networks.

    mean and variance (N, 2): of CBF in ml/100g/min and ATT in s; fitted (N, D): the expected signal.
    """

    mean: Floats
    variance: Floats
    fitted: Floats


@dataclass
class Mixture:
    """Result for N voxels; the moments are those given that the voxel does not stay with the field.

    stay (N,): probability of the field; artery (N,): of an artery; cbf, att and their variances (N,); abv (N,) s and
    arterial (N, D) are expectations over everything, fitted (N, D) too. scale_share (K,), artery_share and abv_sd are
    what was learned over the brain.
    """

    stay: Floats
    artery: Floats
    cbf: Floats
    att: Floats
    cbf_variance: Floats
    att_variance: Floats
    abv: Floats
    arterial: Floats
    fitted: Floats
    scale_share: Floats
    artery_share: float
    abv_sd: float

    def mixed(self, *fields: Floats) -> list[Floats]:
        """Means (N,) over all explanations of CBF, and ATT, from those of the field."""
        return [
            self.stay * own + (1 - self.stay) * other for own, other in zip(fields, (self.cbf, self.att), strict=True)
        ]


class VoxelMixture:
    """The mixture on mean signals y (N, D); noise (N,) is the variance of one volume, `arterial` auto, on or off."""

    def __init__(self, timing: Timing, y: Floats, noise: Floats, prior: VoxelPrior, arterial: str, seed: int) -> None:
        self.timing, self.y, self.prior, self.arterial, self.seed = timing, y, prior, arterial, seed
        self.noise = noise
        latest = float((timing.pld + timing.tau).max())
        self.arrivals = np.arange(0.1, max(min(2.4, latest - 0.1), 0.2), ARRIVAL_STEP)
        self.scale_share = np.array([0.96, *[0.04 / (len(SCALES) - 1)] * (len(SCALES) - 1)])
        self.artery_share = 1e-9 if arterial == "off" else 0.02
        self.abv_sd = 0.01
        misfit = (timing.counts * (y - prior.fitted) ** 2).sum(axis=1) / noise
        low, high = (chi2_quantile(share, max(y.shape[1] - 1, 1)) for share in SCREEN)
        self.counts = np.clip((misfit - low) / (high - low), 0.0, 1.0)
        self.looked_at = np.flatnonzero(self.counts)

    def explain(self, chosen: NDArray[np.intp]) -> tuple[Floats, Floats, Floats, Floats]:
        """Moments, expected signal, its arterial part, and shares of the chosen voxels, as far as these count."""
        n, samples = len(chosen), self.y.shape[1]
        out = np.empty((n, 6)), np.empty((n, samples)), np.empty((n, samples)), np.empty((n, len(SCALES), 2))
        arrivals = self.arrivals if self.artery_share > 1e-6 else self.arrivals[:0]
        with np.errstate(divide="ignore"):
            log_artery = np.log([1.0 - self.artery_share, self.artery_share])
        over_voxels(
            explain_voxels, n, self.y[chosen], self.noise[chosen], self.prior.mean[chosen], self.prior.variance[chosen],
            self.timing.row[chosen], *self.timing[1:], np.array([ATT_BOUNDS[0], 3.5]), SCALES,
            np.log(self.scale_share), log_artery, arrivals, self.abv_sd, *out,
        )  # fmt: skip
        shares, counts = out[3], self.counts[chosen, None, None]
        shares *= counts
        shares[:, :1, :1] += 1 - counts
        return out

    def learn(self, rounds: int = 8) -> None:
        """Frequencies of the explanations and the SD of aBV, from a random part of the voxels that were looked at."""
        if not self.looked_at.size:
            self.scale_share, self.artery_share = np.array([1.0, *[1e-9] * (len(SCALES) - 1)]), 1e-9
            return
        # In an order that does not depend on which are looked at: one voxel more would else be another part.
        order = np.random.default_rng(self.seed).permutation(len(self.y))
        chosen = np.sort(order[self.counts[order] > 0][:SUBSET])
        share = self.looked_at.size / len(self.y)
        for done in range(rounds):
            moments, _, _, shares = self.explain(chosen)
            mean = shares.mean(axis=0) * share
            mean[0, 0] += 1 - share
            mean = np.maximum(mean, 1e-5)
            self.scale_share = mean.sum(axis=1) / mean.sum()
            if self.artery_share > 1e-6:
                self.artery_share = float(mean[:, 1].sum() / mean.sum())
                passing = shares[:, :, 1].sum(axis=1)
                if passing.sum() > 5:  # aBV where an artery passes, from its mean over all that is not the field
                    volume = moments[:, 4] * (1 - shares[:, 0, 0]) / np.maximum(passing, 1e-9)
                    self.abv_sd = float(np.clip(np.sqrt((passing * volume**2).sum() / passing.sum()), 0.002, 0.1))
            if done >= 2 and self.quiet:
                break
        if self.arterial == "auto":
            self.artery_share *= min(max(self.artery_share / RARE - 1.0, 1e-9), 1.0)

    @property
    def quiet(self) -> bool:
        """Whether almost all voxels stay with the field."""
        return self.scale_share[0] > 0.99 and self.artery_share < RARE

    def result(self) -> Mixture:
        """The mixture of all voxels with the frequencies as learned."""
        n, fitted = len(self.y), self.prior.fitted.copy()
        stay, passing, abv = np.ones(n), np.zeros(n), np.zeros(n)
        cbf, att = self.prior.mean.T.copy()
        cbf_variance, att_variance = np.zeros(n), np.zeros(n)
        arterial = np.zeros_like(self.y)
        if self.looked_at.size and not (self.quiet and self.artery_share < 1e-6):
            at = self.looked_at
            moments, signal, part, shares = self.explain(at)
            stay[at], passing[at] = shares[:, 0, 0], shares[:, :, 1].sum(axis=1)
            leave = 1 - stay[at]
            cbf[at], att[at], cbf_variance[at], att_variance[at] = moments[:, :4].T
            abv[at], arterial[at] = leave * moments[:, 4], leave[:, None] * part
            fitted[at] = stay[at, None] * fitted[at] + leave[:, None] * signal
        return Mixture(
            stay, passing, cbf, att, cbf_variance, att_variance, abv, arterial, fitted,
            self.scale_share, self.artery_share if self.artery_share > 1e-6 else 0.0, self.abv_sd,
        )  # fmt: skip
