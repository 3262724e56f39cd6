"""Compiled inner loops of variational Bayes: the model, one voxel's updates, the sweep of the spatial prior.

Two parameters a voxel: amplitude a (perfusion in the unit of the data) and ATT, with the posterior
N(mean, precision^-1); one noise precision phi with the posterior Gamma(scale b, shape c). Layout of the arrays: `mean`
(N, 2); `precision` (N, 3) = aa, a-att, att-att; `noise` (N, 2) = b, c.

T1' is fixed, so a sample's signal needs no exponential of its own time: with e = exp(att / T1') it is
k (1 - rise e) while label arrives and k fall e afterwards, `rise` and `fall` tabulated once a slice. It is written
apart from `physics.kinetics`: with fabber's numerical derivatives the formula of the other loops takes half as long
again, and with exact ones ATT stops elsewhere where it meets a sample.
"""

# mypy: allow-untyped-defs, disable-error-code="call-arg"

from __future__ import annotations

import math

import numpy as np
from numba import njit

NOISE_SCALE = 1e6  # prior of the noise precision, Gamma(scale, shape): as good as flat
NOISE_SHAPE = 1e-6
AMPLITUDE_PRECISION = 1e-12  # flat prior of the amplitude, mean 0
MAX_PASSES = 1000  # guard: a voxel takes some dozens of passes


@njit(cache=True)
def unit_signal(att, time, tau, rise, fall, t1, t1_blood, latest, out):
    """Signal of amplitude 1 into out (T,); ATT is held between 0 and latest."""
    att = min(max(att, 0.0), latest)
    k = 2.0 * t1 * math.exp(-att / t1_blood)
    e = math.exp(att / t1)
    for i in range(time.size):
        if time[i] < att:
            out[i] = 0.0
        elif time[i] <= att + tau[i]:
            out[i] = k * (1.0 - rise[i] * e)
        else:
            out[i] = k * fall[i] * e


@njit(cache=True)
def linearize(a, att, time, tau, rise, fall, t1, t1_blood, latest, signal, by_a, by_att, work):
    """The signal at (a, att) and its numerical central derivatives, steps of 1e-5 relative; a is held at 0 or above."""
    unit_signal(att, time, tau, rise, fall, t1, t1_blood, latest, by_a)
    step = max(abs(att) * 1e-5, 1e-10)
    unit_signal(att + step, time, tau, rise, fall, t1, t1_blood, latest, by_att)
    unit_signal(att - step, time, tau, rise, fall, t1, t1_blood, latest, work)
    positive = max(a, 0.0)
    step_a = max(abs(a) * 1e-5, 1e-10)
    slope_a = (max(a + step_a, 0.0) - max(a - step_a, 0.0)) / (2.0 * step_a)
    span = (att + step) - (att - step)
    for i in range(time.size):
        signal[i] = positive * by_a[i]
        by_att[i] = positive * (by_att[i] - work[i]) / span
        by_a[i] *= slope_a


@njit(cache=True)
def normal_sums(y, signal, by_a, by_att):
    """J'J (three numbers), J'r (two) and r'r of the residual r = y - signal."""
    aa = at = tt = ra = rt = rr = 0.0
    for i in range(y.size):
        r = y[i] - signal[i]
        aa += by_a[i] * by_a[i]
        at += by_a[i] * by_att[i]
        tt += by_att[i] * by_att[i]
        ra += by_a[i] * r
        rt += by_att[i] * r
        rr += r * r
    return aa, at, tt, ra, rt, rr


@njit(cache=True)
def update_theta(mean, precision, phi, sums, center_a, center_att, prior_a, prior_pa, prior_att, prior_patt):
    """Posterior of the two parameters, given phi and the model linearized at the center (Chappell 2009, eqs 19-20)."""
    aa, at, tt, ra, rt, _ = sums
    paa, pat, ptt = prior_pa + phi * aa, phi * at, prior_patt + phi * tt
    ha = phi * (ra + aa * center_a + at * center_att) + prior_pa * prior_a
    ht = phi * (rt + at * center_a + tt * center_att) + prior_patt * prior_att
    det = paa * ptt - pat * pat
    mean[0] = (ptt * ha - pat * ht) / det
    mean[1] = (paa * ht - pat * ha) / det
    precision[0], precision[1], precision[2] = paa, pat, ptt


@njit(cache=True)
def update_noise(mean, precision, noise, sums, center_a, center_att, samples):
    """Posterior of the noise precision (Chappell 2009, eqs 21-22), shape (T - 1) / 2 + 1e-6 as in fabber."""
    aa, at, tt, ra, rt, rr = sums
    da, dt = mean[0] - center_a, mean[1] - center_att
    squares = rr - 2.0 * (da * ra + dt * rt) + da * da * aa + 2.0 * da * dt * at + dt * dt * tt
    det = precision[0] * precision[2] - precision[1] * precision[1]
    trace = (precision[2] * aa - 2.0 * precision[1] * at + precision[0] * tt) / det
    noise[0] = 1.0 / (0.5 * (max(squares, 0.0) + trace) + 1.0 / NOISE_SCALE)
    noise[1] = 0.5 * (samples - 1) + NOISE_SHAPE


