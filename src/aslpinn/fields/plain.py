"""Encodings and networks as NumPy arrays: what the compiled engine trains, with or without PyTorch.

Of a PyTorch module they are views of its memory (`of`); by themselves they start as the module of the same seed does
(`start`), so that a fit that needs no autograd need not load PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .draws import Draws
from .grids import INIT, Level, check_settings, grid_levels

if TYPE_CHECKING:
    from .encoding import MultiresHashEncoding
    from .networks import Siren

Floats = NDArray[np.float32]


def layer_starts(
    widths: Sequence[int], activation: str, omega_hidden: float
) -> Iterator[tuple[int, int, float, float]]:
    """Yield outputs, inputs, and half widths of the uniform start of weights and biases, layer by layer (see `Siren`).

    For "relu" weights start in +-sqrt(6/n) (He et al. 2015).
    """
    for number, (before, after) in enumerate(pairwise(widths)):
        bound = 1.0 / before if number == 0 else math.sqrt(6.0 / before) / omega_hidden
        yield after, before, math.sqrt(6.0 / before) if activation == "relu" else bound, 1.0 / math.sqrt(before)


@dataclass
class PlainSiren:
    """A SIREN's weights (outputs, inputs) and biases (outputs,) by layer, and its frequency factors."""

    weights: list[Floats]
    biases: list[Floats]
    omega_first: float
    omega_hidden: float

    @classmethod
    def start(cls, draws: Draws, widths: Sequence[int], omega_first: float, omega_hidden: float) -> PlainSiren:
        """A network of these widths, inputs first, with random weights."""
        made = cls([], [], omega_first, omega_hidden)
        for after, before, bound, edge in layer_starts(widths, "sine", omega_hidden):
            made.weights.append(draws.uniform((after, before), -bound, bound))
            made.biases.append(draws.uniform((after,), -edge, edge))
        return made

    @classmethod
    def of(cls, siren: Siren) -> PlainSiren:
        """Views of the parameters of a network on the CPU."""
        weights, biases = ([p.detach().numpy() for p in several] for several in (siren.weights, siren.biases))
        return cls(weights, biases, siren.omega(0), siren.omega(1))

    def forward(self, x: Floats) -> Floats:
        """Return the outputs (n, outputs) of inputs (n, inputs)."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight.T + bias
            if layer < len(self.weights) - 1:
                x = np.sin(np.float32(self.omega_hidden if layer else self.omega_first) * x)
        return x


@dataclass
class PlainEncoding:
    """A hash encoding's table (rows, features) and its levels."""

    table: Floats
    levels: tuple[Level, ...]

    @classmethod
    def start(cls, draws: Draws, levels: int, features: int, log2_table: int, base: int, finest: int) -> PlainEncoding:
        """An encoding with a random table. Raises InputError for settings that define none."""
        check_settings(levels, features, log2_table, base, finest, "fused")
        made = grid_levels(levels, log2_table, base, finest)
        return cls(draws.uniform((made[-1].offset + made[-1].rows, features), -INIT, INIT), made)

    @classmethod
    def of(cls, encoding: MultiresHashEncoding) -> PlainEncoding:
        """A view of the table of an encoding on the CPU."""
        return cls(encoding.table.detach().numpy(), encoding.levels)

    @property
    def width(self) -> int:
        """Values in a code: levels * features."""
        return len(self.levels) * self.table.shape[1]

    def index(self, positions: Floats) -> tuple[NDArray[np.uint32], Floats]:
        """Return table rows and trilinear weights, both (N, levels, 8), of positions (N, 3) in [0, 1]."""
        from .fused_table import hash_corners
        from .threads import on_threads, workers

        shape = (len(positions), len(self.levels), 8)
        rows, weights = np.empty(shape, np.uint32), np.empty(shape, np.float32)
        scales = np.array([level.scale for level in self.levels])
        sizes = np.array([[level.resolution, level.rows, level.offset, level.dense] for level in self.levels], np.int64)
        on_threads(workers(), hash_corners, positions, scales, sizes, rows, weights)
        return rows, weights

    def codes(self, rows: Any, weights: Any) -> Floats:
        """Return the codes (n, levels * features) of points with these rows and weights, as from `index`."""
        return np.einsum("nlk,nlkf->nlf", weights, self.table[rows]).reshape(len(rows), -1)
