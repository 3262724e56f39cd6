"""The multiresolution hash encoding of Müller et al. 2022: one meaning, three engines.

Level l lays a grid of `resolution` vertices along each axis over the unit cube. A vertex points to a row of the level's
table: directly where the grid fits into the table, else through a hash that lets several vertices share one row. The
code of a point is the trilinear interpolation of the rows of the eight vertices around it, all levels side by side. The
arithmetic of scales, half-cell shift, row counts and hash is that of tiny-cuda-nn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .grids import ENGINES, INIT, PRIMES, Level, check_settings, grid_levels

__all__ = ["ENGINES", "INIT", "PRIMES", "HashIndex", "Level", "MultiresHashEncoding", "grid_levels", "make_generator"]

_UINT32 = 0xFFFFFFFF


@dataclass(frozen=True)
class HashIndex:
    """Table rows and trilinear weights of fixed positions, computed once by `MultiresHashEncoding.precompute`.

    positions (N, 3) float32; rows (N, levels, 8) int32, into the whole table; weights (N, levels, 8) float32.
    """

    positions: Tensor
    rows: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def to(self, device: torch.device | str) -> HashIndex:
        """Return the same index on another device."""
        return HashIndex(self.positions.to(device), self.rows.to(device), self.weights.to(device))


def make_generator(seed: int | torch.Generator) -> torch.Generator:
    """Return a torch.Generator: the one given, or a new one from an integer seed."""
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


def _corners(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Table rows (N, 8) int32 and trilinear weights (N, 8) float32 of points x (N, 3) on one level.

    Positions are float64 inside: at scale 4095 a float32 position is off by up to 1.2e-4 of a cell.
    """
    position = x.double() * level.scale + 0.5
    lower = position.detach().floor()
    fraction = position - lower
    offsets = torch.tensor([[k & 1, k >> 1 & 1, k >> 2 & 1] for k in range(8)], device=x.device)
    vertex = lower.long()[:, None, :] + offsets
    if level.dense:
        # the last vertex of an axis may lie one past the grid; as in tiny-cuda-nn it runs into the next line of rows
        row = vertex[..., 0] + vertex[..., 1] * level.resolution + vertex[..., 2] * level.resolution**2
    else:
        row = (vertex[..., 0] * PRIMES[0] ^ vertex[..., 1] * PRIMES[1] ^ vertex[..., 2] * PRIMES[2]) & _UINT32
    along = torch.where(offsets.bool(), fraction[:, None, :], 1.0 - fraction[:, None, :])
    return (row % level.rows + level.offset).int(), along.prod(-1).float()


class _Fused(torch.autograd.Function):
    """The Numba kernels as one differentiable operation of the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor, points: Tensor, offsets: Tensor) -> Tensor:
        """Return codes (n, levels * features) of the chosen points."""
        from .kernels import gather

        ctx.save_for_backward(rows, weights, points, offsets)
        ctx.shape = table.shape
        out = torch.empty(len(points), rows.shape[1] * table.shape[1], dtype=torch.float32)
        gather(table.detach().numpy(), _unsigned(rows), weights.numpy(), points.numpy(), out.numpy())
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient with respect to the table."""
        from .kernels import scatter

        rows, weights, points, offsets = ctx.saved_tensors
        grad = torch.empty(ctx.shape, dtype=torch.float32)
        upstream = gradients[0].contiguous().numpy()
        scatter(upstream, _unsigned(rows), weights.numpy(), points.numpy(), offsets.numpy(), grad.numpy())
        return grad, None, None, None, None


