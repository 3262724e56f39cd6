"""Compiled Buxton formulas at fixed T1', for loops over voxels; tests compare them with aslpinn.physics.kinetics."""

# mypy: allow-untyped-defs, disable-error-code="call-arg"

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..physics import Constants
from ..physics.constants import CBF_PER_FLOW


def physics_of(constants: Constants) -> NDArray[np.float64]:
    """What the kernels need of the constants: 2 alpha / 6000, 1/T1b, 1/T1t, d(1/T1')/dCBF, 2 alpha."""
    entering = 2.0 * constants.efficiency
    return np.array(
        [
            entering / CBF_PER_FLOW,
            1.0 / constants.t1_blood,
            1.0 / constants.t1_tissue,
            1.0 / (CBF_PER_FLOW * constants.partition_coefficient),
            entering,
        ]
    )


@njit(cache=True, nogil=True, fastmath=True)
def tissue(att, rate, pld, tau, physics):
    """Signal of 1 ml/100g/min at 1/T1' = rate: delta_m of physics.kinetics with t1_apparent held fixed."""
    since = pld + tau - att
    if since <= 0.0:
        return 0.0
    level = physics[0] / rate * math.exp(-att * physics[1])
    if since <= tau:
        return level * (1.0 - math.exp(-since * rate))
    return level * (1.0 - math.exp(-tau * rate)) * math.exp(-(since - tau) * rate)


@njit(cache=True, nogil=True, fastmath=True)
def artery(arrival, pld, tau, physics):
    """Signal of an arterial blood volume of 1 while the bolus passes: `arterial` of physics.kinetics."""
    since = pld + tau - arrival
    if since <= 0.0 or since > tau:
        return 0.0
    return physics[4] * math.exp(-arrival * physics[1])


@njit(cache=True, nogil=True, fastmath=True)
def sigma_point_sums(first, last, y, cbf, att, att_sd, row, pld, tau, count, physics, nodes, weights, fitted, sums):
    """Normal equations of Buxton's model linearized around (cbf, att) by sigma points in ATT.

    Statistical linearization: mean and slope of the signal for ATT ~ N(att, att_sd^2), by Gauss-Hermite nodes, instead
    of value and derivative at one point: an ATT that may lie beyond the next sample time sees that sample. T1' is that
    of cbf. Writes the expected signal into fitted (N, D), and into sums (N, 5), weighted by count (D,): G_c'G_c,
    G_c'G_a, G_a'G_a, G_c'r, G_a'r with r = y - fitted and G the slopes per ml/100g/min and per s.
    """
    for i in range(first, last):
        rate = physics[2] + cbf[i] * physics[3]
        cc = ca = aa = rc = ra = 0.0
        for t in range(tau.size):
            mean = slope = 0.0
            for j in range(nodes.size):
                here = max(att[i] + att_sd * nodes[j], 0.01)
                value = weights[j] * tissue(here, rate, pld[row[i], t], tau[t], physics)
                mean += value
                slope += value * nodes[j]
            by_att = cbf[i] * slope / att_sd
            fitted[i, t] = cbf[i] * mean
            r = y[i, t] - fitted[i, t]
            cc += count[t] * mean * mean
            ca += count[t] * mean * by_att
            aa += count[t] * by_att * by_att
            rc += count[t] * mean * r
            ra += count[t] * by_att * r
        sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3], sums[i, 4] = cc, ca, aa, rc, ra
