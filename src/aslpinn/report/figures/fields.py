"""Figures of the chapter on implicit fields: spectral bias, the hash encoding drawn, its collisions, image fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from .style import CATEGORICAL, QUANTITIES, Quantity, colorbar, styled

Float = NDArray[np.floating]
Int = NDArray[np.integer]
_ROWS = "viridis"


class GridLevel(TypedDict):
    """One level of the drawing: every vertex in the slice, and what the point at hand takes from it.

    vertices (V, 2) and corners (4, 2) in [0, 1] coordinates; vertex_rows (V,) and corner_rows (4,) rows of the level's
    table; weights (4,) of the interpolation; rows, the table's length; code (F,), the interpolated features.
    """

    vertices: Float
    vertex_rows: Int
    corners: Float
    corner_rows: Int
    weights: Float
    rows: int
    code: Float


@styled
def spectral_bias(
    x: Float, target: Float, fits: Mapping[str, Float], steps: Int, amplitudes: Mapping[str, Mapping[str, Float]]
) -> Figure:
    """Fits of a signal of one coordinate, and how much of each of its frequencies a network has after each step.

    x and target (n,); fits name -> (n,); amplitudes name -> frequency's label -> (steps,), 1 where it is all learned.
    """
    figure, (left, right) = plt.subplots(2, 1, figsize=(6.4, 5.6))
    left.plot(x, target, color="0.6", linewidth=3.5, label="signal")
    for color, (name, fit) in zip(CATEGORICAL, fits.items(), strict=False):
        left.plot(x, fit, color=color, label=name, linewidth=1.4)
        for dashes, (label, share) in zip(("-", "--", ":"), amplitudes[name].items(), strict=False):
            right.plot(steps, share, dashes, color=color, label=f"{name}, {label}")
    left.set(xlabel="coordinate", ylabel="signal (no unit)", xlim=(x[0], x[-1]))
    left.set_ylim(top=target.max() + 0.9)
    left.legend(loc="upper center", ncols=3)
    right.axhline(1, color="0.6", linewidth=0.8)
    right.set(xlabel="training step", ylabel="share of amplitude learned", xlim=(steps[0], steps[-1]), ylim=(-0.1, 1.9))
    right.legend(loc="upper center", ncols=2)
    return figure


def _draw_grid(axes: Axes, image: Float, point: Float, level: GridLevel, title: str) -> None:
    """The slice, the level's vertices colored by table row, and the point with the four vertices around it."""
    norm = Normalize(0, level["rows"] - 1)
    axes.imshow(image.T, origin="lower", extent=(0, 1, 0, 1), cmap="gray_r", alpha=0.45, interpolation="nearest")
    for axis, draw in ((0, axes.axvline), (1, axes.axhline)):
        for place in np.unique(level["vertices"][:, axis]):
            draw(float(place), color="0.55", linewidth=0.5)
    vertices, corners = level["vertices"], level["corners"]
    axes.scatter(vertices[:, 0], vertices[:, 1], c=level["vertex_rows"], cmap=_ROWS, norm=norm, s=26, zorder=3)
    cell = corners.min(axis=0)
    axes.add_patch(Rectangle((cell[0], cell[1]), *np.ptp(corners, axis=0), fill=False, linewidth=1.6))
    same = vertices[np.isin(level["vertex_rows"], level["corner_rows"])]
    axes.plot(same[:, 0], same[:, 1], "o", markersize=9, markerfacecolor="none", markeredgecolor="k", zorder=4)
    x, y = corners[:, 0], corners[:, 1]
    axes.scatter(x, y, c=level["corner_rows"], cmap=_ROWS, norm=norm, s=95, zorder=4, edgecolors="k", linewidths=1.6)
    axes.plot(*point, "x", color="k", markersize=8, markeredgewidth=2.2, zorder=5)
    axes.set(title=title, xticks=[], yticks=[], xlim=(-0.27, 1.04), ylim=(-0.27, 1.04))
    axes.grid(visible=False)
    axes.set_aspect("equal")


