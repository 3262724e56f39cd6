"""Figures of the chapter on the multiscale field: draws of its levels, what it learned, whether its SDs hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, QUANTITIES, colorbar, styled, subplots

from .shared import Float, draw_slice


@styled
def level_draws(draws: Mapping[str, Float]) -> Figure:
    """One random field (X, Y) a level, each with SD 1, a panel a name; the names say the width."""
    figure, panels = subplots(1, len(draws), figsize=(2.1 * len(draws), 2.6), squeeze=False)
    for axes, (name, field) in zip(panels[0], draws.items(), strict=True):
        image = axes.imshow(np.rot90(field), cmap="PuOr_r", vmin=-2.5, vmax=2.5)
        axes.set(title=name)
        axes.set_axis_off()
    figure.colorbar(image, ax=panels[0].tolist(), label="field (SD)", shrink=0.8, pad=0.02)
    return figure


@styled
def level_sds(learned: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Learned SD of every level, in the map's unit: run -> map ("cbf", "att") -> level -> SD; a panel a map."""
    figure, panels = subplots(1, 2, figsize=(8.4, 3.3))
    for axes, key, label in zip(panels, ("cbf", "att"), ("CBF (ml/100g/min)", "ATT (s)"), strict=True):
        for k, (run, maps) in enumerate(learned.items()):
            levels = list(maps[key])
            place = np.arange(len(levels)) + (k - (len(learned) - 1) / 2) * 0.8 / len(learned)
            axes.bar(place, list(maps[key].values()), 0.8 / len(learned), color=CATEGORICAL[k], label=run)
        axes.set_xticks(range(len(levels)), levels, rotation=40, ha="right")
        axes.set(ylabel=f"SD of {label}", xlabel="width of the level")
        axes.grid(axis="x", visible=False)
    panels[0].legend()
    return figure


@styled
def calibration(scores: Mapping[str, Float]) -> Figure:
    """Histograms of (estimate - truth) / SD, a line a name, against the standard normal distribution."""
    figure, axes = subplots(figsize=(6.4, 3.4))
    edges = np.linspace(-5, 5, 61)
    middle = (edges[1:] + edges[:-1]) / 2
    for color, (name, values) in zip(CATEGORICAL, scores.items(), strict=False):
        density, _ = np.histogram(np.clip(values, -5, 5), edges, density=True)
        axes.plot(middle, density, color=color, label=name)
    axes.plot(middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), "--", color="0.3", label="standard normal")
    for edge in (-1.96, 1.96):
        axes.axvline(edge, color="0.6", linewidth=0.8)
    axes.set(xlabel="(estimate - truth) / SD", ylabel="density", xlim=(-5, 5), ylim=(0, None))
    axes.legend(loc="upper left")
    return figure


@styled
def with_spread(maps: Mapping[str, Float], mask: NDArray[np.bool_], k: int) -> Figure:
    """One axial slice of each map, a panel a key of QUANTITIES ("cbf", "cbf_sd", ...), each with its own color bar."""
    figure, panels = subplots(1, len(maps), figsize=(2.1 * len(maps), 2.9), squeeze=False)
    for axes, (key, values) in zip(panels[0], maps.items(), strict=True):
        quantity = QUANTITIES[key].ranged(values[mask])
        shown = np.rot90(np.where(mask[:, :, k], values[:, :, k], np.nan))
        image = axes.imshow(shown, cmap=quantity.cmap, vmin=quantity.low, vmax=quantity.high)
        axes.set_axis_off()
        colorbar(image, axes, quantity, location="bottom")
    return figure


@styled
def region_maps(
    att: Mapping[str, Float], member: Float, lesion: NDArray[np.bool_], mask: NDArray[np.bool_], k: int
) -> Figure:
    """One axial slice of ATT maps, a panel a name, and where a region was found; an outline shows the true lesion."""
    figure, panels = subplots(1, len(att) + 1, figsize=(2.05 * (len(att) + 1), 2.9))
    quantity = QUANTITIES["att"]
    outline = np.rot90(lesion[:, :, k])

    def show(axes: Any, values: Float, title: str, **look: Any) -> Any:
        image = axes.imshow(np.rot90(np.where(mask[:, :, k], values[:, :, k], np.nan)), **look)
        axes.contour(outline, [0.5], colors="white", linewidths=1.0)
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
        return image

    for axes, (name, values) in zip(panels, att.items(), strict=False):
        image = show(axes, values, name, cmap=quantity.cmap, vmin=quantity.low, vmax=2.5)
    colorbar(image, panels[:-1], quantity, location="bottom")
    found = show(panels[-1], member, "region found", cmap="cividis", vmin=0, vmax=1)
    bar = figure.colorbar(found, ax=panels[-1], location="bottom", label="in the region", ticks=[0, 1])
    bar.ax.set_xticklabels(["no", "yes"])
    return figure


@styled
def steps(maps: Mapping[str, Mapping[str, Float]], mask: NDArray[np.bool_], k: int) -> Figure:
    """One axial slice of CBF (above) and ATT (below), a column a name."""
    figure, panels = subplots(2, len(maps), figsize=(2.3 * len(maps) + 0.8, 5.0), squeeze=False)
    for row, key in zip(panels, ("cbf", "att"), strict=True):
        for axes, (name, pair) in zip(row, maps.items(), strict=True):
            image = draw_slice(axes, pair[key], mask, k, QUANTITIES[key])
            if key == "cbf":
                axes.set_title(name)
        colorbar(image, row, key)
    return figure
