"""Figures of the teaching notebooks: sensitivities, plans of a scan, clouds of estimates, costs with several minima."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, styled, subplots

Floats = NDArray[np.floating]
MARKERS = "osD^vP"


@styled
def sensitivities(pld: Floats, curves: Mapping[str, tuple[Floats, Floats]]) -> Figure:
    """Change of the signal in % of M0b for 10 ml/100g/min more CBF and for 0.1 s more ATT, against PLD in s.

    curves: name -> (dS/dCBF per ml/100g/min, dS/dATT per s), each (n,).
    """
    figure, panels = subplots(1, 2, figsize=(8.6, 3.5))
    for color, dashes, (name, (by_cbf, by_att)) in zip(CATEGORICAL, ("-", "--", "-."), curves.items(), strict=False):
        panels[0].plot(pld, 100 * 10 * by_cbf, dashes, color=color, label=name)
        panels[1].plot(pld, 100 * 0.1 * by_att, dashes, color=color, label=name)
    for axes, title in zip(panels, ("10 ml/100g/min more CBF", "0.1 s more ATT"), strict=True):
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set(xlabel="PLD (s)", ylabel="change of ΔM / M0b (%)", title=title, xlim=(pld[0], pld[-1]))
    panels[0].legend()
    return figure


@styled
def designs(tried: Floats, named: Mapping[str, tuple[float, float]]) -> Figure:
    """Smallest SD of ATT in s against that of CBF in ml/100g/min: tried (n, 2) plans as dots, named ones as markers."""
    figure, axes = subplots(figsize=(6.6, 4.0))
    axes.plot(tried[:, 0], tried[:, 1], ".", color="0.7", markersize=3, label="random plans", zorder=1)
    for color, marker, (name, (cbf, att)) in zip(CATEGORICAL, MARKERS, named.items(), strict=False):
        axes.plot(cbf, att, marker, color=color, markersize=9, label=name, zorder=3)
    everything = np.concatenate([tried, list(named.values())])
    low, high = everything.min(axis=0), 2.5 * everything.min(axis=0)
    axes.set(xlim=(0.95 * low[0], high[0]), ylim=(0.9 * low[1], high[1]))
    axes.set(xlabel="SD of CBF (ml/100g/min)", ylabel="SD of ATT (s)")
    axes.legend(loc="upper right")
    return figure


@styled
def estimate_clouds(clouds: Mapping[str, Floats], truth: tuple[float, float]) -> Figure:
    """Estimates (n, 2) of one voxel under fresh noise, CBF against ATT, a panel a name; the truth is a cross."""
    figure, panels = subplots(1, len(clouds), figsize=(4.3 * len(clouds), 3.6), sharex=True, sharey=True, squeeze=False)
    for axes, color, (name, cloud) in zip(panels[0], CATEGORICAL, clouds.items(), strict=False):
        axes.plot(cloud[:, 1], cloud[:, 0], ".", color=color, markersize=4, alpha=0.5)
        axes.plot(truth[1], truth[0], "x", color="black", markersize=11, markeredgewidth=2.5)
        axes.set(xlabel="ATT (s)", title=name)
    panels[0][0].set_ylabel("CBF (ml/100g/min)")
    everything = np.concatenate(list(clouds.values()))
    low, high = np.percentile(everything, (0.5, 99.5), axis=0)
    panels[0][0].set(xlim=(low[1] - 0.1, high[1] + 0.1), ylim=(max(0, low[0] - 8), high[0] + 8))
    return figure


@styled
def arrival_costs(att: Floats, costs: Sequence[Floats], truth: float) -> Figure:
    """Sum of squares relative to its minimum against ATT in s, a line a noise draw, local minima as dots."""
    figure, axes = subplots(figsize=(6.6, 3.6))
    for color, cost in zip(CATEGORICAL, costs, strict=False):
        ratio = cost / cost.min()
        axes.plot(att, ratio, color=color, linewidth=1.3)
        lowest = 1 + np.flatnonzero((ratio[1:-1] < ratio[:-2]) & (ratio[1:-1] < ratio[2:]))
        axes.plot(att[lowest], ratio[lowest], "o", color=color, markersize=5)
    axes.axvline(truth, color="0.3", linestyle="--", linewidth=1, label="true ATT")
    axes.set(xlabel="ATT (s)", ylabel="misfit / smallest misfit", xlim=(att[0], att[-1]))
    axes.set(yscale="log", ylim=(0.9, 40))
    axes.legend(loc="upper right")
    return figure


@styled
def training_bias(loss: Mapping[str, Sequence[float]], share: Mapping[str, float]) -> Figure:
    """Left the loss of every epoch relative to the first, right the CBF found in gray matter in % of the truth."""
    figure, (left, right) = subplots(1, 2, figsize=(8.6, 3.5))
    for color, dashes, (name, values) in zip(CATEGORICAL, ("-", "--", "-."), loss.items(), strict=False):
        left.plot(range(1, len(values) + 1), np.asarray(values) / values[0], dashes, color=color, label=name)
    left.set(xlabel="epoch", ylabel="loss / loss of the first epoch", yscale="log")
    left.legend()
    right.barh(range(len(share)), list(share.values()), color=CATEGORICAL[: len(share)], height=0.6)
    for row, value in enumerate(share.values()):  # clear of the line at 100
        inside = value > 25
        x, side = (min(value, 100) - 2, "right") if inside else (value + 2, "left")
        right.text(x, row, f"{value:.0f} %", ha=side, va="center", color="white" if inside else "black")
    right.axvline(100, color="0.3", linewidth=1)
    right.set(xlabel="CBF found in gray matter (% of the truth)", xlim=(0, 1.2 * max(100, *share.values())))
    right.set_yticks(range(len(share)), list(share))
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    return figure
