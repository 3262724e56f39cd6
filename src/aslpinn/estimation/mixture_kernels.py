"""Compiled Bayesian average of one voxel's explanations: stay with the field, deviate from it, let an artery pass."""

# mypy: allow-untyped-defs, disable-error-code="call-arg"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .kinetic_kernels import artery, inflow, stored

NODES = (15, 15, 45)  # of the ATT grid, for each scale of deviation: what is broad needs more of them
REACH = 3.5  # prior SDs that the grid covers on either side
NEGLIGIBLE = -25.0  # log of a weight that is left out


@njit(cache=True, nogil=True, fastmath=True)
def att_grid(mean, variance, low, high, nodes):
    """First node and spacing of the ATT grid of a prior."""
    sd = math.sqrt(variance)
    start = max(low, mean - REACH * sd)
    end = max(min(high, mean + REACH * sd), start + 0.02)
    return start, (end - start) / (nodes - 1)


@njit(cache=True, nogil=True, fastmath=True)
def explain_voxels(
    first, last, y, noise, mean, variance, row, pld, tau, count, of, bounds, extra, log_scale, log_artery,
    arrivals, abv_sd, moments, other_signal, arterial_signal, shares,
):  # fmt: skip
    """Average voxels first to last over deviation scale x ATT x (no artery, or one of the arrivals).

    Priors of a voxel, for scale k: CBF ~ N(mean[0], variance[0] + extra[k, 0]), ATT alike on a grid; aBV half-normal
    with SD abv_sd. CBF and aBV are integrated in closed form. noise (N,) is the variance of one volume, count (D,) the
    volumes behind a mean. Scale 0 without an artery is the field itself: its share is reported, and it is left out of
    the moments. moments (N, 6): mean CBF, ATT, variance of CBF, ATT, mean aBV, and the covariance of CBF and ATT.
    shares (N, K, 2): posterior of scale and artery.
    """
    samples, scales, options = tau.size, extra.shape[0], arrivals.size + 1
    most = max(NODES)
    g = np.empty((scales, most, samples))
    log_weight = np.empty((scales, most, options))
    cbf_mean = np.empty((scales, most, options))
    cbf_variance = np.empty((scales, most, options))
    abv_mean = np.empty((scales, most, options))
    shape = np.empty((options, samples))
    shape_power = np.empty(options)
    shape_data = np.empty(options)
    flat = 1.0 / (abv_sd * abv_sd)
    for i in range(first, last):
        rate = of.tissue_rate + max(mean[i, 0], 0.0) * of.rate_per_cbf
        precision = 1.0 / noise[i]
        c0, p = mean[i, 0], pld[row[i]]
        for q in range(1, options):
            power = data = 0.0
            for t in range(samples):
                shape[q, t] = artery(arrivals[q - 1], p[t], tau[t], of)
                power += count[t] * shape[q, t] * shape[q, t]
                data += count[t] * shape[q, t] * y[i, t]
            shape_power[q], shape_data[q] = power, data
        best = -1e300
        for k in range(scales):
            cbf_prior, att_prior = variance[i, 0] + extra[k, 0], variance[i, 1] + extra[k, 1]
            start, step = att_grid(mean[i, 1], att_prior, bounds[0], bounds[1], NODES[k])
            for j in range(NODES[k]):
                att = start + j * step
                level = inflow(att, of) / rate
                gg = gr = rr = 0.0
                for t in range(samples):
                    since = p[t] + tau[t] - att
                    value = level * stored(since, tau[t], rate, 0.0) if since > 0.0 else 0.0
                    g[k, j, t] = value
                    r = y[i, t] - c0 * value
                    gg += count[t] * value * value
                    gr += count[t] * value * r
                    rr += count[t] * r * r
                away = att - mean[i, 1]
                base = log_scale[k] + math.log(step) - 0.5 * (away * away / att_prior + math.log(att_prior))
                base -= 0.5 * (rr * precision + math.log(cbf_prior))
                m11, h1 = gg * precision + 1.0 / cbf_prior, gr * precision
                log_weight[k, j, 0] = base + 0.5 * (h1 * h1 / m11 - math.log(m11)) + log_artery[0]
                cbf_mean[k, j, 0], cbf_variance[k, j, 0], abv_mean[k, j, 0] = c0 + h1 / m11, 1.0 / m11, 0.0
                best = max(best, log_weight[k, j, 0])
                for q in range(1, options):
                    log_weight[k, j, q] = -1e300
                    if shape_power[q] == 0.0:
                        continue
                    cross = 0.0
                    for t in range(samples):
                        cross += count[t] * shape[q, t] * g[k, j, t]
                    m22, m12 = shape_power[q] * precision + flat, cross * precision
                    h2 = (shape_data[q] - c0 * cross) * precision
                    det = m11 * m22 - m12 * m12
                    x1, x2 = (m22 * h1 - m12 * h2) / det, (m11 * h2 - m12 * h1) / det
                    sd = math.sqrt(m11 / det)
                    z = x2 / sd
                    positive = 0.5 * math.erfc(-z * 0.7071067811865476)
                    if positive < 1e-12:
                        continue
                    value = base + 0.5 * (h1 * x1 + h2 * x2 - math.log(det)) - math.log(abv_sd)
                    log_weight[k, j, q] = value + log_artery[1] - math.log(options - 1.0) + math.log(2.0 * positive)
                    best = max(best, log_weight[k, j, q])
                    volume = x2 + sd * math.exp(-0.5 * z * z) * 0.3989422804014327 / positive
                    abv_mean[k, j, q] = volume
                    cbf_mean[k, j, q] = c0 + x1 - (volume - x2) * m12 / m11
                    cbf_variance[k, j, q] = m22 / det
        total = outside = cbf = cbf2 = att1 = att2 = both = abv = 0.0
        for t in range(samples):
            other_signal[i, t] = 0.0
            arterial_signal[i, t] = 0.0
        for k in range(scales):
            shares[i, k, 0] = shares[i, k, 1] = 0.0
            start, step = att_grid(mean[i, 1], variance[i, 1] + extra[k, 1], bounds[0], bounds[1], NODES[k])
            for j in range(NODES[k]):
                att, here, flow = start + j * step, 0.0, 0.0
                for q in range(options):
                    if log_weight[k, j, q] - best < NEGLIGIBLE:
                        continue
                    w = math.exp(log_weight[k, j, q] - best)
                    total += w
                    shares[i, k, min(q, 1)] += w
                    if k == 0 and q == 0:
                        continue
                    one = cbf_mean[k, j, q]
                    here += w
                    flow += w * one
                    cbf2 += w * (one * one + cbf_variance[k, j, q])
                    if q > 0:
                        abv += w * abv_mean[k, j, q]
                        for t in range(samples):
                            arterial_signal[i, t] += w * abv_mean[k, j, q] * shape[q, t]
                if here > 0.0:
                    outside += here
                    cbf += flow
                    att1 += here * att
                    att2 += here * (att * att + step * step / 12)  # a node stands for all ATT that are nearest to it
                    both += flow * att
                    for t in range(samples):
                        other_signal[i, t] += flow * g[k, j, t]
        for k in range(scales):
            shares[i, k, 0] /= total
            shares[i, k, 1] /= total
        if outside <= 1e-12 * total:
            moments[i, 0], moments[i, 1], moments[i, 4], moments[i, 5] = mean[i, 0], mean[i, 1], 0.0, 0.0
            moments[i, 2], moments[i, 3] = variance[i, 0], variance[i, 1]
            continue
        cbf, att1 = cbf / outside, att1 / outside
        moments[i, 0], moments[i, 1], moments[i, 4] = cbf, att1, abv / outside
        moments[i, 2] = max(cbf2 / outside - cbf * cbf, 0.0)
        moments[i, 3] = max(att2 / outside - att1 * att1, 0.0)
        moments[i, 5] = both / outside - cbf * att1
        for t in range(samples):
            arterial_signal[i, t] /= outside
            other_signal[i, t] = other_signal[i, t] / outside + arterial_signal[i, t]