@njit(cache=True)
def free_energy(mean, precision, noise, sums, prior_att, prior_patt, samples, digamma_c):
    """The free energy that fabber compares, up to a constant.

    As in fabber the residual sum carries the noise precision and the trace term does not. That is not the bound of
    Chappell 2009, but it decides which iterate is kept.
    """
    aa, at, tt, _, _, rr = sums
    b, c = noise[0], noise[1]
    det = precision[0] * precision[2] - precision[1] * precision[1]
    var_a, var_att, cov = precision[2] / det, precision[0] / det, -precision[1] / det
    trace = var_a * aa + 2.0 * cov * at + var_att * tt
    log_phi = digamma_c + math.log(b)
    value = -0.5 * math.log(det) + c * math.log(b) - (c - 1.0) * log_phi
    value += log_phi * (0.5 * samples + NOISE_SHAPE - 1.0) - b * c / NOISE_SCALE
    value -= 0.5 * (b * c * rr + trace)
    value -= 0.5 * (AMPLITUDE_PRECISION * (mean[0] ** 2 + var_a) + prior_patt * ((mean[1] - prior_att) ** 2 + var_att))
    return value


@njit(cache=True, nogil=True)
def fit_voxels(
    first, last, data, row, mean, precision, noise, time, tau, rise, fall, t1, t1_blood, latest, prior, digamma_c,
    trials, tol, energy, passes
):  # fmt: skip
    """Iterate the voxels first to last in place until their free energy settles; keeps it and the number of passes.

    fabber's trial mode: when the free energy falls, the voxel goes back once and then may wander for `trials` passes;
    if none beats the best, the best is taken. A rise of less than `tol` ends the iteration. Passes are not limited. row
    (N,) says which line of time, rise and fall is a voxel's.
    """
    samples = data.shape[1]
    signal, by_a = np.empty(samples), np.empty(samples)
    by_att, work = np.empty(samples), np.empty(samples)
    prior_att, prior_patt = prior
    for v in range(first, last):
        y, r, m, p, q = data[v], row[v], mean[v], precision[v], noise[v]
        best, count, tried = -1e300, 0, 0
        trial, revert, save, done = False, False, True, False
        m0, m1, p0, p1, p2, q0, q1 = m[0], m[1], p[0], p[1], p[2], q[0], q[1]
        sums = kept = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        while not done:
            linearize(m[0], m[1], time[r], tau, rise[r], fall[r], t1, t1_blood, latest, signal, by_a, by_att, work)
            sums = normal_sums(y, signal, by_a, by_att)
            if count > 0:
                value = free_energy(m, p, q, sums, prior_att, prior_patt, samples, digamma_c)
                gain = value - best
                save = revert = False
                if gain > 0.0 or (gain == 0.0 and not trial):
                    done = gain < tol
                    best, trial, tried, save = value, False, 0, True
                elif trial:
                    tried += 1
                    done = revert = tried >= trials
                else:
                    trial, tried, revert = True, 1, True
                if count >= MAX_PASSES:
                    done = revert = True
            if save:
                m0, m1, p0, p1, p2, q0, q1, kept = m[0], m[1], p[0], p[1], p[2], q[0], q[1], sums
            elif revert:
                m[0], m[1], p[0], p[1], p[2], q[0], q[1], sums = m0, m1, p0, p1, p2, q0, q1, kept
            if not done:
                a, att = m[0], m[1]
                update_theta(m, p, q[0] * q[1], sums, a, att, 0.0, AMPLITUDE_PRECISION, prior_att, prior_patt)
                update_noise(m, p, q, sums, a, att, samples)
                count += 1
        energy[v], passes[v] = best, count


@njit(cache=True, nogil=True)
def grid_shapes(first, last, grid, time, tau, rise, fall, t1, t1_blood, latest, shapes):
    """Signal of amplitude 1 for the slice delays first to last and each grid ATT, into shapes (R, G, T)."""
    for r in range(first, last):
        for g in range(grid.size):
            unit_signal(grid[g], time[r], tau, rise[r], fall[r], t1, t1_blood, latest, shapes[r, g])