def _draw_table(axes: Axes, level: GridLevel) -> None:
    """The level's table as a strip of colored rows, the four rows in use marked with number and weight."""
    rows = level["rows"]
    strip = np.arange(rows)[:, None]
    axes.imshow(strip, cmap=_ROWS, aspect="auto", extent=(0, 0.3, rows - 0.5, -0.5), interpolation="nearest")
    order = np.argsort(level["corner_rows"])
    heights = np.linspace(0.1, 0.9, 4) * rows
    for height, corner in zip(heights, order, strict=True):
        row = level["corner_rows"][corner]
        axes.plot([0.3, 0.48], [row, height], color="k", linewidth=1)
        text = f"row {row} × {level['weights'][corner]:.2f}"
        axes.text(0.51, height, text, va="center", fontsize=10)
    axes.set(title=f"table, {rows} rows", xlim=(0, 1.45), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


@styled
def hash_encoding(image: Float, point: Float, levels: Sequence[GridLevel]) -> Figure:
    """The paper's Figure 3: a slice, the grid and table of each level, and the code of one point.

    image (X, Y), drawn pale over [0, 1] x [0, 1]; point (2,); levels coarsest first. A color is a row of a table:
    vertices of one color in one panel share their features. Ringed vertices use a row that the point uses too.
    """
    count = len(levels)
    figure = plt.figure(figsize=(7.2, 3.0 * count))
    grid = figure.add_gridspec(count, 3, width_ratios=(3.0, 2.0, 0.9))
    values = np.concatenate([level["code"] for level in levels])
    limit = 1.25 * float(np.abs(values).max())
    for number, level in enumerate(levels):
        side = len(np.unique(level["vertices"][:, 0]))
        title = f"level {number + 1}: {side} × {side} vertices in the slice"
        _draw_grid(figure.add_subplot(grid[number, 0]), image, point, level, title)
        _draw_table(figure.add_subplot(grid[number, 1]), level)
        axes = figure.add_subplot(grid[number, 2])
        axes.bar(range(len(level["code"])), level["code"], color=CATEGORICAL[number], width=0.6)
        axes.axhline(0, color="0.4", linewidth=0.8)
        names = [f"e{number * len(level['code']) + k + 1}" for k in range(len(level["code"]))]
        axes.set_xticks(range(len(level["code"])), names)
        axes.set(title="code", ylim=(-limit, limit), yticks=[])
    return figure


@styled
def row_sharing(spacing: Float, sharers: Float, distance: Float, voxel: float) -> Figure:
    """Who shares a table row: voxels a row, and how far apart they are, against a level's grid spacing in mm.

    spacing, sharers and distance (levels,), coarsest first; spacing and distance in mm; voxel, its size in mm.
    """
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 5.2), sharex=True)
    top.plot(spacing, sharers, "o-", color=CATEGORICAL[0])
    top.set(ylabel="voxels that share a row", yscale="log")
    bottom.plot(spacing, distance, "s-", color=CATEGORICAL[1])
    bottom.set(ylabel="distance between two\nthat share a row (mm)", xlabel="spacing of the level's grid (mm)")
    bottom.set_ylim(bottom=0)
    for axes in (top, bottom):
        axes.axvline(voxel, color="0.4", linestyle="--", linewidth=0.9)
    top.text(voxel, top.get_ylim()[1], f" voxel, {voxel:g} mm ", va="top", ha="left", fontsize=10)
    top.set_xscale("log")
    top.invert_xaxis()
    top.set_xticks([10, 3, 1, 0.3, 0.1], ["10", "3", "1", "0.3", "0.1"])
    top.minorticks_off()
    return figure


@styled
def image_fits(image: Float, fits: Mapping[str, Float], inside: NDArray[np.bool_], quantity: str = "gm") -> Figure:
    """An image and fits of it in the first row, their errors below; arrays (X, Y), errors where `inside` is set."""
    shown = QUANTITIES[quantity]
    error = Quantity("fit minus image", shown.unit, "PuOr_r", -0.4, 0.4)
    figure, panels = plt.subplots(2, 1 + len(fits), figsize=(2.05 * (1 + len(fits)) + 0.8, 5.4))
    for axes in panels.flat:
        axes.set_axis_off()
    first = panels[0, 0].imshow(image.T, origin="lower", cmap=shown.cmap, vmin=shown.low, vmax=shown.high)
    panels[0, 0].set_title("image")
    for column, (name, fit) in zip(panels.T[1:], fits.items(), strict=True):
        column[0].imshow(fit.T, origin="lower", cmap=shown.cmap, vmin=shown.low, vmax=shown.high)
        column[0].set_title(name)
        difference = np.where(inside, fit - image, np.nan)
        second = column[1].imshow(difference.T, origin="lower", cmap=error.cmap, vmin=error.low, vmax=error.high)
    colorbar(first, panels[0], shown)
    colorbar(second, panels[1], error)
    return figure
