"""The grids of the hash encoding (Müller et al. 2022): scales, table rows, start; what every engine has in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InputError

ENGINES = ("auto", "torch", "fused", "tinycudann")
PRIMES = (1, 2654435761, 805459861)  # Müller et al. 2022, section 3; Teschner et al. 2003
INIT = 1e-4  # half width of the uniform distribution that tables start from, Müller et al. 2022, section 4


@dataclass(frozen=True)
class Level:
    """One grid of the encoding: its rows are `offset` to `offset + rows - 1` of the table."""

    scale: float
    resolution: int
    rows: int
    offset: int
    dense: bool


def grid_levels(levels: int, log2_table: int, base: int, finest: int) -> tuple[Level, ...]:
    """Return scale, resolution and table rows of every level.

    scale = base * b^l - 1 with b = exp(ln(finest / base) / (levels - 1)); resolution = ceil(scale) + 1; rows =
    resolution^3 rounded up to a multiple of 8, at most 2^log2_table. With one level only `base` counts. Scales are
    float64; tiny-cuda-nn computes them in float32. Source: Müller et al. 2022, equations 2 and 3, and tiny-cuda-nn.
    """
    growth = math.exp(math.log(finest / base) / (levels - 1)) if levels > 1 else 1.0
    made: list[Level] = []
    offset = 0
    for number in range(levels):
        scale = base * growth**number - 1.0
        resolution = math.ceil(scale) + 1
        rows = min(-(-(resolution**3) // 8) * 8, 2**log2_table)
        made.append(Level(scale, resolution, rows, offset, resolution**3 <= rows))
        offset += rows
    return tuple(made)


def check_settings(levels: int, features: int, log2_table: int, base: int, finest: int, engine: str) -> None:
    """Raise InputError where the settings define no encoding."""
    limits = {"levels": (levels, 1, 64), "features": (features, 1, 64), "log2_table": (log2_table, 3, 26)}
    limits |= {"base": (base, 1, 2**20), "finest": (finest, 1, 2**20)}
    for name, (value, low, high) in limits.items():
        if not low <= value <= high or value != int(value):
            raise InputError(f"{name}: found {value}, expected an integer from {low} to {high}")
    if levels > 1 and finest < base:
        raise InputError(f"finest: found {finest}, expected at least base, which is {base}")
    if engine not in ENGINES:
        raise InputError(f"engine: found {engine!r}, expected one of {', '.join(ENGINES)}")
