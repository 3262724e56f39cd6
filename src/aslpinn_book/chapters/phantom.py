"""Figures of the chapter on the phantom: its maps, signals of voxels, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from aslpinn.maps.style import CATEGORICAL, QUANTITIES, Quantity, colorbar, styled, subplots

from .shared import Float, Mask, axial_slices, draw_slice


@styled
def parameter_maps(
    maps: Mapping[str, Float],
    mask: Mask,
    slices: Sequence[int] | None = None,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
) -> Figure:
    """One row a quantity (keys of QUANTITIES, or a name of your own), one column an axial slice, a color bar a row."""
    chosen = list(slices) if slices is not None else axial_slices(mask)
    figure, grid = subplots(len(maps), len(chosen), figsize=(1.55 * len(chosen) + 1.3, 1.9 * len(maps)), squeeze=False)
    for row, (key, values) in zip(grid, maps.items(), strict=True):
        quantity = QUANTITIES.get(key, Quantity(key, "", "viridis", None, None, 99.0)).ranged(values[mask])
        for axes, k in zip(row, chosen, strict=True):
            image = draw_slice(axes, values, mask, k, quantity, voxel_size)
        bar = colorbar(image, row, quantity)
        bar.set_label(f"{quantity.name}\n({quantity.unit})" if quantity.unit else quantity.name)
    return figure


@styled
def voxel_signals(
    time: Float, signals: Mapping[str, tuple[Float, Float]], curve_time: Float, curves: Mapping[str, Float]
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
def noise_levels(volumes: Mapping[str, Float], mask: Mask, slices: Sequence[int] | None = None) -> Figure:
    """One volume of the series at several noise levels: a row each, with one color bar in % of M0b."""
    chosen = list(slices) if slices is not None else axial_slices(mask)
    quantity = QUANTITIES["deltam"].ranged(*(100 * values[mask] for values in volumes.values()))
    figure, grid = subplots(
        len(volumes), len(chosen), figsize=(1.55 * len(chosen) + 1.6, 1.95 * len(volumes)), squeeze=False
    )
    for row, (name, values) in zip(grid, volumes.items(), strict=True):
        for axes, k in zip(row, chosen, strict=True):
            image = draw_slice(axes, 100 * values, mask, k, quantity)
        row[0].set_title(name, loc="left")
    colorbar(image, grid, quantity, shrink=0.6)
    return figure
