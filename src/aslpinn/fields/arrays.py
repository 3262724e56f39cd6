"""Encodings and networks as NumPy arrays: the grids (Müller et al. 2022), starts and values, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Floats = NDArray[np.float32]
Seed = int | np.random.Generator

ENGINES = ("torch", "tinycudann")
PRIMES = (1, 2654435761, 805459861)  # Müller et al. 2022, section 3; Teschner et al. 2003
INIT = 1e-4  # half width of the uniform distribution that tables start from, Müller et al. 2022, section 4


@dataclass(frozen=True)
class Level:
    """One grid of the encoding: its rows are `offset` to `offset + rows - 1` of the table.

    A line, a grid of one axis, lies along the coordinate `line` of the points; None: along the first three, in space.
    """

    scale: float
    resolution: int
    rows: int
    offset: int
    dense: bool
    line: int | None = None


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


def with_lines(levels: tuple[Level, ...], lines: Sequence[int]) -> tuple[Level, ...]:
    """Return the levels, and after them lines of so many vertices each along the coordinates after the third."""
    offset = levels[-1].offset + levels[-1].rows
    for number, vertices in enumerate(lines):
        levels += (Level(vertices - 1.0, vertices, vertices, offset, True, 3 + number),)
        offset += vertices
    return levels


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


def corners(x: Any, level: Level, xp: Any) -> tuple[Any, Any]:
    """Return table rows (N, 8) int64 and trilinear weights (N, 8) float64 of points x (N, 3 or more) on one level.

    On a line a point lies between two vertices; the other six have weight 0. Points are float64, for in float32 a
    position at scale 4095 would be off by up to 1.2e-4 of a cell. xp is NumPy or torch, whichever x belongs to.
    """
    if level.line is not None:
        position = x[:, level.line] * level.scale
        lower = xp.asarray(xp.floor(position), dtype=xp.int64).clip(0, level.rows - 2)
        fraction = position - lower
        row, nothing = lower + level.offset, xp.zeros_like(fraction)
        return xp.stack([row, row + 1] + [row] * 6, 1), xp.stack([1.0 - fraction, fraction] + [nothing] * 6, 1)
    position = x[:, :3] * level.scale + 0.5
    lower = xp.floor(position.detach() if hasattr(position, "detach") else position)
    fraction, lower = position - lower, xp.asarray(lower, dtype=xp.int64)
    sides = [(lower[:, axis], lower[:, axis] + 1) for axis in range(3)]
    shares = [(1.0 - fraction[:, axis], fraction[:, axis]) for axis in range(3)]
    rows, weights = [], []
    for k in range(8):
        i, j, l = (sides[axis][k >> axis & 1] for axis in range(3))  # noqa: E741
        if level.dense:
            # the last vertex of an axis may lie one past the grid; as in tiny-cuda-nn it runs into the next line
            row = i + j * level.resolution + l * level.resolution**2
        else:
            row = (i * PRIMES[0] ^ j * PRIMES[1] ^ l * PRIMES[2]) & 0xFFFFFFFF
        rows.append(row % level.rows + level.offset)
        a, b, c = (shares[axis][k >> axis & 1] for axis in range(3))
        weights.append(a * b * c)
    return xp.stack(rows, 1), xp.stack(weights, 1)


def decay_rates(levels: Sequence[Level], strength: float) -> NDArray[np.float64]:
    """Weight decay of each level's rows beside AdamW's own: strength times (resolution / 8)^1.5; none on a line.

    Rows that decay the faster the finer their grid are a prior of finite smoothness: what a step of a given size costs
    grows with its spatial frequency.
    """
    return strength * (np.array([level.resolution * (level.line is None) for level in levels]) / 8) ** 1.5


def table_start(seed: Seed, rows: int, features: int) -> Floats:
    """Return a table (rows, features) uniform in -INIT to INIT."""
    return _uniform(np.random.default_rng(seed), (rows, features), INIT)


def siren_start(
    seed: Seed, widths: Sequence[int], activation: str, omega_hidden: float
) -> tuple[list[Floats], list[Floats]]:
    """Return random weights (outputs, inputs) and biases (outputs,) of the layers between `widths` (see `Siren`).

    For "relu" weights start in +-sqrt(6/n) (He et al. 2015).
    """
    rng = np.random.default_rng(seed)
    weights, biases = [], []
    for number, (before, after) in enumerate(pairwise(widths)):
        bound = 1.0 / before if number == 0 else math.sqrt(6.0 / before) / omega_hidden
        weights.append(_uniform(rng, (after, before), math.sqrt(6.0 / before) if activation == "relu" else bound))
        biases.append(_uniform(rng, (after,), 1.0 / math.sqrt(before)))
    return weights, biases


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Floats:
    return (rng.random(shape, np.float32) * 2 - 1) * np.float32(bound)


@dataclass
class Layers:
    """A SIREN's weights (outputs, inputs) and biases (outputs,) by layer, and its frequency factors."""

    weights: list[Floats]
    biases: list[Floats]
    omega_first: float
    omega_hidden: float

    @classmethod
    def start(cls, seed: Seed, widths: Sequence[int], omega_first: float, omega_hidden: float) -> Layers:
        """A network of these widths, inputs first, with random weights (see `networks.Siren`)."""
        return cls(*siren_start(seed, widths, "sine", omega_hidden), omega_first, omega_hidden)

    def __call__(self, x: Floats) -> Floats:
        """Return the outputs (n, outputs) of inputs (n, inputs)."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight.T + bias
            if layer < len(self.weights) - 1:
                x = np.sin(np.float32(self.omega_hidden if layer else self.omega_first) * x)
        return x


@dataclass
class Table:
    """A hash encoding's table (rows, features) and its levels."""

    table: Floats
    levels: tuple[Level, ...]

    @classmethod
    def start(
        cls, seed: Seed, levels: int, features: int, log2_table: int, base: int, finest: int, lines: Sequence[int] = ()
    ) -> Table:
        """An encoding with a random table. Raises InputError for settings that define none."""
        check_settings(levels, features, log2_table, base, finest, "torch")
        made = with_lines(grid_levels(levels, log2_table, base, finest), lines)
        return cls(table_start(seed, made[-1].offset + made[-1].rows, features), made)

    @property
    def width(self) -> int:
        """Values in a code: levels * features."""
        return len(self.levels) * self.table.shape[1]

    def index(self, positions: Floats) -> tuple[NDArray[np.uint32], Floats]:
        """Return table rows and weights, both (N, levels, 8), of positions (N, 3 + lines) in [0, 1]."""
        found = [corners(positions.astype(float), level, np) for level in self.levels]
        rows = np.stack([row for row, _ in found], axis=1).astype(np.uint32)
        return rows, np.stack([weight for _, weight in found], axis=1).astype(np.float32)

    def codes(self, rows: Any, weights: Any) -> Floats:
        """Return the codes (n, levels * features) of points with these rows and weights, as from `index`."""
        return np.einsum("nlk,nlkf->nlf", weights, self.table[rows]).reshape(len(rows), -1)
