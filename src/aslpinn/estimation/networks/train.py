"""The training of networks: what they see of a series, and the one loop of epochs, batches, losses and steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import FitError, InputError
from ...physics import Constants, delta_m
from ..field.prior import depth_ranks, guide_ranks, is_constant
from ..problem import Floats, Problem
from .config import PinnOptions
from .durations import Durations

if TYPE_CHECKING:
    from ...fields.arrays import Table

Points = NDArray[np.int64]
OnEpoch = Callable[[int, dict[str, float]], None]

#: Streams of random numbers beside the networks' starts, for default_rng([seed, stream]): a fit's own seed, so that the
#: members of an ensemble see the same batches and differ by their starts.
BATCHES, HELD_OUT = 1, 2

LATE = 1.0  # s after labeling began
EDGE_SHARE = 0.15


@dataclass(frozen=True)
class Samples:
    """A problem of N voxels and D delays as networks see it, float32.

    Attributes
    ----------
    signal : (N, D), or (K, N, D) where K networks have a series each
        Signals, scaled.
    weight : (1 or N, D), or (K, N, D)
        Repeats of each delay over their mean; 0 where a sample is held out.
    held_out : None, or bool array like signal
    pld : (1 or N, D)
        Effective PLD in s.
    positions : (N, 3 + lines)
        Voxel centers in [0, 1]^3, and ranks in [0, 1] of each voxel's anatomy.
    lines : tuple of int
        Vertices of the encodings' grids along those ranks.
    edge_width : float
        Width in s of the edges of the pointwise loss's P.
    initial : bool
        Whether there is a sample more, the last: f_tissue = 0 at t = 0, where labeling began.
    scale : float, or (K, 1, 1)
        Of the signals, over delta-M / M0b.
    """

    problem: Problem
    signal: Floats
    weight: Floats
    held_out: NDArray[np.bool_] | None
    pld: Floats
    positions: Floats
    lines: tuple[int, ...]
    edge_width: float
    initial: bool
    scale: Any
    _indices: dict[Any, tuple[NDArray[np.uint32], Floats]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        problem: Problem,
        voxel_size: tuple[float, float, float],
        config: PinnOptions,
        guide: NDArray[Any] | None = None,
    ) -> Samples:
        """Scale the signals, weigh by repeats, keep back a share of the samples where the config asks for it."""
        level = signal_level(problem, config)
        weight, held_out = (problem.counts / problem.counts.mean())[None], None
        if config.held_out:
            drawn = np.random.default_rng([config.seed, HELD_OUT]).random(problem.signal.shape)
            held_out = drawn < config.held_out
            weight = weight * ~held_out
        signal, pld, initial = problem.signal / np.float32(level), problem.pld, initial_condition(problem, config)
        if initial:
            signal, weight = _with_column(signal, 0.0), _with_column(weight, 1.0)
            held_out = None if held_out is None else _with_column(held_out, False)
            pld = _with_column(pld, -problem.tau[np.argmin(problem.acquisition.post_labeling_delay)])
        positions, width = unit_positions(problem, voxel_size), edge_width(problem, config)
        ranks = anatomy(problem, voxel_size, guide) if config.anatomy == "on" else []
        positions = np.column_stack([positions, *(rank for rank, _ in ranks)]).astype(np.float32)
        lines = tuple(count for _, count in ranks)
        return cls(problem, signal, weight, held_out, pld, positions, lines, width, initial, 1.0 / level)

    @classmethod
    def stack(cls, series: Sequence[Samples]) -> Samples:
        """Those of K series with the same voxels and delays, for K networks side by side."""

        def stacked(name: str) -> Any:
            return np.stack([np.broadcast_to(getattr(one, name), one.signal.shape) for one in series])

        held_out = None if series[0].held_out is None else stacked("held_out")
        scale = np.array([one.scale for one in series], np.float32)[:, None, None]
        weight = series[0].weight if held_out is None else stacked("weight")
        return replace(series[0], signal=stacked("signal"), weight=weight, held_out=held_out, scale=scale)

    def __len__(self) -> int:
        return int(self.signal.shape[-2])

    def with_signal(self, values: Floats) -> Samples:
        """The same of other signals (N, D), in units of delta-M / M0b."""
        signal = self.signal.copy()
        signal[..., : values.shape[1]] = values * np.float32(self.scale)
        return replace(self, signal=signal)

    @cached_property
    def durations(self) -> Durations:
        """The acquired times, and tau(PLD) between them."""
        return Durations(self.problem.acquisition, self.initial)

    def index(self, encoding: Table) -> tuple[NDArray[np.uint32], Floats]:
        """Table rows and weights of the positions, found once for all members."""
        if encoding.levels not in self._indices:
            self._indices[encoding.levels] = encoding.index(self.positions)
        return self._indices[encoding.levels]

    @cached_property
    def kept(self) -> tuple[Any, ...]:
        """What `held_out_error` compares: signals, 1 where one is held out and 0 elsewhere, scale, PLD and tau."""
        assert self.held_out is not None
        acquired = slice(len(self.problem.tau))
        signal, held_out = self.signal[..., acquired], self.held_out[..., acquired].astype(np.float32)
        return signal, held_out, np.float32(self.scale), self.problem.pld, self.problem.tau

    def batches(self, config: PinnOptions, rng: np.random.Generator) -> list[tuple[Points, Floats]]:
        """An epoch: numbers (n,) of the voxels in each batch, and where their collocation times fall, (n, count)."""
        parts = minibatches(len(self), config.batch, rng)
        if config.objective == "closed-form":
            return [(points, np.empty((len(points), 0), np.float32)) for points in parts]
        count, at = config.collocation, config.collocation_at
        return [(points, self.durations.draw(len(points), count, rng, at)) for points in parts]


def held_out_error(kept: Sequence[Any], cbf: Any, att: Any, constants: Constants) -> Any:
    """RMSE of the samples kept from the loss, predicted by Buxton's solution of maps (N,) or (K, N), in scaled units.

    kept: `Samples.kept`, as arrays or as tensors where the maps are. One number, or one for each of K networks.
    """
    signal, weight, scale, pld, tau = kept
    off = weight * (signal - scale * delta_m(cbf[..., None], att[..., None], pld, tau, constants)) ** 2
    return (off.sum((-2, -1)) / weight.sum((-2, -1))) ** 0.5


def _with_column(values: NDArray[Any], value: Any) -> NDArray[Any]:
    """(M, D) values with one more column of a value."""
    return np.pad(values, ((0, 0), (0, 1)), constant_values=value)


def initial_condition(problem: Problem, config: PinnOptions) -> bool:
    """Whether f_tissue = 0 at t = 0 is one more sample.

    A loss on derivatives or increments loses the constant. Early samples, in which no label has arrived, give it back;
    where the first lies later than LATE after labeling began there may be none.
    """
    if config.objective == "closed-form" or config.initial_condition == "off":
        return False
    return config.initial_condition == "on" or float(problem.acquisition.time.min()) > LATE


def edge_width(problem: Problem, config: PinnOptions) -> float:
    """Width in s of the edges of P in the pointwise loss: the config's, or EDGE_SHARE of the mean sampling interval.

    f_tissue(t = 0) = 0 counts as a sample where it is one, for then the loss looks at all times from there. Narrower
    than the sampling tells apart, so that CBF is not biased by blur; wide enough that the samples and random times on
    either side of an edge feel it, so that ATT has a gradient. Dispersion needs none: its kernel is smooth.
    """
    disperses = problem.acquisition.constants.disperses
    if disperses and config.edge_width:
        raise InputError(f"edge_width is {config.edge_width:g}, and the bolus is dispersed; expected 0 or none")
    if config.objective != "pointwise" or disperses:
        return 0.0
    if config.edge_width is not None:
        return float(config.edge_width)
    times = np.unique(problem.acquisition.time.round(6))
    if initial_condition(problem, config):
        times = np.append(0.0, times)
    return EDGE_SHARE * float(np.ptp(times)) / max(len(times) - 1, 1)


def signal_level(problem: Problem, config: PinnOptions) -> float:
    """delta-M / M0b that the networks see as 1. Raises InputError where the series is mostly negative."""
    level = float(np.percentile(problem.signal, config.signal_percentile)) / config.signal_scale
    if level <= 0:
        raise InputError(
            f"the {config.signal_percentile:g}th percentile of the series is {level:.3g}; expected a positive delta-M: "
            "is label minus control given for control minus label?"
        )
    return level


def unit_positions(problem: Problem, voxel_size: tuple[float, float, float]) -> Floats:
    """Voxel centers in [0, 1]^3, (N, 3): mm from the corner of the mask's box, over the longest side of that box."""
    size = np.asarray(voxel_size)
    low = problem.voxels.min(axis=0)
    extent = (problem.voxels.max(axis=0) - low + 1) * size
    return ((problem.voxels - low + 0.5) * size / extent.max()).astype(np.float32)


