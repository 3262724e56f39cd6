"""Focal regions: where a stretch of brain is fed later or earlier than the field around it can say.

A stationary field has one variance a level for the whole brain. A stroke's territory with ATT +0.9 s is then many SDs
away from its surroundings, and the field draws it back towards them. So what the field leaves of the signals is
searched: for balls of voxels the likelihood of a common shift of ATT is set against no shift. One voxel says little,
fifty say it plainly. Where no ball exceeds what noise would reach in one brain of a hundred, there is no region, and
the fit is what it was. Where one does, its voxels are told from their neighbors by a Markov random field of two
classes, and the field is given levels of its own inside (`field.prior`).
"""

# mypy: allow-untyped-defs, disable-error-code="call-arg"

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, correlate1d, gaussian_filter, label
from scipy.special import expit

from ..physics import ATT_BOUNDS
from ..threads import over_voxels
from .kinetic_kernels import inflow, stored
from .problem import Timing

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SHIFTS = np.round(np.arange(-0.8, 1.41, 0.2), 1)  # s, of ATT; one of them is none
UNSHIFTED = int(np.argmin(np.abs(SHIFTS)))
RADII = (8.0, 12.0)  # mm, of the balls
FALSE_ALARM = 0.01  # probability of a region in a brain that has none, at most
REACH = 8.0  # mm, SD of the Gaussian that carries a ball's shift to the voxels around
OUTSIDE = (6.0, 12.0, 24.0, 48.0)  # mm, SDs of the Gaussians that carry the ATT around a region into it
SEEN = 0.15  # share of such a Gaussian that has to lie outside the region
FLOW = 6.0  # mm, SD of the Gaussian over which CBF is pooled within a class
COHESION = 0.7  # log odds that a face neighbor of the same class adds, at the shortest voxel edge
LEAST_CONTRAST = 0.4  # s, of a region's ATT with its surroundings; less than that the brain's own levels can carry
RIM = 2  # voxels around a region that are set to the ATT of its surroundings
ROUNDS, SWEEPS = 12, 3  # updates of CBF, and of the classes at each
TINY = 1e-12


@dataclass(frozen=True)
class Region:
    """A focal region in a mask of N voxels.

    Attributes
    ----------
    member : (N,)
        Probability that a voxel belongs to it; 0 outside the zone.
    zone : (N,) bool
        The voxels that were classified: balls with evidence and a rim.
    att : (N,)
        ATT in s inside the zone: that of the region and of its surroundings, weighed by `member`.
    evidence, threshold : float
        Largest log likelihood ratio of a ball, in nats, and what it had to exceed.
    """

    member: Floats
    zone: Bools
    att: Floats
    evidence: float
    threshold: float

    @property
    def voxels(self) -> int:
        """Voxels that more likely than not belong to it."""
        return int((self.member > 0.5).sum())


def outside_of(region: Region | None, size: int) -> Floats:
    """Probability (N,) of each of `size` voxels that it is in no focal region."""
    return np.ones(size) if region is None else 1.0 - region.member


