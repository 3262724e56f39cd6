"""Encodings and networks as NumPy arrays: what every engine starts from, and their values without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .grids import Floats, Level, Seed, check_settings, corners, grid_levels, siren_start, table_start


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
    def start(cls, seed: Seed, levels: int, features: int, log2_table: int, base: int, finest: int) -> Table:
        """An encoding with a random table. Raises InputError for settings that define none."""
        check_settings(levels, features, log2_table, base, finest, "torch")
        made = grid_levels(levels, log2_table, base, finest)
        return cls(table_start(seed, made[-1].offset + made[-1].rows, features), made)

    @property
    def width(self) -> int:
        """Values in a code: levels * features."""
        return len(self.levels) * self.table.shape[1]

    def index(self, positions: Floats) -> tuple[NDArray[np.uint32], Floats]:
        """Return table rows and trilinear weights, both (N, levels, 8), of positions (N, 3) in [0, 1]."""
        found = [corners(positions.astype(float), level, np) for level in self.levels]
        rows = np.stack([row for row, _ in found], axis=1).astype(np.uint32)
        return rows, np.stack([weight for _, weight in found], axis=1).astype(np.float32)

    def codes(self, rows: Any, weights: Any) -> Floats:
        """Return the codes (n, levels * features) of points with these rows and weights, as from `index`."""
        return np.einsum("nlk,nlkf->nlf", weights, self.table[rows]).reshape(len(rows), -1)