def _unsigned(rows: Tensor) -> Any:
    """View int32 rows as uint32: Numba then needs no branch for negative indices."""
    import numpy as np

    return rows.numpy().view(np.uint32)


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
        "torch" (reference), "fused" (Numba, CPU), "tinycudann" (CUDA; has not been run on a GPU by this project) or
        "auto": fused for a table on the CPU; on CUDA tinycudann where it can be imported, else torch.
    seed : int or torch.Generator
        Of the table, which starts uniform in -1e-4 to 1e-4.

    `.table` (rows, features) is the only parameter. Raises InputError for settings that define no encoding, and for
    engine "tinycudann" where that package cannot be imported.
    """

    table: nn.Parameter
    _offsets: Tensor

    def __init__(
        self,
        levels: int = 16,
        features: int = 2,
        log2_table: int = 15,
        base: int = 16,
        finest: int = 4096,
        engine: str = "torch",
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        check_settings(levels, features, log2_table, base, finest, engine)
        self.levels = grid_levels(levels, log2_table, base, finest)
        self.features = features
        self.log2_table = log2_table
        self.base = base
        self.finest = finest
        self.engine = engine
        rows = self.levels[-1].offset + self.levels[-1].rows
        start = torch.empty(rows, features).uniform_(-INIT, INIT, generator=make_generator(seed))
        self.table = nn.Parameter(start)
        offsets = torch.tensor([level.offset for level in self.levels] + [rows])
        self.register_buffer("_offsets", offsets, persistent=False)
        self._native: list[Any] = []  # a list hides tinycudann's own parameters from this module's
        if engine == "tinycudann":
            self._native.append(_tinycudann(self))

    @property
    def width(self) -> int:
        """Values in a code: levels * features."""
        return len(self.levels) * self.features

    def engine_in_use(self) -> str:
        """Return the engine that the next call runs, which for "auto" depends on the table's device."""
        if self.engine != "auto":
            return self.engine
        if self.table.device.type == "cpu":
            return "fused"
        if self.table.device.type == "cuda" and not self._native:
            try:
                self._native.append(_tinycudann(self))
            except InputError:
                return "torch"
        return "tinycudann" if self._native else "torch"

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes (N, levels * features) of positions x (N, 3) in [0, 1].

        Engine "torch" is also differentiable in x. Raises InputError for another shape, for positions outside [0, 1]
        or not finite, and for positions that require a gradient with another engine.
        """
        if x.requires_grad and self.engine_in_use() != "torch":
            raise InputError('positions: they require a gradient, which only engine="torch" gives')
        return self.lookup(self.precompute(x))

    def precompute(self, x: Tensor) -> HashIndex:
        """Return rows and weights of positions x (N, 3) in [0, 1], so that fixed positions are hashed once.

        Raises InputError as `forward` does.
        """
        if x.ndim != 2 or x.shape[1] != 3:
            raise InputError(f"positions: found shape {tuple(x.shape)}, expected (N, 3)")
        if x.numel() and not (bool(x.min() >= 0) and bool(x.max() <= 1)):
            raise InputError(
                f"positions: found values from {float(x.min()):g} to {float(x.max()):g}, expected all in [0, 1]"
            )
        x = x.to(self.table.device)
        corners = [_corners(x, level) for level in self.levels]
        rows = torch.stack([row for row, _ in corners], dim=1)
        weights = torch.stack([weight for _, weight in corners], dim=1)
        return HashIndex(x.float(), rows, weights)

    def lookup(self, index: HashIndex, subset: Tensor | None = None) -> Tensor:
        """Return the codes (n, levels * features) of precomputed positions, or of the rows `subset` (n,) of them."""
        engine = self.engine_in_use()
        if engine == "tinycudann":
            chosen = index.positions if subset is None else index.positions[subset]
            return torch.func.functional_call(self._native[0], {"params": self.table.flatten()}, (chosen,)).float()
        if engine == "fused":
            if self.table.device.type != "cpu" or self.table.dtype != torch.float32:
                found = f"{self.table.dtype} on {self.table.device.type}"
                raise InputError(f'engine: found "fused" with a table of {found}, expected float32 on a CPU')
            points = torch.arange(len(index)) if subset is None else _check_subset(subset, len(index))
            return _Fused.apply(self.table, index.rows, index.weights, points, self._offsets)
        rows, weights = index.rows, index.weights
        if subset is not None:
            rows, weights = rows[subset], weights[subset]
        values = self.table.index_select(0, rows.flatten()).view(*rows.shape, self.features)
        return (values * weights[..., None]).sum(2).flatten(1)

    def extra_repr(self) -> str:
        """Return the settings, for printing."""
        return (
            f"levels={len(self.levels)}, features={self.features}, log2_table={self.log2_table}, "
            f"base={self.base}, finest={self.finest}, engine={self.engine!r}, rows={len(self.table)}"
        )


def _check_subset(subset: Tensor, count: int) -> Tensor:
    """Return subset as contiguous int64 row numbers; the kernels themselves do not check bounds."""
    points = subset.nonzero().flatten() if subset.dtype == torch.bool else subset.long().contiguous()
    if points.numel() and (int(points.min()) < 0 or int(points.max()) >= count):
        raise InputError(f"subset: found rows {int(points.min())} to {int(points.max())}, expected 0 to {count - 1}")
    return points


def _tinycudann(encoding: MultiresHashEncoding) -> Any:
    """Return tiny-cuda-nn's encoding of the same settings; this path has not been run on a GPU."""
    try:
        import tinycudann
    except (ImportError, OSError) as error:  # it raises EnvironmentError where it finds no CUDA device
        raise InputError(
            f"engine: tinycudann cannot be used ({error}). It needs a CUDA device and "
            '`conda install -c conda-forge tiny-cuda-nn`; on a CPU use engine="fused"'
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
