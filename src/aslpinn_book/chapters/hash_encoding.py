"""Figures of the chapter on the hash encoding: drawn for one point, its collisions counted, levels against voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from aslpinn.maps.style import CATEGORICAL, styled, subplots

from .shared import Float, Int, empty_figure

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
    figure = empty_figure((7.2, 3.0 * count))
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


def _against_spacing(axes: Axes, voxel: float) -> None:
    """A logarithmic axis of grid spacings, coarse left, with a line at the voxel's size; all in mm."""
    axes.axvline(voxel, color="0.4", linestyle="--", linewidth=0.9)
    axes.set_xscale("log")
    axes.set_xlim(*sorted(axes.get_xlim(), reverse=True))
    axes.set_xticks([10, 3, 1, 0.3, 0.1], ["10", "3", "1", "0.3", "0.1"])
    axes.minorticks_off()


def _name_voxel(axes: Axes, voxel: float, height: float = 0.97) -> None:
    """The name of the line that `_against_spacing` draws, at a height in shares of the axis."""
    axes.text(voxel, height, f" voxel, {voxel:g} mm", transform=axes.get_xaxis_transform(), va="top", fontsize=10)


@styled
def level_counts(spacing: Float, vertices: Int, touched: Int, rows: Int, colliding: Float, voxel: float) -> Figure:
    """Vertices of each level, those that a brain touches, and rows; below, the share of touched vertices that collide.

    All (levels,), coarsest first: spacing in mm; colliding in percent; voxel, its size in mm.
    """
    figure, (top, bottom) = subplots(2, 1, figsize=(6.6, 5.6), sharex=True, height_ratios=(3, 2))
    top.plot(spacing, vertices, "^:", color=CATEGORICAL[4], label="vertices of the grid")
    top.plot(spacing, touched, "o-", color=CATEGORICAL[0], label="vertices around voxels of the brain")
    top.plot(spacing, rows, "s--", color=CATEGORICAL[1], label="rows of the table")
    top.set(ylabel="number", yscale="log")
    top.legend(loc="upper left")
    top.set_ylim(top=3e13)
    bottom.plot(spacing, colliding, "D-", color=CATEGORICAL[3])
    bottom.set(ylabel="vertices that share\ntheir row (%)", xlabel="spacing of the level's grid (mm)", ylim=(-4, 104))
    for axes in (top, bottom):
        _against_spacing(axes, voxel)
    _name_voxel(bottom, voxel, height=0.16)
    return figure


@styled
def row_sharing(spacing: Float, sharers: Float, distance: Float, voxel: float) -> Figure:
    """Who shares a table row: voxels a row, and how far apart they are, against a level's grid spacing in mm.

    spacing, sharers and distance (levels,), coarsest first; spacing and distance in mm; voxel, its size in mm.
    """
    figure, (top, bottom) = subplots(2, 1, figsize=(6.6, 5.2), sharex=True)
    top.plot(spacing, sharers, "o-", color=CATEGORICAL[0])
    top.set(ylabel="voxels that share a row", yscale="log")
    bottom.plot(spacing, distance, "s-", color=CATEGORICAL[1])
    bottom.set(ylabel="distance between two\nthat share a row (mm)", xlabel="spacing of the level's grid (mm)")
    bottom.set_ylim(bottom=0)
    for axes in (top, bottom):
        _against_spacing(axes, voxel)
    _name_voxel(top, voxel)
    return figure


@styled
def finest_level(spacing: Float, errors: Mapping[str, Float], noise: float, voxel: float) -> Figure:
    """Errors of a fitted image (partial volume) against the spacing of the encoding's finest grid, in mm.

    errors: what is compared -> (n,); noise, SD of the noise in the image that was fitted; voxel, its size in mm.
    """
    figure, axes = subplots(figsize=(6.6, 3.8))
    for color, marker, (name, values) in zip(CATEGORICAL, "osD", errors.items(), strict=False):
        axes.plot(spacing, values, marker=marker, color=color, label=name)
    axes.axhline(noise, color="0.4", linestyle=":", linewidth=1.2)
    axes.annotate(
        "SD of the noise", (0, noise), (2, -3), ("axes fraction", "data"), textcoords="offset points", va="top"
    )
    axes.set(xlabel="spacing of the finest grid (mm)", ylabel="RMSE (partial volume)")
    axes.set_ylim(0, 1.25 * max(noise, *(float(values.max()) for values in errors.values())))
    _against_spacing(axes, voxel)
    _name_voxel(axes, voxel)
    axes.legend(loc="lower left")
    return figure
