"""Compiled bounded robust least squares of one voxel: Powell's dogleg in a rectangular trust region.

The algorithm is that of scipy.optimize.least_squares(method="dogbox", loss="soft_l1") (Voglis and Lagaris 2004),
written out for two parameters, with SciPy's rules for the radius, the bounds and the end, so that it takes the same
steps.
"""

# mypy: allow-untyped-defs, disable-error-code="call-arg"

from __future__ import annotations

import math

import numpy as np
from numba import njit

FTOL = XTOL = GTOL = 1e-8
MAX_EVALUATIONS = 200
EPS = np.finfo(np.float64).eps


@njit(cache=True)
def residuals(x, start_att, penalty, y, pld, tau, weight, physics, r, jac):
    """Residuals in noise SDs (T of the samples, then the ATT penalty's) and their Jacobian, from Buxton's model."""
    alpha2, t1_tissue, t1_blood, partition, per_flow = physics
    flow, att = x[0] / per_flow, x[1]
    t1 = 1.0 / (1.0 / t1_tissue + flow / partition)
    slope_t1 = -t1 * t1 / partition / per_flow  # d T1' / d cbf
    entry = alpha2 * math.exp(-att / t1_blood)
    for i in range(y.size):
        since = pld[i] + tau[i] - att
        if since <= 0.0:
            value = by_cbf = by_att = 0.0
        elif since < tau[i]:
            decay = math.exp(-since / t1)
            shape = t1 * (1.0 - decay)
            value = entry * flow * shape
            by_cbf = entry * (shape / per_flow + flow * slope_t1 * (1.0 - decay - since / t1 * decay))
            by_att = -value / t1_blood - entry * flow * decay
        else:
            out, full = math.exp(-(since - tau[i]) / t1), math.exp(-tau[i] / t1)
            shape = t1 * (1.0 - full) * out
            value = entry * flow * shape
            by_t1 = (1.0 - full) * out * (1.0 + (since - tau[i]) / t1) - tau[i] / t1 * full * out
            by_cbf = entry * (shape / per_flow + flow * slope_t1 * by_t1)
            by_att = value * (1.0 / t1 - 1.0 / t1_blood)
        r[i] = (value - y[i]) * weight
        jac[i, 0], jac[i, 1] = by_cbf * weight, by_att * weight
    r[y.size] = (att - start_att) * penalty
    jac[y.size, 0], jac[y.size, 1] = 0.0, penalty


@njit(cache=True)
def robust_cost(r):
    """Half the sum of soft-L1: 2 (sqrt(1 + r^2) - 1)."""
    cost = 0.0
    for value in r:
        z = value * value
        cost += z / (1.0 + math.sqrt(1.0 + z))
    return cost


@njit(cache=True)
def robust_scale(r, jac):
    """Scale residuals and Jacobian in place so that Gauss-Newton on them is that of the robust cost (Triggs 1999)."""
    for i in range(r.size):
        t = 1.0 + r[i] * r[i]
        first = 1.0 / math.sqrt(t)
        scale = math.sqrt(max(first - first / t * r[i] * r[i], EPS))
        r[i] *= first / scale
        jac[i, 0] *= scale
        jac[i, 1] *= scale


@njit(cache=True)
def to_box(point, direction, low, high, hits):
    """Largest step along direction that stays in the box; hits (2,) gets the sides that it meets."""
    best = np.inf
    sizes = np.full(2, np.inf)
    for k in range(2):
        hits[k] = 0.0
        if direction[k] != 0.0:
            sizes[k] = max((low[k] - point[k]) / direction[k], (high[k] - point[k]) / direction[k])
            best = min(best, sizes[k])
    for k in range(2):
        if direction[k] != 0.0 and sizes[k] == best:
            hits[k] = 1.0 if direction[k] > 0 else -1.0
    return best


@njit(cache=True)
def column_product(jac, k, r):
    """Product of column k of the Jacobian with r."""
    total = 0.0
    for i in range(r.size):
        total += jac[i, k] * r[i]
    return total


@njit(cache=True)
def gauss_newton(jac, r, g, free, step):
    """Least-squares step over the free parameters, by QR of the two columns; minimum norm where they are parallel."""
    square0 = square1 = mixed = 0.0
    for i in range(r.size):
        square0 += jac[i, 0] * jac[i, 0]
        square1 += jac[i, 1] * jac[i, 1]
        mixed += jac[i, 0] * jac[i, 1]
    step[0] = -g[0] / square0 if free[0] and square0 > 0.0 else 0.0
    step[1] = -g[1] / square1 if free[1] and square1 > 0.0 else 0.0
    if not (free[0] and free[1] and square0 > 0.0):
        return
    share = mixed / square0
    rest_square = rest_g = 0.0
    for i in range(r.size):
        rest = jac[i, 1] - share * jac[i, 0]
        rest_square += rest * rest
        rest_g += rest * r[i]
    if rest_square > EPS * EPS * (square0 + square1):
        step[1] = -rest_g / rest_square
        step[0] = -g[0] / square0 - share * step[1]
    else:
        step[0] = -g[0] / square0 / (1.0 + share * share)
        step[1] = share * step[0]


