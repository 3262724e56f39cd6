"""Figures of the chapter on perfusion: images and their difference, where the signal goes, averaging, one delay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, QUANTITIES, Quantity, colorbar, styled, subplots

from .shared import DASHES, MARKERS, Float, draw_slice


@styled
def difference_images(
    images: Mapping[str, Float], differences: Mapping[str, Float], mask: NDArray[np.bool_], k: int
) -> Figure:
    """One axial slice of images (shares of M0, in gray), then of differences (delta-M / M0b, on one color scale).

    The color scale is that of the first difference, the others may exceed it.
    """
    figure, axes = subplots(1, len(images) + len(differences), figsize=(1.62 * (len(images) + len(differences)), 2.5))
    whole = Quantity("image", "M0 of fluid = 1", "gray", 0.5, 1.05)
    part = QUANTITIES["deltam"].ranged(100 * next(iter(differences.values()))[mask])
    left, right = axes[: len(images)], axes[len(images) :]
    for panel, (name, values) in zip(left, images.items(), strict=True):
        first = draw_slice(panel, values, mask, k, whole)
        panel.set_title(name)
    for panel, (name, values) in zip(right, differences.items(), strict=True):
        second = draw_slice(panel, 100 * values, mask, k, part)
        panel.set_title(name)
    colorbar(first, left, whole, location="bottom")
    colorbar(second, right, part, location="bottom")
    return figure


@styled
def signal_budget(steps: Sequence[str], budgets: Mapping[str, Sequence[float]]) -> Figure:
    """What is left of the label after each step, in % of M0b: a group of bars a step, a bar a tissue."""
    figure, axes = subplots(figsize=(7.4, 0.62 * len(steps) + 1.1))
    height = 0.8 / len(budgets)
    for i, (name, values) in enumerate(budgets.items()):
        place = np.arange(len(steps)) + (i - (len(budgets) - 1) / 2) * height
        bars = axes.barh(place, 100 * np.asarray(values), height * 0.92, color=CATEGORICAL[i], label=name)
        axes.bar_label(bars, [f"{100 * value:.2f}" for value in values], padding=3, fontsize=9)
    axes.set_yticks(range(len(steps)), list(steps))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="share of M0b (%)")
    axes.margins(x=0.1)
    axes.legend(loc="lower right")
    return figure


@styled
def averaging(
    pairs: Sequence[int], snr: Mapping[str, Sequence[float]], expected: Mapping[str, float], seconds_per_pair: float
) -> Figure:
    """SNR of a voxel against the number of averaged pairs: measured (symbols) and expected sqrt(n) lines, by tissue.

    expected holds the SNR of one pair; the upper axis is scan time in min.
    """
    figure, axes = subplots(figsize=(6.4, 3.8))
    for color, marker, (name, values) in zip(CATEGORICAL, MARKERS, snr.items(), strict=False):
        axes.plot(pairs, expected[name] * np.sqrt(pairs), color=color, linewidth=1.2)
        axes.plot(pairs, values, marker, color=color, label=name)
    axes.axhline(1, color="0.5", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(list(pairs), [str(n) for n in pairs])
    lowest, highest = min(map(min, snr.values())), max(map(max, snr.values()))
    ticks = [tick for tick in (0.125, 0.25, 0.5, 1, 2, 4, 8, 16) if lowest / 2 < tick < 2 * highest]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="pairs averaged", ylabel="SNR of a voxel")
    minutes = axes.secondary_xaxis("top")
    minutes.set_xticks(list(pairs), [f"{n * seconds_per_pair / 60:.1f}" for n in pairs])
    minutes.minorticks_off()
    minutes.set_xlabel("scan time (min)")
    axes.legend()
    return figure


@styled
def cbf_by_one_delay(att: Float, found: Mapping[str, Float], ranges: Mapping[str, tuple[float, float]]) -> Figure:
    """CBF from one delay in % of the truth against true ATT in s, a line a delay; shaded ranges of ATT with names."""
    figure, axes = subplots(figsize=(6.8, 3.6))
    for shade, (name, (low, high)) in zip((0.16, 0.07), ranges.items(), strict=False):
        axes.axvspan(low, high, color="0.2", alpha=shade, linewidth=0, label=name, zorder=0)
    for color, dashes, (name, share) in zip(CATEGORICAL, DASHES, found.items(), strict=False):
        axes.plot(att, 100 * share, linestyle=dashes, color=color, label=name)
    axes.axhline(100, color="0.3", linewidth=0.8)
    axes.set(xlabel="true ATT (s)", ylabel="CBF found (% of the truth)", xlim=(att[0], att[-1]), ylim=(0, None))
    axes.legend(loc="lower left", fontsize=9)
    return figure


@styled
def tissue_values(
    voxels: Mapping[str, Mapping[str, Float]], persons: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    """Histograms over voxels, a panel a quantity (label with unit), a line a tissue; a dot below for each person."""
    figure, panels = subplots(1, len(voxels), figsize=(4.2 * len(voxels), 3.4))
    for axes, (label, tissues) in zip(panels, voxels.items(), strict=True):
        everything = np.concatenate(list(tissues.values()))
        low, high = np.percentile(everything, (0.2, 99.8))
        edges = np.linspace(low, high, 50)
        highest = 0.0
        for color, (tissue, values) in zip(CATEGORICAL, tissues.items(), strict=False):
            density, _ = np.histogram(values, edges, density=True)
            highest = max(highest, float(density.max()))
            axes.stairs(density, edges, color=color, label=tissue, linewidth=1.6)
        for row, means in enumerate(persons[label].values()):
            level = np.full(len(means), -0.09 * highest * (row + 1))
            axes.plot(means, level, MARKERS[row], color=CATEGORICAL[row], markersize=5, alpha=0.8, clip_on=False)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set(xlabel=label, ylim=(-0.09 * highest * (len(tissues) + 0.8), 1.1 * highest))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    panels[0].legend()
    panels[0].set_ylabel("share of voxels; persons below")
    return figure


@styled
def bias_by_share(panels: Mapping[str, Any]) -> Figure:
    """Bias (%) of a tissue's CBF against its share of the voxel, a panel a title, a line a method.

    panels: title -> pandas rows of benchmarks/partial_volume.py, of one phantom and tissue. Lines are means over the
    seeds of noise, bars go from the least to the largest.
    """
    looks = {
        "none": (CATEGORICAL[6], "o", "not corrected"), "linear": (CATEGORICAL[1], "s", "linear"),
        "field, one T1": (CATEGORICAL[5], "^", "field, one T1 for both"), "field": (CATEGORICAL[0], "D", "field"),
    }  # fmt: skip
    figure, grid = subplots(1, len(panels), figsize=(8.6, 3.6), squeeze=False)
    handles: dict[str, Any] = {}
    for axes, (title, rows) in zip(grid[0], panels.items(), strict=True):
        axes.axhline(0, color="0.4", linewidth=0.8)
        for place, (method, (color, marker, label)) in enumerate(looks.items()):
            own = rows[rows["method"] == method]
            if own.empty:
                continue
            found = own.groupby("low")["bias"].agg(["mean", "min", "max"])
            share = 50 * (found.index + own.groupby("low")["high"].first()) + 0.6 * (place - 1.5)
            reach = [found["mean"] - found["min"], found["max"] - found["mean"]]
            handles[label] = axes.errorbar(share, found["mean"], reach, fmt=f"{marker}-", color=color, capsize=3)
        axes.set(title=title, xlabel="share of the tissue in the voxel (%)", xlim=(20, 100))
    grid[0, 0].set_ylabel("bias of its CBF (%)")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure
