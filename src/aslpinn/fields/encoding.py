"""The multiresolution hash encoding of Müller et al. 2022, for PyTorch.

Level l lays a grid of `resolution` vertices along each axis over the unit cube. A vertex points to a row of the level's
table: directly where the grid fits into the table, else through a hash that lets several vertices share one row. The
code of a point is the trilinear interpolation of the rows of the eight vertices around it, all levels side by side. The
arithmetic of scales, half-cell shift, row counts and hash is that of tiny-cuda-nn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from .arrays import ENGINES, Level, Seed, check_settings, corners, grid_levels, table_start, with_lines

__all__ = ["ENGINES", "HashIndex", "Level", "MultiresHashEncoding", "grid_levels"]


@dataclass(frozen=True)
class HashIndex:
    """Table rows and trilinear weights of fixed positions, computed once by `MultiresHashEncoding.precompute`.

    positions (N, 3 or more) float32; rows (N, levels, 8) int32, into the whole table; weights (N, levels, 8) float32.
    """

    positions: Tensor
    rows: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def to(self, device: torch.device | str) -> HashIndex:
        """Return the same index on another device."""
        return HashIndex(self.positions.to(device), self.rows.to(device), self.weights.to(device))


class MultiresHashEncoding(nn.Module):
    """Trainable code of a position: interpolated table rows of several grids (Müller et al. 2022, section 3).

    Parameters
    ----------
    levels, features : int
        Number of grids, and of values in each row; a code has levels * features values, levels in order.
    log2_table : int
        A level has at most 2^log2_table rows.
    base, finest : int
        Vertices along an axis of the first and of the last grid.
    engine : str
        "torch", on every device, or "tinycudann" (CUDA; has not been run on a GPU by this project).
    seed : int or numpy.random.Generator
        Of the table, which starts uniform in -1e-4 to 1e-4.
    lines : sequence of int
        Vertices of grids of one axis, one for each coordinate after the third: what else is known of a point, such as
        the rank of its voxel in an anatomical image. Their codes come last.

    `.table` (rows, features) is the only parameter. Raises InputError for settings that define no encoding, for engine
    "tinycudann" where that package cannot be imported, and for lines with it.
    """

    table: nn.Parameter

    def __init__(
        self,
        levels: int = 16,
        features: int = 2,
        log2_table: int = 15,
        base: int = 16,
        finest: int = 4096,
        engine: str = "torch",
        seed: Seed = 0,
        lines: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_settings(levels, features, log2_table, base, finest, engine)
        if lines and engine == "tinycudann":
            raise InputError('lines: tiny-cuda-nn has grids in space only; expected none, or engine="torch"')
        self.levels = with_lines(grid_levels(levels, log2_table, base, finest), lines)
        self.coordinates = 3 + len(lines)
        self.features = features
        self.log2_table = log2_table
        self.base = base
        self.finest = finest
        self.engine = engine
        rows = self.levels[-1].offset + self.levels[-1].rows
        self.table = nn.Parameter(torch.from_numpy(table_start(seed, rows, features)))
        self._native: list[Any] = []  # a list hides tinycudann's own parameters from this module's
        if engine == "tinycudann":
            self._native.append(_tinycudann(self))

    @property
    def width(self) -> int:
        """Values in a code: levels * features."""
        return len(self.levels) * self.features

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes (N, levels * features) of positions x (N, 3 + lines) in [0, 1].

        Engine "torch" is also differentiable in x. Raises InputError for another shape, for positions outside [0, 1]
        or not finite, and for positions that require a gradient with another engine.
        """
        if x.requires_grad and self.engine != "torch":
            raise InputError('positions: they require a gradient, which only engine="torch" gives')
        return self.lookup(self.precompute(x))

    def precompute(self, x: Tensor) -> HashIndex:
        """Return rows and weights of positions x (N, 3 + lines) in [0, 1], so that fixed positions are hashed once.

        Raises InputError as `forward` does.
        """
        if x.ndim != 2 or x.shape[1] != self.coordinates:
            raise InputError(f"positions: found shape {tuple(x.shape)}, expected (N, {self.coordinates})")
        if x.numel() and not (bool(x.min() >= 0) and bool(x.max() <= 1)):
            raise InputError(
                f"positions: found values from {float(x.min()):g} to {float(x.max()):g}, expected all in [0, 1]"
            )
        x = x.to(self.table.device)
        found = [corners(x.double(), level, torch) for level in self.levels]
        rows = torch.stack([row.int() for row, _ in found], dim=1)
        weights = torch.stack([weight.float() for _, weight in found], dim=1)
        return HashIndex(x.float(), rows, weights)

    def lookup(self, index: HashIndex, subset: Tensor | None = None) -> Tensor:
        """Return the codes (n, levels * features) of precomputed positions, or of the rows `subset` (n,) of them.

        Where the table has K tables side by side, (rows, K * features), codes are (K, n, levels * features).
        """
        if self.engine == "tinycudann":
            chosen = index.positions if subset is None else index.positions[subset]
            return torch.func.functional_call(self._native[0], {"params": self.table.flatten()}, (chosen,)).float()
        rows, weights = index.rows, index.weights
        if subset is not None:
            rows, weights = rows[subset], weights[subset]
        codes = functional.embedding_bag(
            rows.flatten(0, 1), self.table, per_sample_weights=weights.flatten(0, 1), mode="sum"
        )
        if self.table.shape[1] == self.features:
            return codes.view(len(rows), self.width)
        members = codes.view(len(rows), len(self.levels), -1, self.features)  # those of K tables, side by side in a row
        return members.permute(2, 0, 1, 3).flatten(2)

    def extra_repr(self) -> str:
        """Return the settings, for printing."""
        return (
            f"levels={len(self.levels)}, features={self.features}, log2_table={self.log2_table}, "
            f"base={self.base}, finest={self.finest}, engine={self.engine!r}, rows={len(self.table)}"
        )


def _tinycudann(encoding: MultiresHashEncoding) -> Any:
    """Return tiny-cuda-nn's encoding of the same settings; this path has not been run on a GPU."""
    try:
        import tinycudann
    except (ImportError, OSError) as error:  # it raises EnvironmentError where it finds no CUDA device
        raise InputError(
            f"engine: tinycudann cannot be used ({error}). It needs a CUDA device and "
            '`conda install -c conda-forge tiny-cuda-nn`; engine="torch" needs neither'
        ) from error
    config = {
        "otype": "HashGrid",
        "n_levels": len(encoding.levels),
        "n_features_per_level": encoding.features,
        "log2_hashmap_size": encoding.log2_table,
        "base_resolution": encoding.base,
        "per_level_scale": (encoding.finest / encoding.base) ** (1.0 / max(1, len(encoding.levels) - 1)),
        "interpolation": "Linear",
    }
    native = tinycudann.Encoding(n_input_dims=3, encoding_config=config, dtype=torch.float32)
    if native.params.numel() != encoding.table.numel():
        raise InputError(
            f"engine: tinycudann has {native.params.numel()} table values for these settings, expected "
            f'{encoding.table.numel()}: it rounds a level in float32. Change finest by one, or use engine="torch"'
        )
    return native
