"""Figures of the benchmark and of the virtual volunteers: bias against noise, hard phantoms, residual against error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, METHOD_COLORS, METHOD_MARKERS, QUANTITIES, colorbar, styled, subplots

from .maps import axial_slices, draw_slice

Floats = NDArray[np.floating]


def _look(name: str, place: int) -> tuple[str, str]:
    """Color and marker of a method; methods of a chapter's own take the next of the set."""
    return METHOD_COLORS.get(name, CATEGORICAL[place % 7]), METHOD_MARKERS.get(name, "osD^vPX"[place % 7])


@styled
def bias_variance(panels: Mapping[str, Mapping[str, tuple[float, float]]], labels: Sequence[str]) -> Figure:
    """Noise (up) against bias (across) of a map, a panel a title, a point a method; arcs are equal total errors.

    panels: title -> method -> (root mean square bias, SD over noise seeds); labels: the unit of each panel.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = subplots(rows, columns, figsize=(3.5 * columns + 0.6, 3.5 * rows), squeeze=False)
    for axes, label, (title, points) in zip(grid.flat, labels, panels.items(), strict=False):
        values = np.array(list(points.values()))
        high = 1.18 * float(values.max())
        angle = np.linspace(0, np.pi / 2, 91)
        for radius in _arcs(high):
            axes.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.75", linewidth=0.8, zorder=0)
            if radius < high:
                axes.text(radius, 0.01 * high, f"{radius:g}", fontsize=8, color="0.4", ha="right", va="bottom")
        for place, (name, (bias, sd)) in enumerate(points.items()):
            color, marker = _look(name, place)
            look = {"color": color, "markersize": 8, "linestyle": "none", "alpha": 0.9, "clip_on": False}
            axes.plot(bias, sd, marker, label=name, **look)
        axes.set(xlim=(0, high), ylim=(0, high), title=title, xlabel=f"bias ({label})", ylabel=f"noise ({label})")
        axes.set_aspect("equal")
        axes.grid(visible=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _arcs(high: float) -> Floats:
    """Three or four round radii up to a little more than `high`."""
    steps = np.array([1, 2, 2.5, 5, 10]) * 10 ** np.floor(np.log10(high / 3))
    step = steps[np.argmin(np.abs(high / steps - 3.5))]
    return np.arange(step, 1.4 * high, step)


@styled
def method_dots(
    panels: Mapping[str, Mapping[str, Sequence[float]]], goals: Mapping[str, float] | None = None, columns: int = 3
) -> Figure:
    """A panel a score, a row a method: a symbol a value, a bar at their mean, a line at the goal where there is one."""
    methods = list(dict.fromkeys(name for values in panels.values() for name in values))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    size = (2.25 * columns + 1.3, (0.3 * len(methods) + 0.9) * rows)
    figure, grid = subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for axes, (title, values) in zip(grid.flat, panels.items(), strict=False):
        if goals and title in goals:
            axes.axvline(goals[title], color="0.3", linewidth=1, zorder=0)
        for place, name in enumerate(methods):
            if name not in values:
                continue
            color, marker = _look(name, place)
            numbers = np.asarray(values[name], dtype=float)
            if numbers.size > 1:
                axes.plot([numbers.mean()] * 2, [place - 0.3, place + 0.3], color=color, linewidth=2.5)
            axes.plot(numbers, np.full(numbers.size, place), marker, color=color, markersize=7, alpha=0.8)
        axes.set_title(title, fontsize=10.5)
        axes.margins(x=0.1)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    return figure


@styled
def residual_against_error(
    panels: Mapping[str, Mapping[str, tuple[Floats, Floats]]], labels: tuple[str, str], noise: float = 1.0
) -> Figure:
    """Error against residual, a point a volunteer, a symbol a method, a panel a title; dashed: the noise.

    panels: title -> method -> (residuals, errors), each (volunteers,); labels of the two axes with units.
    """
    figure, grid = subplots(1, len(panels), figsize=(4.3 * len(panels), 3.9), squeeze=False)
    for axes, (title, methods) in zip(grid[0], panels.items(), strict=True):
        for place, (name, (residual, error)) in enumerate(methods.items()):
            color, marker = _look(name, place)
            axes.plot(residual, error, marker, color=color, label=name, markersize=5, alpha=0.7, linestyle="none")
        axes.axvline(noise, color="0.3", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel=labels[0], ylim=(0, None))
    grid[0, 0].set_ylabel(labels[1])
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
    return figure


@styled
def people(brains: Mapping[str, tuple[Floats, Floats, NDArray[np.bool_]]]) -> Figure:
    """CBF above, ATT below, a column a brain: name -> (cbf, att, mask); one axial slice of each."""
    figure, grid = subplots(2, len(brains), figsize=(2.1 * len(brains) + 1.1, 4.6), squeeze=False)
    for column, (name, (cbf, att, mask)) in zip(grid.T, brains.items(), strict=True):
        k = axial_slices(mask, 3)[1]
        images = [
            draw_slice(axes, values, mask, k, QUANTITIES[key])
            for axes, values, key in zip(column, (cbf, att), ("cbf", "att"), strict=True)
        ]
        column[0].set_title(name)
    for row, image, key in zip(grid, images, ("cbf", "att"), strict=True):
        colorbar(image, row, key)
    return figure


@styled
def one_voxel_overfit(
    time: Floats, measured: Floats, other: Floats, clean: Floats, fits: Mapping[str, Floats]
) -> Figure:
    """Signals of one voxel in % of M0b: the repeat that was fitted, the one that was not, the truth, and fits of it."""
    figure, axes = subplots(figsize=(6.6, 3.6))
    order = np.argsort(time)
    axes.plot(time[order], 100 * clean[order], color="black", linewidth=1.2, label="truth")
    axes.plot(time[order], 100 * measured[order], "o", color="black", markersize=6, label="fitted repeat")
    axes.plot(time[order], 100 * other[order], "o", color="black", markerfacecolor="white", label="other repeat")
    for color, dashes, (name, values) in zip(CATEGORICAL, ("-", "--", "-.", ":"), fits.items(), strict=False):
        axes.plot(time[order], 100 * values[order], dashes, color=color, label=name)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="time since labeling began, t = τ + PLD (s)", ylabel="ΔM / M0b (%)")
    axes.legend(ncols=2, fontsize=9)
    return figure
