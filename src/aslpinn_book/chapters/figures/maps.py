"""Figures of maps, of the phantom's signals, and of what estimators make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import (
    CATEGORICAL,
    METHOD_COLORS,
    METHOD_MARKERS,
    QUANTITIES,
    Quantity,
    colorbar,
    styled,
    subplots,
)

Map = NDArray[np.floating]
Mask = NDArray[np.bool_]


def axial_slices(mask: Mask, count: int = 5) -> list[int]:
    """Evenly spaced axial slices through the middle 70 % of the mask."""
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    low, high = filled[0] + 0.15 * np.ptp(filled), filled[0] + 0.85 * np.ptp(filled)
    return [round(float(k)) for k in np.linspace(low, high, count)]


def _frame(mask: Mask) -> tuple[slice, slice]:
    """The part of the x-y plane that holds the mask, one voxel of room around it."""
    x, y = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    return slice(max(x[0] - 1, 0), x[-1] + 2), slice(max(y[0] - 1, 0), y[-1] + 2)


def _quantity(key: str, values: Map, mask: Mask) -> Quantity:
    """How a map is drawn; a range that the quantity leaves open comes from the map."""
    known = QUANTITIES.get(key, Quantity(key, "", "viridis", None, None))
    inside = values[mask & np.isfinite(values)] if values.shape == mask.shape else values[np.isfinite(values)]
    low = float(np.percentile(inside, 1)) if known.low is None else known.low
    high = float(np.percentile(inside, 99)) if known.high is None else known.high
    return Quantity(known.name, known.unit, known.cmap, low, high)


def draw_slice(
    axes: Any, values: Map, mask: Mask, k: int, quantity: Quantity, voxel_size: Sequence[float] = (1.0, 1.0, 1.0)
) -> Any:
    """One axial slice of a map, x to the right and y up: the subject's left is left where x runs to the right."""
    from matplotlib import colormaps

    x, y = _frame(mask)
    # Outside the brain nothing is drawn: there a zero would look like a measurement.
    shown = np.where(mask[x, y, k], values[x, y, k], np.nan)
    color_map = colormaps[quantity.cmap].with_extremes(bad="0.92")
    image = axes.imshow(
        np.rot90(shown), cmap=color_map, vmin=quantity.low, vmax=quantity.high, aspect=voxel_size[1] / voxel_size[0]
    )
    axes.set_axis_off()
    return image


@styled
def parameter_maps(
    maps: Mapping[str, Map],
    mask: Mask,
    slices: Sequence[int] | None = None,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
) -> Figure:
    """One row a quantity (keys of QUANTITIES, or a name of your own), one column an axial slice, a color bar a row."""
    chosen = list(slices) if slices is not None else axial_slices(mask)
    figure, grid = subplots(len(maps), len(chosen), figsize=(1.55 * len(chosen) + 1.3, 1.9 * len(maps)), squeeze=False)
    for row, (key, values) in zip(grid, maps.items(), strict=True):
        quantity = _quantity(key, values, mask)
        for axes, k in zip(row, chosen, strict=True):
            image = draw_slice(axes, values, mask, k, quantity, voxel_size)
        bar = colorbar(image, row, quantity)
        bar.set_label(f"{quantity.name}\n({quantity.unit})" if quantity.unit else quantity.name)
    return figure


@styled
def comparison(
    truth: Mapping[str, Map], estimates: Mapping[str, Mapping[str, Map]], mask: Mask, k: int | None = None
) -> Figure:
    """The paper's Figure 2: for each quantity a row of maps, and below it the percent relative error of each method.

    Parameters
    ----------
    truth : mapping
        Quantity ("cbf", "att") -> (X, Y, Z) map.
    estimates : mapping
        Method -> quantity -> map; one column each, after the truth's.
    k : int, optional
        Axial slice.
    """
    from aslpinn.maps.metrics import relative_error

    level = axial_slices(mask, 3)[1] if k is None else k
    columns = len(estimates) + 1
    cell = min(1.9, 7.4 / columns)  # as wide as the page, so that words keep their size
    size = (cell * columns + 0.9, (2.05 * cell + 0.35) * len(truth))
    figure, grid = subplots(2 * len(truth), columns, figsize=size, squeeze=False)
    for i, (key, true) in enumerate(truth.items()):
        quantity = QUANTITIES[key]
        above, below = grid[2 * i], grid[2 * i + 1]
        image = draw_slice(above[0], true, mask, level, quantity)
        above[0].set_title("truth", fontsize=11)
        below[0].set_axis_off()
        for column, (name, maps) in enumerate(estimates.items(), start=1):
            draw_slice(above[column], maps[key], mask, level, quantity)
            above[column].set_title(name, fontsize=11)
            error = draw_slice(below[column], relative_error(maps[key], true, mask), mask, level, QUANTITIES["error"])
        colorbar(image, above, quantity).set_label(f"{quantity.name}\n({quantity.unit})")
        colorbar(error, below, quantity).set_label(f"{quantity.name} error\n(%)")
    return figure