@njit(cache=True, nogil=True)
def grid_start(first, last, data, row, mean, noise, grid, shapes, prior):
    """Start of the voxels first to last: the grid's ATT of highest posterior with the noise integrated out.

    Minimizes (T - 1) log(sum of squares) + (att - prior mean)^2 prior precision, with the best amplitude, 0 or more.
    The start of the noise is what the residuals at that point say.
    """
    samples = data.shape[1]
    for v in range(first, last):
        r, y = row[v], data[v]
        total = 0.0
        for i in range(samples):
            total += y[i] * y[i]
        least, lowest = total, np.inf
        for g in range(grid.size):
            overlap, power = 0.0, 1e-30
            for i in range(samples):
                overlap += y[i] * shapes[r, g, i]
                power += shapes[r, g, i] * shapes[r, g, i]
            amplitude = max(overlap, 0.0) / power
            squares = max(total - amplitude * overlap, 1e-12 * total + 1e-300)
            cost = (samples - 1) * math.log(squares) + prior[1] * (grid[g] - prior[0]) ** 2
            if cost < lowest:
                lowest, least = cost, squares
                mean[v, 0], mean[v, 1] = amplitude, grid[g]
        noise[v, 0] = 1.0 / (0.5 * least + 1.0 / NOISE_SCALE)
        noise[v, 1] = 0.5 * (samples - 1) + NOISE_SHAPE


@njit(cache=True, nogil=True)
def fitted_signal(first, last, mean, row, time, tau, rise, fall, t1, t1_blood, latest, out):
    """The model at the posterior mean of the voxels first to last, into out (N, D)."""
    for v in range(first, last):
        r = row[v]
        unit_signal(mean[v, 1], time[r], tau, rise[r], fall[r], t1, t1_blood, latest, out[v])
        for i in range(out.shape[1]):
            out[v, i] *= max(mean[v, 0], 0.0)


@njit(cache=True, nogil=True)
def linearize_all(
    first, last, update, data, row, mean, precision, noise, center, sums, time, tau, rise, fall, t1, t1_blood, latest
):
    """Noise update of the voxels first to last (if update), then the model at their means as six sums a voxel."""
    signal, by_a = np.empty(data.shape[1]), np.empty(data.shape[1])
    by_att, work = np.empty(data.shape[1]), np.empty(data.shape[1])
    for v in range(first, last):
        r, y = row[v], data[v]
        if update:
            old = (sums[v, 0], sums[v, 1], sums[v, 2], sums[v, 3], sums[v, 4], sums[v, 5])
            update_noise(mean[v], precision[v], noise[v], old, center[v, 0], center[v, 1], y.size)
        linearize(
            mean[v, 0], mean[v, 1], time[r], tau, rise[r], fall[r], t1, t1_blood, latest, signal, by_a, by_att, work
        )
        s = normal_sums(y, signal, by_a, by_att)
        for i in range(6):
            sums[v, i] = s[i]
        center[v, 0], center[v, 1] = mean[v, 0], mean[v, 1]


@njit(cache=True)
def smoothness(mean, precision, neighbors, k):
    """Posterior mean of the spatial precision of parameter k, under its Gamma(10, 1) prior (scale, shape)."""
    trace = rough = 0.0
    n = mean.shape[0]
    for v in range(n):
        count, difference = 0, 0.0
        for j in range(6):
            u = neighbors[v, j]
            if u >= 0:
                count += 1
                difference += mean[v, k] - mean[u, k]
        det = precision[v, 0] * precision[v, 2] - precision[v, 1] ** 2
        trace += precision[v, 2 - 2 * k] / det * (count + 1e-8)
        rough += difference * mean[v, k]
    return max((0.5 * n + 1.0) / (0.5 * trace + 0.5 * rough + 0.1), 1e-50)


@njit(cache=True, nogil=True)
def sweep(mean, precision, noise, center, sums, neighbors, spatial, prior):
    """Update the parameters of all voxels in order, each seeing the neighbors before it already updated.

    spatial (2,): precision of the Markov field on amplitude and on ATT; 0 for none.
    """
    prior_att, prior_patt = prior
    for v in range(mean.shape[0]):
        count, near_a, near_att = 1e-8, 0.0, 0.0
        for j in range(6):
            u = neighbors[v, j]
            if u >= 0:
                count += 1.0
                near_a += mean[u, 0]
                near_att += mean[u, 1]
        field_a, field_att = spatial[0] * count, spatial[1] * count
        pa, patt = AMPLITUDE_PRECISION + field_a, prior_patt + field_att
        prior_a = field_a * (near_a / count) / pa
        prior_t = (field_att * (near_att / count) + prior_patt * prior_att) / patt
        s = (sums[v, 0], sums[v, 1], sums[v, 2], sums[v, 3], sums[v, 4], sums[v, 5])
        update_theta(
            mean[v], precision[v], noise[v, 0] * noise[v, 1], s, center[v, 0], center[v, 1], prior_a, pa, prior_t, patt
        )
