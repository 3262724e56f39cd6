"""Compiled sums of the search for focal regions: signals at shifted ATT, and sums over balls of voxels."""

# mypy: allow-untyped-defs, disable-error-code="call-arg"

from __future__ import annotations

from numba import njit

from .kinetic_kernels import tissue


@njit(cache=True, nogil=True, fastmath=True)
def shifted_sums(first, last, y, cbf, att, weight, shifts, row, pld, tau, count, physics, bounds, sums):
    """Normal equations of CBF at ATT + each shift, T1' that of cbf: sums (N, 2, K) = g'g and g'y.

    g is the signal of 1 ml/100g/min; sums over samples are weighted by count (D,) and by the voxel's weight (N,).
    """
    for i in range(first, last):
        rate = physics[2] + cbf[i] * physics[3]
        for k in range(shifts.size):
            here = min(max(att[i] + shifts[k], bounds[0]), bounds[1])
            power = match = 0.0
            for t in range(tau.size):
                value = tissue(here, rate, pld[row[i], t], tau[t], physics)
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
