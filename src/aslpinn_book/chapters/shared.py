"""Figures that several chapters draw: slices and maps of brains, kinetic curves, bounds, slopes between samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.errors import InputError
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

Float = NDArray[np.floating]
Int = NDArray[np.integer]
Mask = NDArray[np.bool_]

#: What tells the curves of one figure apart beside their colors.
MARKERS = "osD^vPX"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def method_look(name: str, place: int) -> tuple[str, str]:
    """Color and marker of a method; methods of a chapter's own take the next of the set."""
    return METHOD_COLORS.get(name, CATEGORICAL[place % 7]), METHOD_MARKERS.get(name, MARKERS[place % 7])


def stored(path: str | Path, expected: str) -> Path:
    """The file of a stored run; InputError, with what was expected, where there is none."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected {expected}")
    return Path(path)


def empty_figure(size: tuple[float, float]) -> Figure:
    """A figure of the book's kind without axes, for grids that `subplots` does not make."""
    figure, axes = subplots(figsize=size)
    axes.remove()
    return figure


def axial_slices(mask: Mask, count: int = 5) -> list[int]:
    """Evenly spaced axial slices through the middle 70 % of the mask."""
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    low, high = filled[0] + 0.15 * np.ptp(filled), filled[0] + 0.85 * np.ptp(filled)
    return [round(float(k)) for k in np.linspace(low, high, count)]


def slices_through(region: Mask, count: int = 4) -> list[int]:
    """Evenly spaced axial slices through the whole of a region."""
    filled = np.flatnonzero(region.any(axis=(0, 1)))
    return sorted({round(float(k)) for k in np.linspace(filled[0], filled[-1], count)})


def _frame(mask: Mask) -> tuple[slice, slice]:
    """The part of the x-y plane that holds the mask, one voxel of room around it."""
    x, y = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    return slice(max(x[0] - 1, 0), x[-1] + 2), slice(max(y[0] - 1, 0), y[-1] + 2)


def draw_slice(
    axes: Any, values: Float, mask: Mask, k: int, quantity: Quantity, voxel_size: Sequence[float] = (1.0, 1.0, 1.0)
) -> Any:
    """One axial slice of a map, x to the right and y up: the subject's left is left where x runs to the right."""
    from matplotlib import colormaps

    if quantity.low is None or quantity.high is None:
        quantity = quantity.ranged(values[mask])
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
def comparison(
    truth: Mapping[str, Float], estimates: Mapping[str, Mapping[str, Float]], mask: Mask, k: int | None = None
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
def variants(rows: Sequence[tuple[str, str, Float, Mask]], slices: Sequence[int], own: bool = False) -> Figure:
    """A row for each (quantity, title, map, mask): maps of different brains below each other; ATT up to 3 s.

    own: instead one scale for all rows, from the 2nd to the 98th percentile of what the last of them holds.
    """
    figure, grid = subplots(len(rows), len(slices), figsize=(1.55 * len(slices) + 1.6, 2.0 * len(rows)), squeeze=False)
    for axes_row, (key, title, values, mask) in zip(grid, rows, strict=True):
        known = QUANTITIES[key]
        quantity = replace(known, high=3.0 if key == "att" else known.high)
        if own:
            quantity = replace(known, low=None, high=None, percentile=98.0).ranged(rows[-1][2][rows[-1][3]])
        for axes, k in zip(axes_row, slices, strict=True):
            image = draw_slice(axes, values, mask, k, quantity)
        axes_row[0].set_title(title, loc="left")
        colorbar(image, axes_row, quantity).set_label(f"{quantity.name}\n({quantity.unit})")
    return figure


@styled
def kinetic_curves(
    time: Float, curves: Mapping[str, Float], samples: Mapping[str, tuple[Float, Float]] | None = None
) -> Figure:
    """Signal in % of M0b against time since labeling began in s, a line a name; samples (t, signal) as dots."""
    figure, axes = subplots(figsize=(6.4, 3.4))
    for color, (name, signal) in zip(CATEGORICAL, curves.items(), strict=False):
        axes.plot(time, 100 * signal, color=color, label=name)
        if samples and name in samples:
            axes.plot(samples[name][0], 100 * samples[name][1], "o", color=color, markersize=5)
    axes.set(xlabel="time since labeling began, t = τ + PLD (s)", ylabel="ΔM / M0b (%)", xlim=(time[0], time[-1]))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylim(top=axes.get_ylim()[1] * (1 + 0.14 * len(curves)))  # room for the legend above the curves
    axes.legend(loc="upper left")
    return figure


@styled
def bounds(
    att: Float,
    smallest: Mapping[str, tuple[Float, Float]],
    measured: Mapping[str, tuple[Float, Float, Float]] | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """SD of CBF (ml/100g/min, left) and ATT (s, right) against true ATT in s, a line a design.

    smallest: design -> (CBF's SD, ATT's SD) at att; measured: design -> (att, CBF's, ATT's) as symbols; limits: top of
    the two axes.
    """
    figure, panels = subplots(1, 2, figsize=(8.6, 3.6))
    for side, (axes, label) in enumerate(zip(panels, ("SD of CBF (ml/100g/min)", "SD of ATT (s)"), strict=True)):
        styles = zip(CATEGORICAL, DASHES, MARKERS, smallest.items(), strict=False)
        for color, dashes, marker, (name, sds) in styles:
            axes.plot(att, sds[side], linestyle=dashes, color=color, label=name)
            if measured and name in measured:
                axes.plot(measured[name][0], measured[name][side + 1], marker, color=color, markersize=5)
        axes.set(
            xlabel="true ATT (s)", ylabel=label, xlim=(att[0], att[-1]), ylim=(0, limits[side] if limits else None)
        )
    panels[0].legend(loc="upper left", fontsize=9)
    return figure


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
