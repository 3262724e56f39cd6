"""Figures of the chapter on speed: time and memory against size with their exponents, ratios of steps and fits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from aslpinn.maps.style import CATEGORICAL, METHOD_COLORS, METHOD_MARKERS, styled, subplots

from ..speed import Curve, against, exponent

MARKERS = "osD^vPX"
COLORS = METHOD_COLORS | {
    "grid": CATEGORICAL[6],
    "naive": CATEGORICAL[1],
    "torch": CATEGORICAL[4],
    "fused": CATEGORICAL[0],
}
NAMES = {
    "pinn": "default", "closed-form": "closed form", "naive": "plain autograd", "torch": "reference engine",
    "fused": "compiled engine",
}  # fmt: skip


@styled
def scaling(
    panels: Mapping[tuple[str, str], Mapping[str, Curve]], relative_to: tuple[str, float] | None = None
) -> Figure:
    """Log-log plots with fitted exponents in the legend: (label of x, label of y) -> estimator -> (sizes, values).

    With relative_to = (estimator, size), values are divided by that estimator's at the nearest size of the panel.
    """
    figure, grid = subplots(1, len(panels), figsize=(5.2 * len(panels), 4.3), squeeze=False)
    for axes, ((x_label, y_label), found) in zip(grid[0], panels.items(), strict=True):
        curves = against(found, *relative_to) if relative_to else found
        for number, (name, (sizes, values)) in enumerate(curves.items()):
            slope = exponent(sizes, values)
            power = "" if np.isnan(slope) else f", exponent {slope:.2f}"
            axes.plot(
                sizes,
                values,
                marker=METHOD_MARKERS.get(name, MARKERS[number % len(MARKERS)]),
                color=COLORS.get(name, CATEGORICAL[number % len(CATEGORICAL)]),
                label=f"{NAMES.get(name, name)}{power}",
                linewidth=1.4,
                markersize=6,
            )
        axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
        axes.grid(which="minor", alpha=0.12)
        ticks = np.unique(np.concatenate([sizes for sizes, _ in found.values()]))
        if ticks.size <= 8:
            axes.set_xticks(ticks, [_short(tick) for tick in ticks])
            axes.minorticks_off()
        low, high = axes.get_ylim()
        if high < 50 * low:  # powers of ten alone would leave one tick, or none
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(low, high * (high / low) ** (0.075 * len(found)))  # room for the legend above the curves
        axes.legend(loc="upper left", fontsize=9)
    return figure


def _short(size: float) -> str:
    """1k for a thousand, 1M for a million."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{name}"
    return f"{size:g}"


@styled
def step_ratios(times: Mapping[str, float], reference: str) -> Figure:
    """One bar a way of computing the same step: its time over that of the reference, on a logarithmic axis."""
    ratios = {NAMES.get(name, name): seconds / times[reference] for name, seconds in times.items()}
    figure, axes = subplots(figsize=(6.6, 0.55 * len(ratios) + 1.1))
    bars = axes.barh(range(len(ratios)), list(ratios.values()), color=CATEGORICAL[: len(ratios)], height=0.6)
    axes.bar_label(bars, [f"{value:.3g}" for value in ratios.values()], padding=4)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=f"time of a step / that of the {NAMES.get(reference, reference)}")
    axes.set_xlim(min(0.8, *ratios.values()) * 0.9, 2.2 * max(ratios.values()))
    axes.grid(axis="y", visible=False)
    return figure


@styled
def fit_ratios(times: Mapping[str, float], reference: str, limits: Mapping[str, float] | None = None) -> Figure:
    """One bar a fit, its time over the reference's; limits (name -> ratio) as lines across their bars."""
    ratios = {name: seconds / times[reference] for name, seconds in times.items()}
    figure, axes = subplots(figsize=(6.8, 0.48 * len(ratios) + 1.1))
    colors = [COLORS.get(name, CATEGORICAL[k % len(CATEGORICAL)]) for k, name in enumerate(ratios)]
    bars = axes.barh(range(len(ratios)), list(ratios.values()), color=colors, height=0.6)
    axes.bar_label(bars, [f"{value:.2g}" for value in ratios.values()], padding=4)
    for row, name in enumerate(ratios):
        if limits and name in limits:
            axes.plot([limits[name]] * 2, [row - 0.42, row + 0.42], color="black", linewidth=2)
    axes.set_yticks(range(len(ratios)), [NAMES.get(name, name) for name in ratios])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(*ratios.values(), *(limits or {"": 0.0}).values()))
    axes.set_xlabel(f"time / that of {NAMES.get(reference, reference)}")
    axes.grid(axis="y", visible=False)
    return figure
