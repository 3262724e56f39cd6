"""Figures of the chapter on one's own data: how a series was encoded, what decoding gives, what motion does."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, QUANTITIES, colorbar, styled, subplots
from aslpinn.physics import Acquisition

from .shared import Float


@styled
def encoding_scheme(matrix: Float, labeling_duration: Float, final_delay: float) -> Figure:
    """What each volume labels and when: (N, K) signs drawn over time in s, dark for label, light for control."""
    starts = np.concatenate([[0.0], np.cumsum(labeling_duration)[:-1]])
    figure, axes = subplots(figsize=(7.2, 0.9 + 0.24 * len(matrix)))
    for volume, signs in enumerate(matrix):
        for sign, start, width in zip(signs, starts, labeling_duration, strict=True):
            face = "0.9" if sign > 0 else CATEGORICAL[0]
            axes.broken_barh([(start, width)], (volume - 0.4, 0.8), facecolor=face, edgecolor="white")
    axes.axvline(starts[-1] + labeling_duration[-1] + final_delay, color=CATEGORICAL[1], label="readout")
    axes.broken_barh([], (0, 0), facecolor=CATEGORICAL[0], label="label")
    axes.broken_barh([], (0, 0), facecolor="0.9", label="control")
    axes.set(xlabel="time since labeling began (s)", ylabel="volume", yticks=range(len(matrix)))
    axes.invert_yaxis()
    axes.grid(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure


@styled
def mean_curve(series: Float, mask: NDArray[np.bool_], acquisition: Acquisition) -> Figure:
    """Mean delta-M / M0b over the mask, in %, for each distinct duration and delay, against t = tau + PLD in s."""
    distinct = acquisition.distinct[0]
    mean = 100 * acquisition.mean_over_repeats(series[mask].mean(axis=0))
    figure, axes = subplots(figsize=(5.8, 2.8))
    order = np.argsort(distinct.time, kind="stable")
    axes.plot(distinct.time[order], mean[order], "-", color="0.7", linewidth=1)
    axes.plot(distinct.time, mean, "o", color=CATEGORICAL[0])
    for time, value, pld in zip(distinct.time, mean, distinct.post_labeling_delay, strict=True):
        axes.annotate(f"{pld:.2f}", (time, value), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.margins(y=0.2)
    axes.set(xlabel="τ + PLD (s); the numbers are PLD in s", ylabel="mean ΔM/M0b (%)")
    return figure


@styled
def before_and_after(before: Float, after: Float, mask: NDArray[np.bool_], count: int = 4) -> Figure:
    """One delta-M / M0b volume without and with a correction, (X, Y, Z), on one color scale, in axial slices."""
    from aslpinn.maps.figures import (
        chosen_slices,  # not at the top: figures are found by importing every module here in turn
    )

    slices = chosen_slices(mask, count)
    quantity = QUANTITIES["deltam"].ranged(100 * after[mask])
    figure, axes = subplots(2, len(slices), figsize=(1.7 * len(slices) + 1.0, 3.8), squeeze=False)
    for row, (name, volume) in zip(axes, (("without", before), ("with", after)), strict=True):
        for panel, k in zip(row, slices, strict=True):
            shown = np.ma.masked_array(100 * volume[..., k], ~mask[..., k])
            image = panel.imshow(shown.T, origin="lower", cmap=quantity.cmap, vmin=quantity.low, vmax=quantity.high)
            panel.set(xticks=[], yticks=[])
            panel.grid(False)
        row[0].set_ylabel(name)
    colorbar(image, axes, QUANTITIES["deltam"])
    return figure
