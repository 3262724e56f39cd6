"""Figures of the chapter on physics-informed losses: slopes between samples, matched CBF, training, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, styled, subplots

Float = NDArray[np.floating]
MARKERS = "osD^v"


@styled
def slope_between_samples(
    time: Float, signal: Float, rate: Float, sample_time: Float, samples: Float, fits: Mapping[str, tuple[Float, Float]]
) -> Figure:
    """Above a signal and interpolants through its samples, below their slopes; signals in % of M0b, times in s.

    signal and rate: Buxton's (n,) at `time`; samples (D,) at sample_time; fits: name -> (values, slopes) at `time`.
    """
    figure, (above, below) = subplots(2, 1, figsize=(6.6, 5.2), sharex=True)
    above.plot(time, 100 * signal, color="black", label="Buxton")
    below.plot(time, 100 * rate, color="black", label="Buxton's derivative, P")
    for color, dashes, (name, (values, slopes)) in zip(CATEGORICAL, ("--", "-."), fits.items(), strict=False):
        above.plot(time, 100 * values, dashes, color=color, label=name)
        below.plot(time, 100 * slopes, dashes, color=color, label=f"slope of the {name}")
    above.plot(sample_time, 100 * samples, "o", color="black", label="samples")
    for moment in sample_time:
        below.axvline(moment, color="0.8", linewidth=0.8, zorder=0)
    above.set(ylabel="ΔM / M0b (%)")
    below.set(xlabel="t = τ + PLD (s)", ylabel="d(ΔM / M0b)/dt (%/s)", xlim=(time[0], time[-1]))
    above.legend()
    below.legend()
    return figure


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
