"""Figures of the chapter on classical estimation: cost along ATT, failing starts, bias of spatial priors, kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from aslpinn.maps.style import CATEGORICAL, METHOD_COLORS, METHOD_MARKERS, styled, subplots

from .shared import MARKERS, Float


@styled
def cost_along_att(
    att: Float, costs: Mapping[str, Float], true: float, sample_time: Float, marks: Mapping[str, tuple[float, float]]
) -> Figure:
    """Sum of squared residuals in noise variances against ATT in s, CBF at its best everywhere, a line a noise level.

    sample_time: thin lines where the readouts fall; marks: name -> (ATT at the start, ATT at the end) as an arrow.
    """
    figure, axes = subplots(figsize=(7.2, 3.8))
    for moment in sample_time:
        axes.axvline(moment, color="0.88", linewidth=0.8, zorder=0)
    for color, (name, cost) in zip(CATEGORICAL, costs.items(), strict=False):
        axes.plot(att, cost, color=color, label=name)
    axes.axvline(true, color="0.2", linestyle=":", label="true ATT")
    top = max(float(np.max(cost)) for cost in costs.values())
    for row, (name, (start, end)) in enumerate(marks.items()):
        level = top * (1.08 + 0.12 * row)
        axes.annotate("", (end, level), (start, level), arrowprops={"arrowstyle": "->", "lw": 1.6, "color": "0.2"})
        axes.plot(start, level, "o", color="0.2", markersize=5)
        axes.text(min(start, end) - 0.04, level, name, va="center", ha="right", fontsize=9)
    axes.set(xlabel="ATT (s)", ylabel="misfit (noise variances)", xlim=(att[0], att[-1]))
    axes.set_ylim(0, top * (1.2 + 0.12 * len(marks)))
    axes.legend(loc="lower right", fontsize=9)
    return figure


@styled
def found_against_true(true: Float, found: Mapping[str, Float], tolerance: float) -> Figure:
    """Found against true ATT in s, a panel a name, with the band of +- tolerance and the share of voxels outside it."""
    figure, panels = subplots(1, len(found), figsize=(2.6 * len(found) + 0.7, 3.2), sharey=True, squeeze=False)
    low, high = float(np.min(true)), float(np.max(true))
    for axes, (name, values) in zip(panels[0], found.items(), strict=True):
        failed = float(np.mean(np.abs(values - true) > tolerance))
        image = axes.hexbin(
            true, np.clip(values, 0, high + 0.6), gridsize=45, extent=(low, high, 0, high + 0.6), cmap="cividis_r",
            bins="log", mincnt=1, vmin=1,
        )  # fmt: skip
        for shift in (-tolerance, tolerance):
            axes.plot([low, high], [low + shift, high + shift], color=CATEGORICAL[1], linewidth=1)
        axes.set_title(f"{name}\n{100 * failed:.0f} % off by more than {tolerance:g} s", fontsize=10.5)
        axes.set(xlabel="true ATT (s)")
        axes.set(xlim=(low, high), ylim=(0, high + 0.6))
    panels[0, 0].set_ylabel("ATT found (s)")
    figure.colorbar(image, ax=panels[0].tolist(), label="voxels", shrink=0.9)
    return figure


@styled
def spatial_bias(
    purity: Float, errors: Mapping[str, Float], distance: Float, profiles: Mapping[str, Float], truth: Float
) -> Figure:
    """Left the mean error of CBF against the share of gray matter, right mean CBF across a border, a line a method.

    purity: bin centers, 0 to 1; distance: in mm, negative inside; errors, profiles and truth in ml/100g/min.
    """
    figure, (left, right) = subplots(1, 2, figsize=(8.6, 3.6))
    for i, name in enumerate(errors):
        color, marker = METHOD_COLORS.get(name, CATEGORICAL[5 - i]), METHOD_MARKERS.get(name, MARKERS[i % len(MARKERS)])
        left.plot(100 * purity, errors[name], marker=marker, color=color, label=name, markersize=6)
        right.plot(distance, profiles[name], marker=marker, color=color, markersize=6)
    left.axhline(0, color="0.3", linewidth=1)
    right.plot(distance, truth, "--", color="black", label="truth")
    right.axvline(0, color="0.6", linewidth=0.8)
    left.set(xlabel="gray matter in the voxel (%)", ylabel="mean error of CBF (ml/100g/min)")
    right.set(xlabel="distance from the tumor's border (mm)", ylabel="mean CBF (ml/100g/min)", ylim=(0, None))
    left.legend(fontsize=9)
    right.legend(fontsize=9)
    return figure


@styled
def kernel_choice(
    kernels: Sequence[float], held_out: Mapping[str, Float], true: Mapping[str, Float], chosen: Mapping[str, float]
) -> Figure:
    """Left the held-out error by which a kernel is chosen, right the error of CBF that only a phantom shows.

    Both against the kernel's SD in mm, relative to their smallest value, a line a noise level; rings: the choice.
    """
    figure, panels = subplots(1, 2, figsize=(8.6, 3.6))
    for axes, errors in zip(panels, (held_out, true), strict=True):
        for color, marker, (name, values) in zip(CATEGORICAL, MARKERS, errors.items(), strict=False):
            relative = np.asarray(values) / np.min(values)
            axes.plot(kernels, relative, marker=marker, color=color, label=name)
            place = int(np.flatnonzero(np.isclose(kernels, chosen[name]))[0])
            axes.plot(kernels[place], relative[place], "o", markersize=15, markerfacecolor="none", color=color)
        axes.set(xlabel="SD of the kernel (mm)")
    panels[1].set_yscale("log")
    panels[1].set_yticks([1, 1.5, 2, 3, 4, 6], ["1", "1.5", "2", "3", "4", "6"])
    panels[1].minorticks_off()
    panels[0].set(ylabel="held-out error / smallest")
    panels[1].set(ylabel="RMSE of CBF / smallest")
    panels[0].legend()
    return figure