@njit(cache=True)
def dogleg(x, newton, g, curvature, slope, radius, scale, free, low, high, step, on_bound):
    """Dogleg step inside trust region and bounds; says whether the trust region stopped it."""
    lower, upper, hits = np.zeros(2), np.zeros(2), np.zeros(2)
    inside = True
    for k in range(2):
        on_bound[k] = 0.0
        if free[k]:
            lower[k] = max(low[k] - x[k], -radius * scale[k])
            upper[k] = min(high[k] - x[k], radius * scale[k])
            inside = inside and lower[k] <= newton[k] <= upper[k]
    if inside:
        step[0], step[1] = newton[0], newton[1]
        return False
    down, origin = np.zeros(2), np.zeros(2)
    for k in range(2):
        down[k] = -g[k] if free[k] else 0.0
    reach = to_box(origin, down, lower, upper, hits)
    size = reach
    if curvature > 0.0:
        size = min(max(-slope / (2.0 * curvature), 0.0), reach)
    cauchy, onward = origin, np.zeros(2)
    for k in range(2):
        cauchy[k] = size * down[k]
        onward[k] = newton[k] - cauchy[k]
    part = to_box(cauchy, onward, lower, upper, hits)
    stopped = False
    for k in range(2):
        step[k] = cauchy[k] + part * onward[k]
        if free[k] and hits[k] != 0.0:
            edge = low[k] - x[k] if hits[k] < 0 else high[k] - x[k]
            side = lower[k] if hits[k] < 0 else upper[k]
            if side == edge:
                on_bound[k] = hits[k]
            if side == hits[k] * radius * scale[k]:
                stopped = True
    return stopped


@njit(cache=True)
def fit_voxel(x, penalty, y, pld, tau, weight, physics, low, high, scale):
    """Minimize the robust cost from x, in place; returns the cost and whether a tolerance was met."""
    samples = y.size + 1
    r, jac = np.empty(samples), np.empty((samples, 2))
    r_new, jac_new = np.empty(samples), np.empty((samples, 2))
    start_att = x[1]
    residuals(x, start_att, penalty, y, pld, tau, weight, physics, r, jac)
    cost = robust_cost(r)
    robust_scale(r, jac)
    on_bound, new_bound = np.zeros(2), np.zeros(2)
    radius = 0.0
    for k in range(2):
        radius = max(radius, abs(x[k]) / scale[k])
        on_bound[k] = -1.0 if x[k] == low[k] else (1.0 if x[k] == high[k] else 0.0)
    radius = radius if radius > 0.0 else 1.0
    g, step, newton, x_new = np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2)
    free = np.ones(2, np.bool_)
    evaluations, done = 1, False
    while True:
        largest = 0.0
        for k in range(2):
            g[k] = column_product(jac, k, r)
            free[k] = not (on_bound[k] * g[k] < 0.0)
            if free[k]:
                largest = max(largest, abs(g[k]))
        if largest < GTOL:
            return cost, True
        if done or evaluations >= MAX_EVALUATIONS:
            return cost, done
        gauss_newton(jac, r, g, free, newton)
        slope = curvature = 0.0
        for k in range(2):
            if free[k]:
                slope -= g[k] * g[k]
        for i in range(samples):
            along = (jac[i, 0] * g[0] if free[0] else 0.0) + (jac[i, 1] * g[1] if free[1] else 0.0)
            curvature += 0.5 * along * along
        gain = -1.0
        while gain <= 0.0 and evaluations < MAX_EVALUATIONS:
            stopped = dogleg(x, newton, g, curvature, slope, radius, scale, free, low, high, step, new_bound)
            predicted = 0.0
            for i in range(samples):
                predicted -= 0.5 * (jac[i, 0] * step[0] + jac[i, 1] * step[1]) ** 2
            length = step_norm = x_norm = 0.0
            for k in range(2):
                predicted -= g[k] * step[k]
                x_new[k] = min(max(x[k] + step[k], low[k]), high[k])
                length = max(length, abs(step[k]) / scale[k])
                step_norm += step[k] * step[k]
                x_norm += x[k] * x[k]
            residuals(x_new, start_att, penalty, y, pld, tau, weight, physics, r_new, jac_new)
            evaluations += 1
            cost_new = robust_cost(r_new)
            gain = cost - cost_new
            ratio = gain / predicted if predicted > 0.0 else (1.0 if predicted == gain == 0.0 else 0.0)
            if ratio < 0.25:
                radius = 0.25 * length
            elif ratio > 0.75 and stopped:
                radius *= 2.0
            done = (gain < FTOL * cost and ratio > 0.25) or math.sqrt(step_norm) < XTOL * (XTOL + math.sqrt(x_norm))
            if done:
                break
        if gain > 0.0:
            for k in range(2):
                if free[k]:
                    on_bound[k] = new_bound[k]
                x[k] = low[k] if on_bound[k] < 0 else (high[k] if on_bound[k] > 0 else x_new[k])
            r, r_new = r_new, r
            jac, jac_new = jac_new, jac
            cost = cost_new
            robust_scale(r, jac)


@njit(cache=True, nogil=True)
def fit_voxels(first, last, x, penalty, data, row, pld, tau, weight, physics, low, high, scale, cost, met):
    """fit_voxel for the voxels first to last; row (N,) says which line of pld is a voxel's."""
    for v in range(first, last):
        cost[v], met[v] = fit_voxel(x[v], penalty, data[v], pld[row[v]], tau, weight, physics, low, high, scale)
