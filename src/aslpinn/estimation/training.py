"""What every training of networks does, with PyTorch or without: settings, scaling, schedule, epochs, stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError, InputError
from .config import PRESETS, FitConfig
from .problem import Floats, Problem, Request

ENGINES = ("auto", "torch", "fused", "tinycudann")
#: Streams of random numbers beside the networks' starts, for default_rng([seed, stream]): a fit's own seed, so that the
#: members of an ensemble see the same batches and differ by their starts.
BATCHES, HELD_OUT = 1, 2
OnEpoch = Callable[[int, dict[str, float]], None]
Part = TypeVar("Part")


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


class Members(Protocol):
    """Trains one network after the other on the same problem."""

    scale: float  # of the signals, over delta-M / M0b

    def train(self, seed: int, on_epoch: OnEpoch, added: Floats | None = None) -> Trained:
        """Train the network of a seed, on signals to which `added` (N, D) was added."""


def configure(request: Request, start: FitConfig | None = None, /, **overrides: object) -> FitConfig:
    """The preset (or `start`) with the request's members, epochs and seed, and any field by name.

    Where epochs change and t_max is not given, the annealing period follows the epochs.
    """
    config = PRESETS[request.preset] if start is None else start
    changes: dict[str, object] = {"seed": request.seed}
    if request.members is not None:
        changes["members"] = request.members
    if request.epochs is not None:
        changes["epochs"] = request.epochs
        if config.t_max:
            changes["t_max"] = request.epochs
    return config.with_overrides(**(changes | overrides))


def signal_level(problem: Problem, config: FitConfig) -> float:
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


def learning_rate(config: FitConfig, epoch: int, step: int, steps: int) -> float:
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


def minibatches(n: int, batch: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Every one of n voxels once, in random order, in parts of equal size, at most `batch`."""
    return np.array_split(rng.permutation(n), -(-n // batch))


def run_epochs(
    config: FitConfig,
    n: int,
    batches: Callable[[], Iterable[Part]],
    step: Callable[[Part, float], tuple[int, dict[str, float]]],
    end: Callable[[], float | None],
    keep: Callable[[], None],
    on_epoch: OnEpoch | None = None,
) -> History:
    """Train on n voxels for config.epochs, or until held-out samples say that it is enough; the losses by epoch.

    Parameters
    ----------
    batches
        The parts of the voxels in an epoch, in their order.
    step
        Takes a step on a part at a learning rate; how many voxels it has, and their mean losses before the step.
    end
        Ends an epoch; the error of held-out samples, None where there are none.
    keep
        Called where the held-out error is the smallest so far.

    Raises
    ------
    FitError
        As soon as the mean loss of an epoch is not finite.
    """
    history, done = History(), 0
    steps = math.ceil(n / config.batch) * config.epochs
    for epoch in range(config.epochs):
        sums: dict[str, float] = {}
        for part in batches():
            count, losses = step(part, learning_rate(config, epoch, done, steps))
            done += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * count / n
        _check_finite(sums, epoch, config)
        error = end()
        if error is not None:
            sums["held-out"] = error
        for name, total in sums.items():
            history.losses.setdefault(name, []).append(total)
        if on_epoch is not None:
            on_epoch(epoch, sums)
        if error is None:
            history.best = epoch
        elif error <= min(history.losses["held-out"]):
            history.best = epoch
            keep()
        elif config.patience and epoch - history.best >= config.patience:
            break
    return history


def _check_finite(losses: dict[str, float], epoch: int, config: FitConfig) -> None:
    if all(math.isfinite(value) for value in losses.values()):
        return
    found = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
    raise FitError(
        f"the loss is not finite in epoch {epoch + 1} of {config.epochs} ({found}): most likely the exponential of CBF "
        f"or ATT overflowed because lr ({config.lr:g}) is too large; try a tenth of it"
    )
