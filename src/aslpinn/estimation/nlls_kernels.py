"""Compiled bounded robust least squares of one voxel: Levenberg-Marquardt, projected onto the bounds."""

# mypy: allow-untyped-defs, disable-error-code="call-arg,assignment"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .kinetic_kernels import inflow, signal_slopes

TOLERANCE = 1e-9  # relative gain in cost at which a voxel is done
MAX_EVALUATIONS = 200
LEAST, MOST = 1e-10, 1e5  # damping


@njit(cache=True, nogil=True, fastmath=True)
def evaluate(cbf, att, start_att, penalty, y, pld, tau, weight, of, sums):
    """Half the soft-L1 cost 2 (sqrt(1 + r^2) - 1) of residuals in noise SDs, the penalty's among them.

    Into sums (5,): its second derivatives J'WJ (CBF-CBF, CBF-ATT, ATT-ATT), W = (1 + r^2)^-3/2, without those of the
    model, and its gradient J'r / sqrt(1 + r^2).
    """
    rate, entering = of.tissue_rate + cbf * of.rate_per_cbf, inflow(att, of)
    r, by_att = (att - start_att) * penalty, penalty
    root = math.sqrt(1.0 + r * r)
    cost = r * r / (1.0 + root)
    cc, ca, aa, rc, ra = 0.0, 0.0, by_att * by_att / root**3, 0.0, by_att * r / root
    for i in range(y.size):
        value = by_cbf = by_att = 0.0
        since = pld[i] + tau[i] - att
        if since > 0.0:
            value, by_cbf, by_att = signal_slopes(cbf, entering, since, tau[i], rate, of, 0.0)
        r, by_cbf, by_att = (value - y[i]) * weight, by_cbf * weight, by_att * weight
        root = math.sqrt(1.0 + r * r)
        w = 1.0 / root**3
        cost += r * r / (1.0 + root)
        cc += w * by_cbf * by_cbf
        ca += w * by_cbf * by_att
        aa += w * by_att * by_att
        rc += by_cbf * r / root
        ra += by_att * r / root
    sums[0], sums[1], sums[2], sums[3], sums[4] = cc, ca, aa, rc, ra
    return cost


@njit(cache=True, nogil=True)
def fit_voxels(first, last, x, penalty, data, row, pld, tau, weight, of, low, high, cost, met):
    """Minimize the cost of the voxels first to last from x (N, 2), in place; cost (N,), and whether it settled (N,).

    row (N,) says which line of pld is a voxel's. A parameter on a bound that the gradient pushes outward is held there.
    The least cost often lies on a kink, where a sample falls on ATT: a step that fails is tried in CBF alone before the
    damping grows.
    """
    here, trial = np.empty(5), np.empty(5)
    for v in range(first, last):
        cbf, att, start, p = x[v, 0], x[v, 1], x[v, 1], pld[row[v]]
        cost[v] = evaluate(cbf, att, start, penalty, data[v], p, tau, weight, of, here)
        met[v], damping, alone = False, 1e-3, False
        for _ in range(MAX_EVALUATIONS):
            cc, ca, aa, rc, ra = here
            hold_cbf = (cbf <= low[0] and rc > 0.0) or (cbf >= high[0] and rc < 0.0)
            hold_att = (att <= low[1] and ra > 0.0) or (att >= high[1] and ra < 0.0)
            hold_att = hold_att or alone
            if hold_cbf or hold_att:
                ca = 0.0
            a, b = cc * (1.0 + damping) + 1e-300, aa * (1.0 + damping) + 1e-300
            determinant = a * b - ca * ca
            move_cbf = 0.0 if hold_cbf else (ca * ra - b * rc) / determinant
            move_att = 0.0 if hold_att else (ca * rc - a * ra) / determinant
            new_cbf = min(max(cbf + move_cbf, low[0]), high[0])
            new_att = min(max(att + move_att, low[1]), high[1])
            found = evaluate(new_cbf, new_att, start, penalty, data[v], p, tau, weight, of, trial)
            gain = cost[v] - found
            if gain >= 0.0:
                cbf, att, cost[v] = new_cbf, new_att, found
                here, trial = trial, here
            if alone:
                alone = False
            elif gain >= 0.0:
                met[v] = gain <= TOLERANCE * found
                damping = max(damping / 10.0, LEAST)
            else:
                damping, alone = damping * 3.0, True
                met[v] = damping > MOST
            if met[v]:
                break
        x[v, 0], x[v, 1] = cbf, att
