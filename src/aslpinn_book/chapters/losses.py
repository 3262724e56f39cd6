"""The chapter on physics-informed losses: a network while it trains, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from aslpinn.estimation.networks.config import PRESETS
from aslpinn.estimation.networks.fit import MEMBER_SEEDS, engine_of
from aslpinn.estimation.networks.train import Samples, train
from aslpinn.estimation.problem import prepare
from aslpinn.maps.style import CATEGORICAL, styled, subplots
from aslpinn.physics import Acquisition

from .shared import MARKERS, Float


@dataclass(frozen=True)
class Snapshots:
    """Maps of one network while it trains.

    Attributes
    ----------
    epochs : tuple of int
        After which epochs, E of them.
    maps : dict
        "cbf" in ml/100g/min and "att" in s: (E, X, Y, Z) float32, zero outside the mask.
    losses : dict
        Name -> mean loss of every epoch.
    """

    epochs: tuple[int, ...]
    maps: dict[str, NDArray[np.float32]]
    losses: dict[str, list[float]]


def snapshots(
    series: ArrayLike,
    mask: ArrayLike,
    acquisition: Acquisition,
    epochs: Sequence[int],
    *,
    voxel_size: tuple[float, float, float],
    seed: int = 0,
    **settings: Any,
) -> Snapshots:
    """Train one network of preset "default" for max(epochs) epochs and keep its maps after each of `epochs`.

    The last maps are those of `aslpinn.fit` with one member, the same seed and the same settings.
    """
    problem = prepare(series, mask, acquisition)
    config = PRESETS["default"].changed(**{**settings, "members": 1, "epochs": max(epochs), "seed": seed})
    samples = Samples.of(problem, voxel_size, config)
    engine = engine_of(samples, config, [config.seed * MEMBER_SEEDS])
    kept: dict[str, list[NDArray[np.float32]]] = {"cbf": [], "att": []}

    def on_epoch(epoch: int, losses: dict[str, float]) -> None:
        if epoch + 1 in epochs:
            for name, (values,) in zip(kept, engine.maps(), strict=True):
                kept[name].append(problem.volume(values))

    (trained,) = train(engine, samples, config, on_epoch)
    maps = {name: np.stack(values) for name, values in kept.items()}
    return Snapshots(tuple(sorted(set(epochs))), maps, trained.history.losses)


@styled
def matched_cbf(
    by_collocation: Mapping[str, Mapping[int, Float]], by_samples: Mapping[str, Mapping[int, Float]]
) -> Figure:
    """CBF that matching slopes finds, in percent of the truth: series -> count -> (voxels,) shares.

    Median and quartiles over voxels, left against the number of collocation times, right against the samples within
    one labeling duration, with a line at 100.
    """
    figure, panels = subplots(1, 2, figsize=(8.8, 4.2), sharey=True)
    titles = "collocation times a voxel", "samples within one labeling duration"
    for axes, series, title in zip(panels, (by_collocation, by_samples), titles, strict=True):
        for color, marker, (name, by_count) in zip(CATEGORICAL, MARKERS, series.items(), strict=False):
            counts = np.array(list(by_count), dtype=float)
            low, middle, high = np.array([np.percentile(100 * v, (25, 50, 75)) for v in by_count.values()]).T
            spread = (middle - low, high - middle)
            axes.errorbar(
                counts, middle, spread, marker=marker, color=color, label=name, capsize=3, linewidth=1.4
            )  # fmt: skip
        axes.axhline(100, color="0.3", linewidth=1)
        axes.axhline(50, color="0.3", linewidth=1, linestyle=":")
        axes.set_xscale("log")
        ticks = list(next(iter(series.values())))
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel=title, ylim=(0, 120))
        axes.legend(loc="upper left" if series is by_collocation else "lower right", fontsize=9)
    panels[0].set_ylabel("CBF found (% of the truth)")
    panels[0].set_ylim(0, 150)
    return figure


@styled
def bias_by_epochs(loss: Mapping[str, tuple[Sequence[int], Sequence[float]]], bias: Mapping[str, Float]) -> Figure:
    """Left the final loss, relative to that of the shortest training, right the bias of CBF in %, against epochs.

    loss: objective -> (epochs, losses); bias: objective -> (len(epochs),) in percent.
    """
    figure, (left, right) = subplots(1, 2, figsize=(8.4, 3.5))
    for color, marker, (name, (epochs, values)) in zip(CATEGORICAL, MARKERS, loss.items(), strict=False):
        left.plot(epochs, np.asarray(values) / values[0], marker=marker, color=color, label=name)
        right.plot(epochs, bias[name], marker=marker, color=color, label=name)
    right.axhline(0, color="0.3", linewidth=1)
    left.set(ylabel="final loss / that of the shortest training")
    right.set(ylabel="bias of CBF in gray matter (%)")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(epochs, [str(epoch) for epoch in epochs])
        axes.minorticks_off()
        axes.set_xlabel("epochs")
    left.legend()
    return figure


@styled
def objective_scores(scores: Mapping[str, Mapping[str, float]]) -> Figure:
    """One panel a score with a bar an objective, its value written beside it: score's label -> objective -> value."""
    names = list(next(iter(scores.values())))
    columns = 3
    rows = -(-len(scores) // columns)
    figure, grid = subplots(rows, columns, figsize=(8.6, (0.45 * len(names) + 0.9) * rows), sharey=True, squeeze=False)
    for axes, (label, values) in zip(grid.flat, scores.items(), strict=False):
        numbers = np.array([values[name] for name in names])
        bars = axes.barh(range(len(names)), numbers, color=CATEGORICAL[: len(names)], height=0.65)
        digits = 0 if np.abs(numbers).max() > 5 else 2
        axes.bar_label(
            bars, [f"{round(number, digits) + 0.0:.{digits}f}" for number in numbers.tolist()], padding=3, fontsize=9
        )
        low, high = min(0.0, float(numbers.min())), max(0.0, float(numbers.max()))
        margin = 0.28 * (high - low)
        axes.set_xlim(low - margin * (low < 0), high + margin)
        axes.axvline(0, color="0.3", linewidth=1)
        axes.set_title(label, fontsize=11)
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="y", visible=False)
    grid[0, 0].invert_yaxis()
    for axes in grid.flat[len(scores) :]:
        axes.set_axis_off()
    return figure
