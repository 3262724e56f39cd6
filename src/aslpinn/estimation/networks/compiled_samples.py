"""Compiled layout of f_tissue's samples: a voxel's times side by side in the lanes of a block."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ...fields.compiled import LANES, ONCE, f32
from .compiled_physics import ATT, CBF, INSIDE, MEASURED, PLD, SLOPE, TAU, TIME, WEIGHT


class Batch(NamedTuple):
    """What does not change during a fit: N voxels, D acquired times, tau and its slope in between."""

    signal: Any  # (N, D), scaled
    weight: Any  # (1 or N, D)
    pld: Any  # (1 or N, D) effective delays in s
    tau: Any  # (D,)
    slope: Any  # (D,)
    durations: Any  # (points, 2): tau and slope at delays from first to last
    first: float
    last: float
    nominal: float  # first acquired delay, slice time not counted
    cbf_scale: float
    att_scale: float
    time_scale: float
    edge_width: float  # s, of P; 0: sharp


@njit(**ONCE)
def stage(batch: Any, points: Any, drawn: Any, at: Any, begin: int, count: int, lane: Any) -> None:
    """Lay out the samples of `count` voxels from `begin` in lanes, a voxel's times side by side.

    Lanes left over repeat the first one, with weight and inside 0.
    """
    acquired = batch.signal.shape[1]
    span, highest = f32(batch.last - batch.first), batch.durations.shape[0] - 2
    step = f32((highest + 1) / (batch.last - batch.first) if batch.last > batch.first else 0.0)
    unit = f32(1.0 / batch.time_scale)
    s = 0
    for voxel in range(begin, begin + count):
        p = points[voxel]
        row, own = p if batch.pld.shape[0] > 1 else 0, p if batch.weight.shape[0] > 1 else 0
        shift = batch.pld[row, 0] - f32(batch.nominal) + f32(batch.first)
        for k in range(acquired + drawn.shape[1]):
            lane[CBF + s], lane[ATT + s], lane[INSIDE + s] = at[0, voxel], at[1, voxel], f32(1.0)
            if k < acquired:
                lane[PLD + s], lane[TAU + s], lane[SLOPE + s] = batch.pld[row, k], batch.tau[k], batch.slope[k]
                lane[MEASURED + s], lane[WEIGHT + s] = batch.signal[p, k], batch.weight[own, k]
            else:
                since = drawn[voxel, k - acquired] * span
                lower = min(np.int64(since * step), highest)
                share = since * step - f32(lower)
                tau, slope = batch.durations[lower, 0], batch.durations[lower, 1]
                lane[PLD + s] = since + shift
                lane[TAU + s] = tau + share * (batch.durations[lower + 1, 0] - tau)
                lane[SLOPE + s] = slope + share * (batch.durations[lower + 1, 1] - slope)
                lane[MEASURED + s], lane[WEIGHT + s] = f32(0.0), f32(0.0)
            lane[TIME + s] = (lane[PLD + s] + lane[TAU + s]) * unit
            s += 1
    for left in range(s, LANES):
        for k in range(CBF, TIME + LANES, LANES):
            lane[k + left] = lane[k]
        lane[WEIGHT + left], lane[INSIDE + left] = f32(0.0), f32(0.0)


@njit(**ONCE)
def add_times(
    theta: Any, net: Any, place: Any, begin: int, count: int, times: int, lane: Any, start: Any, along: Any
) -> None:
    """Write f_tissue's first W x + b of all samples: the voxels' own part `place`, and the column for time times t.

    along receives its time derivative, the column itself.
    """
    column = net.base + net.hidden * (net.inputs + 1)
    for h in range(net.hidden):
        weight, here = theta[column + h], place[h * LANES + begin : h * LANES + begin + count]
        row = start[h * LANES : (h + 1) * LANES]
        along[h * LANES : (h + 1) * LANES] = weight
        for s in range(LANES):
            row[s] = weight * lane[TIME + s]
        for v in range(count):
            voxel = row[v * times : (v + 1) * times]
            for k in range(voxel.size):
                voxel[k] += here[v]


@njit(**ONCE)
def add_times_gradient(
    net: Any, gradient: Any, begin: int, count: int, times: int, lane: Any, rate: bool, grad: Any, g_place: Any
) -> None:
    """Transpose of `add_times`: add the gradient of the column for time; write those of the voxels' own part."""
    column = net.base + net.hidden * (net.inputs + 1)
    for h in range(net.hidden):
        row, row_rate = gradient[0, h * LANES : (h + 1) * LANES], gradient[1, h * LANES : (h + 1) * LANES]
        total = f32(0.0)
        for s in range(LANES):
            total += row[s] * lane[TIME + s]
        if rate:
            for s in range(LANES):
                total += row_rate[s]
        grad[column + h] += total
        for v in range(count):
            voxel, total = row[v * times : (v + 1) * times], f32(0.0)
            for k in range(voxel.size):
                total += voxel[k]
            g_place[h * LANES + begin + v] = total