def anatomy(
    problem: Problem, voxel_size: tuple[float, float, float], guide: NDArray[Any] | None
) -> list[tuple[NDArray[np.float64], int]]:
    """Ranks (N,) of the guide, or else of depth in the mask, at several scales, and vertices of a line along each.

    They are the field's (`field.prior`): there hat functions of them have linear weights, here rows of the encodings.
    """
    if guide is None or is_constant(guide, problem.mask):
        return depth_ranks(problem.mask, voxel_size)
    return guide_ranks(guide, problem.mask, voxel_size)


def minibatches(n: int, batch: int, rng: np.random.Generator) -> list[Points]:
    """Every one of n voxels once, in random order, in parts of equal size, at most `batch`."""
    return np.array_split(rng.permutation(n), -(-n // batch))


def learning_rate(config: PinnOptions, epoch: int, step: int, steps: int) -> float:
    """Learning rate at a step of `steps` in an epoch (cosine changes by epoch, one-cycle by step)."""
    high, low = config.lr, config.final_lr
    if config.schedule == "cosine":
        share = min(1.0, epoch / (config.t_max or config.epochs))
        return low + 0.5 * (high - low) * (1 + math.cos(math.pi * share))
    if config.schedule == "one-cycle":
        peak = config.warmup * steps
        if step < peak:
            return high / 25 + 0.5 * (high - high / 25) * (1 - math.cos(math.pi * step / peak))
        share = (step - peak) / max(1.0, steps - 1 - peak)
        return low + 0.5 * (high - low) * (1 + math.cos(math.pi * min(1.0, share)))
    return high


class Engine(Protocol):
    """Takes training steps of one network, or of K side by side. Losses are numbers, or arrays (K,)."""

    name: str

    def load(self, batches: list[tuple[Points, Floats]]) -> Iterable[tuple[Any, Any]]:
        """The batches of an epoch where this engine computes."""

    def step(self, points: Any, drawn: Any, lr: float) -> dict[str, Any]:
        """Losses on a batch of voxels, their gradients, and an AdamW step; the losses before the step."""

    def maps(self) -> tuple[Floats, Floats]:
        """CBF in ml/100g/min and ATT in s of all voxels, as the networks are now: (K, N)."""

    def held_out_error(self) -> Any:
        """`held_out_error` of the networks as they are now."""


def train(engine: Engine, samples: Samples, config: PinnOptions, on_epoch: OnEpoch | None = None) -> list[Trained]:
    """Train an engine's networks; for each its maps after the last epoch, or after that of the smallest held-out error.

    on_epoch is called with each epoch and its losses, those of K networks averaged. Raises FitError as soon as the mean
    loss of an epoch is not finite.
    """
    rng = np.random.default_rng([config.seed, BATCHES])
    n, done = len(samples), 0
    steps = math.ceil(n / config.batch) * config.epochs
    record = Record(samples, config)
    for epoch in range(config.epochs):
        sums: dict[str, Any] = {}
        for points, drawn in engine.load(samples.batches(config, rng)):
            losses = engine.step(points, drawn, learning_rate(config, epoch, done, steps))
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss * (len(points) / n)
            done += 1
        means = record.add(epoch, sums, engine)
        if on_epoch is not None:
            on_epoch(epoch, means)
    return record.trained(engine)


@dataclass
class History:
    """Mean losses of every epoch; "held-out" is the RMSE of kept-back samples in scaled units. best: epoch kept."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    best: int = -1


class Trained(NamedTuple):
    """A trained network's CBF in ml/100g/min and ATT in s, both (N,), its history, and the engine that trained it."""

    cbf: Floats
    att: Floats
    history: History
    engine: str


class Record:
    """The histories of K networks, and with samples held out the maps of each one's best epoch."""

    def __init__(self, samples: Samples, config: PinnOptions) -> None:
        self.samples, self.config = samples, config
        self.histories: list[History] = []
        self.best: list[tuple[Floats, Floats]] = []

    def add(self, epoch: int, sums: dict[str, Any], engine: Engine) -> dict[str, float]:
        """Take in the losses of an epoch; their means over the networks."""
        losses = {
            name: np.atleast_1d(total.tolist() if hasattr(total, "tolist") else total) for name, total in sums.items()
        }
        _check_finite(losses, epoch, self.config)
        self.histories = self.histories or [History() for _ in losses["total"]]
        if self.samples.held_out is not None:
            losses["held-out"] = np.atleast_1d(engine.held_out_error())
            maps = engine.maps()
            self.best = self.best or list(zip(*maps, strict=True))
        for k, history in enumerate(self.histories):
            for name, values in losses.items():
                history.losses.setdefault(name, []).append(float(values[k]))
            if self.samples.held_out is None:
                history.best = epoch
            elif losses["held-out"][k] <= min(history.losses["held-out"]):
                history.best, self.best[k] = epoch, (maps[0][k], maps[1][k])
        return {name: float(values.mean()) for name, values in losses.items()}

    def trained(self, engine: Engine) -> list[Trained]:
        """What came out of the training."""
        maps = self.best or list(zip(*engine.maps(), strict=True))
        return [Trained(*pair, history, engine.name) for pair, history in zip(maps, self.histories, strict=True)]


def _check_finite(losses: dict[str, NDArray[Any]], epoch: int, config: PinnOptions) -> None:
    if all(np.isfinite(values).all() for values in losses.values()):
        return
    found = ", ".join(f"{name} {values.mean():.3g}" for name, values in losses.items())
    raise FitError(
        f"the loss is not finite in epoch {epoch + 1} of {config.epochs} ({found}): most likely the exponential of CBF "
        f"or ATT overflowed because lr ({config.lr:g}) is too large; try a tenth of it"
    )