@styled
def voxel_signals(
    time: Map, signals: Mapping[str, tuple[Map, Map]], curve_time: Map, curves: Mapping[str, Map]
) -> Figure:
    """Signals of voxels in % of M0b: measured (dots), noise-free samples (crosses), and a continuous curve.

    signals: name -> (noisy, clean), each (T,) at `time`; curves: name -> signal at curve_time; times in s.
    """
    figure, axes = subplots(figsize=(6.4, 3.5))
    order = np.argsort(time)
    for color, marker, (name, (noisy, clean)) in zip(CATEGORICAL, "os^D", signals.items(), strict=False):
        if name in curves:
            axes.plot(curve_time, 100 * curves[name], color=color, linewidth=1.4)
        axes.plot(time[order], 100 * clean[order], "x", color=color, markersize=6)
        axes.plot(time[order], 100 * noisy[order], marker, color=color, markersize=5, alpha=0.75, label=name)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="time since labeling of the sub-bolus began, t = τ + PLD (s)", ylabel="ΔM / M0b (%)")
    axes.legend()
    return figure


@styled
def noise_levels(volumes: Mapping[str, Map], mask: Mask, slices: Sequence[int] | None = None) -> Figure:
    """One volume of the series at several noise levels: a row each, with one color bar in % of M0b."""
    chosen = list(slices) if slices is not None else axial_slices(mask)
    quantity = QUANTITIES["deltam"]
    figure, grid = subplots(
        len(volumes), len(chosen), figsize=(1.55 * len(chosen) + 1.6, 1.95 * len(volumes)), squeeze=False
    )
    for row, (name, values) in zip(grid, volumes.items(), strict=True):
        for axes, k in zip(row, chosen, strict=True):
            image = draw_slice(axes, 100 * values, mask, k, quantity)
        row[0].set_title(name, loc="left")
    colorbar(image, grid, quantity, shrink=0.6)
    return figure


@styled
def scores(
    ours: Mapping[str, Mapping[str, Sequence[float]]],
    published: Mapping[str, Mapping[str, float]] | None = None,
    label: str = "",
) -> Figure:
    """A panel a score, a row a method: each seed a dot, their mean a bar, the paper's own number a hollow star.

    ours: panel title -> method -> values over noise seeds; published: panel title -> method -> number.
    """
    methods = list(next(iter(ours.values())))
    columns = min(len(ours), 4)
    rows = -(-len(ours) // columns)
    figure, grid = subplots(
        rows, columns, figsize=(2.2 * columns + 1.2, (0.34 * len(methods) + 1.0) * rows), sharey=True, squeeze=False
    )
    for axes, (title, values) in zip(grid.flat, ours.items(), strict=False):
        for place, method in enumerate(methods):
            color, marker = METHOD_COLORS.get(method, "0.4"), METHOD_MARKERS.get(method, "o")
            seeds = np.asarray(values[method], dtype=float)
            axes.plot([seeds.mean()] * 2, [place - 0.28, place + 0.28], color=color, linewidth=2.5)
            axes.plot(seeds, np.full(seeds.size, place), marker, color=color, markersize=5, alpha=0.7)
            number = (published or {}).get(title, {}).get(method)
            if number is not None:
                axes.plot(number, place, "*", color="black", markerfacecolor="white", markersize=11, zorder=3)
        axes.set_title(title)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
    for axes in grid.flat[len(ours) :]:
        axes.set_axis_off()
    if label:
        figure.supxlabel(label, fontsize=10)
    return figure


def slices_through(region: Mask, count: int = 4) -> list[int]:
    """Evenly spaced axial slices through the whole of a region."""
    filled = np.flatnonzero(region.any(axis=(0, 1)))
    return sorted({round(float(k)) for k in np.linspace(filled[0], filled[-1], count)})


@styled
def variants(rows: Sequence[tuple[str, str, Map, Mask]], slices: Sequence[int]) -> Figure:
    """A row for each (quantity, title, map, mask): maps of different brains below each other; ATT up to 3 s."""
    figure, grid = subplots(len(rows), len(slices), figsize=(1.55 * len(slices) + 1.6, 2.0 * len(rows)), squeeze=False)
    for axes_row, (key, title, values, mask) in zip(grid, rows, strict=True):
        known = QUANTITIES[key]
        quantity = Quantity(known.name, known.unit, known.cmap, known.low, 3.0 if key == "att" else known.high)
        for axes, k in zip(axes_row, slices, strict=True):
            image = draw_slice(axes, values, mask, k, quantity)
        axes_row[0].set_title(title, loc="left")
        colorbar(image, axes_row, quantity).set_label(f"{quantity.name}\n({quantity.unit})")
    return figure