class RegionSearch:
    """The search on one mask and one acquisition; it takes maps of CBF and ATT, whoever fitted them."""

    def __init__(self, mask: Bools, voxel_size: Sequence[float], timing: Timing) -> None:
        self.mask, self.voxel_size, self.timing = mask, tuple(voxel_size), timing
        self.count, self.size = timing.counts, int(mask.sum())
        reach = [math.floor(max(RADII) / edge) for edge in voxel_size]
        index = np.full(mask.shape, -1, np.int64)
        index[mask] = np.arange(self.size)
        self.index = np.pad(index, [(more, more) for more in reach], constant_values=-1)
        self.place = np.argwhere(mask) + reach

    def find(
        self, y: Floats, cbf: Floats, att: Floats, fitted: Floats, weight: Floats, cbf_variance: float
    ) -> Region | None:
        """The region that signals y (N, D) ask for beyond a field's cbf, att and fitted signal; None without evidence.

        weight (N,) is the precision of one volume, cbf_variance that of CBF between voxels of a region.
        """
        weight = weight / self.correlation(y - fitted)
        sums = self.sums(y, cbf, att, weight, SHIFTS)
        threshold = math.log(self.size * (len(SHIFTS) - 1) * len(RADII) / FALSE_ALARM)
        covered = np.zeros(self.size, bool)
        shifted, trust = np.zeros(self.mask.shape), np.zeros(self.mask.shape)
        largest = 0.0
        for radius in RADII:
            evidence, shift = self.evidence(sums, radius)
            largest = max(largest, float(evidence.max()))
            hit = np.where(evidence > threshold, evidence, 0.0)
            if hit.any():
                covered |= self._over_balls((hit > 0).astype(float)[:, None], radius)[:, 0] > 0
                shifted += self._smooth(hit * (att + shift), REACH)
                trust += self._smooth(hit, REACH)
        if not covered.any():
            return None
        zone = (binary_dilation(self._volume(covered)) & self.mask)[self.mask]
        inside = np.where(zone, (shifted / np.maximum(trust, TINY))[self.mask], att)
        around = self._around(zone, att)
        hypotheses = [self.sums(y, cbf, where, weight, np.zeros(1)) for where in (around, inside)]
        member, odds = self._classify(zone, hypotheses, cbf_variance)
        zone &= self._distinct(member, odds, inside - around, threshold)
        member = np.where(zone, member, 0.0)
        region = Region(member, zone, member * inside + (1 - member) * around, largest, threshold)
        return region if region.voxels else None

    def correlation(self, residual: Floats) -> float:
        """How much less white noise says than as many independent samples: 1 + 2 rho along each axis, multiplied.

        rho is the correlation of face neighbors, as a ratio of medians over voxels so that arteries do not count;
        residual is (N, D).
        """
        scaled = residual * np.sqrt(self.count)
        power = np.median((scaled**2).mean(axis=1))
        factor = 1.0
        for axis in range(3):
            first = np.take(self.index, range(self.index.shape[axis] - 1), axis)
            second = np.take(self.index, range(1, self.index.shape[axis]), axis)
            both = (first >= 0) & (second >= 0)
            if both.any():
                products = (scaled[first[both]] * scaled[second[both]]).mean(axis=1)
                factor *= max(1.0, 1.0 + 2.0 * float(np.median(products) / max(power, 1e-30)))
        return factor

    def sums(self, y: Floats, cbf: Floats, att: Floats, weight: Floats, shifts: Floats) -> Floats:
        """Power and match (N, 2, K) of the signal of unit CBF at shifted ATT."""
        out = np.empty((self.size, 2, len(shifts)))
        bounds = np.array(ATT_BOUNDS)
        over_voxels(shifted_sums, self.size, y, cbf, att, weight, shifts, *self.timing, bounds, out)
        return out

    def evidence(self, sums: Floats, radius: float) -> tuple[Floats, Floats]:
        """Largest log likelihood ratio (N,) of a shift over the ball around each voxel, and that shift in s.

        CBF is free, but common to a ball: the likelihood is that of the best CBF around each voxel.
        """
        count = sums.shape[2]
        pooled = self._over_balls(sums.reshape(self.size, -1), radius)
        flow = np.maximum(pooled[:, count:] / np.maximum(pooled[:, :count], TINY), 0.0)
        gain = flow * sums[:, 1] - flow**2 * sums[:, 0] / 2
        ratio = self._over_balls(gain - gain[:, [UNSHIFTED]], radius)
        best = ratio.argmax(axis=1)
        return ratio[np.arange(self.size), best], SHIFTS[best]

    def _around(self, zone: Bools, att: Floats) -> Floats:
        """ATT (N,), in the zone that of its surroundings: by the narrowest Gaussian that sees enough of them."""
        values, open_ = att.copy(), zone.copy()
        for width in OUTSIDE:
            seen = self._smooth(~zone, width)[self.mask]
            carried = self._smooth(np.where(zone, 0.0, att), width)[self.mask] / np.maximum(seen, TINY)
            here = open_ & (seen > SEEN)
            values[here] = carried[here]
            open_ &= ~here
        return values

    def _classify(self, zone: Bools, hypotheses: Sequence[Floats], variance: float) -> tuple[Floats, Floats]:
        """Probability (N,) of the second of two hypotheses, by mean field on face neighbors; 0 outside the zone.

        Second, the log odds (N,) of a voxel's own data. A hypothesis is `sums` (N, 2, 1) at its ATT; CBF varies around
        that of its class nearby with the given variance.
        """
        power, match = (np.stack([h[:, k, 0] for h in hypotheses]) for k in (0, 1))
        member = np.where(zone, 0.5, 0.0)
        for _ in range(ROUNDS):
            flow = np.stack([self._class_flow(power[k], match[k], (1 - member, member)[k]) for k in (0, 1)])
            left = match - flow * power
            likelihood = flow * match - flow**2 * power / 2
            likelihood += left**2 / (2 * (power + 1 / variance)) - np.log1p(variance * power) / 2
            own = likelihood[1] - likelihood[0]
            for _ in range(SWEEPS):
                member = np.where(zone, expit(own + COHESION * self._neighbors(2 * member - 1)), 0.0)
        return member, own

    def _distinct(self, member: Floats, odds: Floats, contrast: Floats, threshold: float) -> Bools:
        """Connected parts with evidence of their own whose ATT differs enough, and the voxels around: (N,)."""
        parts, count = label(self._volume(member > 0.5))
        which = parts[self.mask]
        size = np.maximum(np.bincount(which, minlength=count + 1), 1)
        mean = np.bincount(which, np.abs(contrast), count + 1) / size
        keep = (np.bincount(which, odds, count + 1) > threshold) & (mean >= LEAST_CONTRAST)
        keep[0] = False
        return binary_dilation(keep[parts], iterations=RIM)[self.mask]

    def _class_flow(self, power: Floats, match: Floats, share: Floats) -> Floats:
        pooled = self._smooth(share * match, FLOW) / np.maximum(self._smooth(share * power, FLOW), TINY)
        return np.maximum(pooled[self.mask], 0.0)

    def _neighbors(self, values: Floats) -> Floats:
        """Sum (N,) over face neighbors in the mask, each weighed by how near it is."""
        volume, total = self._volume(values), np.zeros(self.mask.shape)
        for axis, edge in enumerate(self.voxel_size):
            total += min(self.voxel_size) / edge * correlate1d(volume, [1.0, 0.0, 1.0], axis, mode="constant")
        return total[self.mask]

    def _over_balls(self, values: Floats, radius: float) -> Floats:
        """Sums (N, K) of values (N, K) over the voxels whose centers lie within radius mm."""
        reach = [math.floor(radius / edge) for edge in self.voxel_size]
        steps = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
        ball = steps[np.square(steps * self.voxel_size).sum(axis=1) <= radius**2]
        out = np.empty_like(values)
        over_voxels(ball_sums, self.size, np.ascontiguousarray(values), self.place, self.index, ball, out)
        return out

    def _volume(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        volume = np.zeros(self.mask.shape, values.dtype)
        volume[self.mask] = values
        return volume

    def _smooth(self, values: NDArray[np.generic], width: float) -> Floats:
        """Volume of (N,) values smoothed by a Gaussian of SD width mm; nothing outside the mask."""
        return gaussian_filter(self._volume(values).astype(float), [width / edge for edge in self.voxel_size])


@njit(cache=True, nogil=True, fastmath=True)
def shifted_sums(first, last, y, cbf, att, weight, shifts, row, pld, tau, count, of, bounds, sums):
    """Normal equations of CBF at ATT + each shift, T1' that of cbf: sums (N, 2, K) = g'g and g'y.

    g is the signal of 1 ml/100g/min; sums over samples are weighted by count (D,) and by the voxel's weight (N,).
    """
    for i in range(first, last):
        rate = of.tissue_rate + cbf[i] * of.rate_per_cbf
        for k in range(shifts.size):
            here = min(max(att[i] + shifts[k], bounds[0]), bounds[1])
            level = inflow(here, of) / rate
            power = match = 0.0
            for t in range(tau.size):
                since = pld[row[i], t] + tau[t] - here
                if since > 0.0:
                    value = level * stored(since, tau[t], rate, 0.0)
                    power += count[t] * value * value
                    match += count[t] * value * y[i, t]
            sums[i, 0, k] = weight[i] * power
            sums[i, 1, k] = weight[i] * match


@njit(cache=True, nogil=True)
def ball_sums(first, last, values, place, index, offsets, out):
    """out (N, K) = values (N, K) summed over the voxels at place (N, 3) + offsets (M, 3); index is -1 off the mask."""
    for i in range(first, last):
        for k in range(values.shape[1]):
            out[i, k] = 0.0
        for m in range(offsets.shape[0]):
            j = index[place[i, 0] + offsets[m, 0], place[i, 1] + offsets[m, 1], place[i, 2] + offsets[m, 2]]
            if j >= 0:
                for k in range(values.shape[1]):
                    out[i, k] += values[j, k]
