"""Posterior of linear fields given linearized data: preconditioned conjugate gradients, samples, variances of levels.

The unknowns are fields x = K^(1/2) u with K the spectrum of a `MultiscaleField` and u standard normal. The data enter
through a precision matrix (2 x 2 for CBF and ATT in every voxel) and a pull: the log likelihood is
-theta' L theta / 2 + b' theta. CBF is x_0 plus, with a guide, psi x_2; ATT is x_1 plus rho times CBF: white
matter has less flow and later arrival, so one tells of the other. A focal region q adds q times a field of its own to
either: levels that are there inside the region only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..fields.multiscale import Floats, Fourier, MultiscaleField

NARROW = 4  # Gaussian levels whose contrast couples ATT to CBF


@dataclass
class Likelihood:
    """Data of N voxels, linearized: precision (3, N) = cbf-cbf, cbf-att, att-att, and pull (2, N)."""

    precision: Floats
    pull: Floats

    def apply(self, theta: Floats) -> Floats:
        """L theta for theta (2, N)."""
        cc, ca, aa = self.precision
        return np.stack([cc * theta[0] + ca * theta[1], ca * theta[0] + aa * theta[1]])

    def noise(self, rng: np.random.Generator) -> Floats:
        """A draw of N(0, L): (2, N)."""
        cc, ca, aa = self.precision
        first, second = rng.standard_normal((2, cc.size), dtype=np.float32)
        root = np.sqrt(np.maximum(cc, np.float32(1e-20)))
        across = ca / root
        return np.stack([root * first, across * first + np.sqrt(np.maximum(aa - across**2, 0)) * second])


@dataclass
class LinearFields:
    """The prior: fields of given level variances (F, levels), how they make CBF and ATT, and the solver.

    guide (N,) is psi or None, of depth rather than of an image with `depth`; region (N,) is q or None, coupling is rho.
    Order of the fields: CBF, ATT, that of the guide, CBF and ATT in the region.
    """

    basis: MultiscaleField
    variances: NDArray[np.float64]
    guide: Floats | None = None
    coupling: float = 0.0
    tolerance: float = 5e-3
    iterations: int = 20
    region: Floats | None = None
    depth: bool = False
    spectrum: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.spectrum = self.basis.spectrum(self.variances)

    @property
    def everywhere(self) -> int:
        """Number of fields that are not a region's."""
        return 2 if self.guide is None else 3

    def combine(self, x: Floats) -> Floats:
        """(CBF, ATT) as (2, N) of the fields at the voxels, (F, N)."""
        cbf, att = x[:2]
        if self.guide is not None:
            cbf = cbf + self.guide * x[2]
        if self.region is not None:
            cbf, att = cbf + self.region * x[-2], att + self.region * x[-1]
        return np.stack([cbf, att + np.float32(self.coupling) * cbf])

    def spread(self, theta: Floats) -> Floats:
        """The adjoint of `combine`: (2, N) to (F, N)."""
        cbf = theta[0] + np.float32(self.coupling) * theta[1]
        rows = [cbf, theta[1]]
        if self.guide is not None:
            rows.append(self.guide * cbf)
        if self.region is not None:
            rows += [self.region * cbf, self.region * theta[1]]
        return np.stack(rows)

    def precision_seen(self, likelihood: Likelihood) -> Floats:
        """Mean precision (F,) of the data about each field; a region's over the region."""
        cc, ca, aa = likelihood.precision
        cc = cc + np.float32(2 * self.coupling) * ca + np.float32(self.coupling**2) * aa
        seen = [cc.mean(), aa.mean()]
        if self.guide is not None:
            seen.append((cc * self.guide**2).mean())
        if self.region is not None:
            square = self.region**2
            share = square / max(square.sum(), np.float32(1e-6))
            seen += [(share * square * cc).sum(), (share * square * aa).sum()]
        return np.array(seen, np.float32)

    def solve(
        self, likelihood: Likelihood, pull: Floats, start: Fourier | None = None, most: int | None = None
    ) -> tuple[Fourier, Floats, int]:
        """Posterior mean: coefficients u, theta (2, N), and the iterations that it took, at most `most`.

        Conjugate gradients on (1 + K^(1/2) A' L A K^(1/2)) u = K^(1/2) A' pull, A = combine; the preconditioner
        has `precision_seen` in place of L. It ends when the residual's norm has fallen by `tolerance`.
        """
        basis, root = self.basis, np.sqrt(self.spectrum)
        precondition = 1 / (1 + self.precision_seen(likelihood)[:, None, None, None] * self.spectrum)

        def system(u: Fourier) -> Fourier:
            theta = self.combine(basis.down(root * u))
            out = basis.up(self.spread(likelihood.apply(theta)))
            out *= root
            out += u
            return out

        r = root * basis.up(self.spread(pull))
        target = self.tolerance**2 * basis.inner(r, precondition * r)
        u = np.zeros_like(r)
        if start is not None and start.shape == r.shape:
            u = start.copy()
            r = r - system(u)
        z = precondition * r
        p, rz, done = z.copy(), basis.inner(r, z), 0
        while done < (most or self.iterations) and rz > target:
            ap = system(p)
            step = np.float32(rz / basis.inner(p, ap))
            u += step * p
            r -= step * ap
            z = precondition * r
            before, rz = rz, basis.inner(r, z)
            p *= np.float32(rz / before)
            p += z
            done += 1
        return u, self.combine(basis.down(root * u)), done

    def sample(
        self, likelihood: Likelihood, rng: np.random.Generator, start: Fourier | None = None
    ) -> tuple[Floats, Floats, Floats, Fourier]:
        """A draw from the prior, its estimate from data simulated from it, what those data leave over, and u.

        The estimate minus the draw is distributed as the posterior around its mean (Papandreou and Yuille
        2010, "Gaussian sampling by local perturbations"): the members of the ensemble.
        """
        white = self.basis.white(rng, len(self.variances))
        white[:, 0, 0, 0] = 0  # the broad constant: the data find it whatever it is, the solver only after many steps
        draw = self.combine(self.basis.down(np.sqrt(self.spectrum) * white))
        pull = likelihood.apply(draw) + likelihood.noise(rng)
        u, estimate, _ = self.solve(likelihood, pull, white if start is None else start)
        return draw, estimate, pull - likelihood.apply(estimate), u

    def power(self, remainder: Floats) -> NDArray[np.float64]:
        """Power of what an estimate leaves over, pull - L theta (2, N), in the band of every level: (F, levels).

        Of the fields that are everywhere. In the marginal likelihood's derivative by a level's variance it stands
        against its own expectation: where data leave more than simulated data do, the variance has to grow.
        """
        return self.basis.power(self.spread(remainder)[: self.everywhere])

    def coupling_slope(self, remainder: Floats) -> tuple[float, float]:
        """Derivative of half the remainder's quadratic form by the coupling, and its scale, in the narrow levels.

        The slow ones are left out, but for those of an image's function: they hold few independent patches to
        correlate, and are the last to converge. A function of depth is left out: ATT follows depth for its own reasons.
        """
        image = None if self.depth else self.guide
        variances = np.delete(self.variances[: self.everywhere], 1, axis=0)[: 1 if image is None else 2]
        variances[0, 0] = variances[0, 2 + NARROW :] = 0
        spectrum = self.basis.spectrum(variances)

        def cbf_fields(values: Floats) -> Fourier:
            rows = [values] if image is None else [values, image * values]
            return self.basis.up(np.stack(rows))

        of_att = cbf_fields(remainder[1])
        weighted = spectrum * of_att
        of_both = cbf_fields(remainder[0] + np.float32(self.coupling) * remainder[1])
        return self.basis.inner(weighted, of_both), self.basis.inner(weighted, of_att)
