"""Compiled hash tables: codes of a block of points, and their gradients carried back into an AdamW step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .fused import ENTRY, KERNEL, LANES, f32


@njit(**KERNEL)
def gather_block(table: Any, rows: Any, weights: Any, points: Any, code: Any) -> None:
    """Write the codes of at most LANES points, (levels * features) rows of code; lanes left over repeat the first."""
    features = table.shape[1]
    for s in range(LANES):
        p = points[s if s < points.size else 0]
        for level in range(rows.shape[1]):
            if features == 2:  # the published size, with its sums kept in registers
                one, two = f32(0.0), f32(0.0)
                for k in range(8):
                    weight, row = weights[p, level, k], rows[p, level, k]
                    one += weight * table[row, 0]
                    two += weight * table[row, 1]
                code[2 * level * LANES + s] = one
                code[(2 * level + 1) * LANES + s] = two
                continue
            for f in range(features):
                total = f32(0.0)
                for k in range(8):
                    total += weights[p, level, k] * table[rows[p, level, k], f]
                code[(level * features + f) * LANES + s] = total


@njit(**KERNEL)
def adamw(p: Any, m: Any, v: Any, g: Any, rates: Any) -> None:
    """One AdamW step in place (Loshchilov and Hutter 2019), in torch's order of operations; `rates` as from `rates_of`.

    p, m, v, g: flat arrays of parameters, first and second moments, gradients.
    """
    keep, step, root, b1, b2, eps = rates
    for q in range(p.size):
        m[q] += (f32(1.0) - b1) * (g[q] - m[q])
        v[q] = b2 * v[q] + (f32(1.0) - b2) * g[q] * g[q]
        p[q] = p[q] * keep - step * m[q] / (np.sqrt(v[q]) * root + eps)


def rates_of(lr: float, weight_decay: float, step: int, betas: tuple[float, float] = (0.9, 0.999)) -> tuple[Any, ...]:
    """Return `adamw`'s factors at a step counted from 1: decay, step size, root of v's correction, betas, epsilon."""
    size = lr / (1.0 - betas[0] ** step)
    root = 1.0 / np.sqrt(1.0 - betas[1] ** step)
    return tuple(f32(x) for x in (1.0 - lr * weight_decay, size, root, betas[0], betas[1], 1e-8))


@njit(**ENTRY)
def table_gradient_step(
    thread: int,
    threads: int,
    g_code: Any,
    rows: Any,
    weights: Any,
    points: Any,
    offsets: Any,
    table: Any,
    m: Any,
    v: Any,
    scratch: Any,
    rates: Any,
) -> None:
    """Carry the gradients of codes (n, levels * features) back to the table and take an AdamW step, level by level.

    Levels own disjoint rows, so threads never meet; a thread takes every `threads`-th level, which shares out the small
    ones. A level's gradient lives in its thread's scratch (threads, largest level's rows * features) and is used while
    it is in the cache. table, m, v: flat.
    """
    features = g_code.shape[1] // rows.shape[1]
    for level in range(thread, rows.shape[1], threads):
        first, last = offsets[level] * features, offsets[level + 1] * features
        grad = scratch[thread, : last - first]
        grad[:] = f32(0.0)
        for i in range(points.size):
            p = points[i]
            if features == 2:
                one, two = g_code[i, 2 * level], g_code[i, 2 * level + 1]
                for k in range(8):
                    place, weight = np.uint64(rows[p, level, k]) * np.uint64(2) - np.uint64(first), weights[p, level, k]
                    grad[place] += weight * one
                    grad[place + np.uint64(1)] += weight * two
                continue
            for k in range(8):
                row, weight = np.int64(rows[p, level, k]) * features - first, weights[p, level, k]
                for f in range(features):
                    grad[row + f] += weight * g_code[i, level * features + f]
        adamw(table[first:last], m[first:last], v[first:last], grad, rates)
