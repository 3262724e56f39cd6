"""Figures of the chapters on perfusion, Buxton's model and time encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, QUANTITIES, Quantity, colorbar, styled, subplots

from .maps import draw_slice

Float = NDArray[np.floating]
MARKERS = "os^Dv"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


@styled
def difference_images(
    images: Mapping[str, Float], differences: Mapping[str, Float], mask: NDArray[np.bool_], k: int
) -> Figure:
    """One axial slice of images (shares of M0, in gray), then of differences (delta-M / M0b, on one color scale).

    The color scale is that of the first difference, the others may exceed it.
    """
    figure, axes = subplots(1, len(images) + len(differences), figsize=(1.62 * (len(images) + len(differences)), 2.5))
    whole = Quantity("image", "M0 of fluid = 1", "gray", 0.5, 1.05)
    above = 1.2 * float(np.percentile(100 * next(iter(differences.values()))[mask], 99))
    part = Quantity("ΔM / M0b", "%", QUANTITIES["deltam"].cmap, -above / 3, above)
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
def one_delay(att: Float, found: Mapping[str, Float], ranges: Mapping[str, tuple[float, float]]) -> Figure:
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
def convolution(
    time: Float, arterial: Float, response: Float, convolved: Float, closed: Float, phases: tuple[float, float]
) -> Figure:
    """Arterial input, what remains of it in the tissue, and their convolution with the closed form; time in s.

    arterial: label in arterial blood in units of M0b; response: residue times relaxation; the others delta-M / M0b;
    phases: when label begins and ends to arrive, shaded.
    """
    figure, panels = subplots(1, 3, figsize=(8.4, 2.8))
    panels[0].plot(time, arterial, color=CATEGORICAL[0])
    panels[0].set(title="input c(t)", ylabel="label in arterial blood (M0b)")
    panels[1].plot(time, response, color=CATEGORICAL[1])
    panels[1].set(title="what stays, r(t) m(t)", ylabel="share of label", ylim=(0, 1.05))
    panels[2].plot(time, 100 * closed, color="black", linewidth=3.2, alpha=0.35, label="closed form")
    panels[2].plot(time, 100 * convolved, "--", color=CATEGORICAL[2], label="f c ∗ (r m)")
    panels[2].set(title="signal", ylabel="ΔM / M0b (%)")
    panels[2].set_ylim(0, 100 * float(closed.max()) * 1.45)  # room for the legend above the curve
    panels[2].legend(loc="upper right", fontsize=9)
    for axes in (panels[0], panels[2]):
        axes.axvspan(*phases, color="0.92", linewidth=0, zorder=0)
        axes.set_xticks([0, *phases, time[-1]], ["0", "ATT", "ATT+τ", f"{time[-1]:.0f}"])
    for axes in panels:
        axes.set(xlabel="time (s)", xlim=(time[0], time[-1]))
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
def two_delays(pld: Float, cbf_sd: Float, att_sd: Float, best: Mapping[str, tuple[float, float]]) -> Figure:
    """Smallest SD of CBF and of ATT, averaged over arrival times, for every pair of delays; crosses: the best pairs.

    pld (n,) in s; cbf_sd in ml/100g/min and att_sd in s are (n, n), NaN where the two delays are equal.
    """
    figure, panels = subplots(1, 2, figsize=(8.6, 3.7), sharey=True)
    drawn = (("CBF", "ml/100g/min", cbf_sd), ("ATT", "s", att_sd))
    for axes, (name, unit, values) in zip(panels, drawn, strict=True):
        low = float(np.nanmin(values))
        levels = low * np.array([1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0])
        image = axes.contourf(pld, pld, values.T, levels=levels, cmap="cividis_r", extend="max")
        axes.plot(*best[name], "x", color=CATEGORICAL[1], markersize=9, markeredgewidth=2, clip_on=False)
        axes.set(xlabel="first delay (s)", aspect="equal")
        axes.grid(False)
        bar = figure.colorbar(image, ax=axes, label=f"SD of {name} ({unit})", shrink=0.9)
        bar.set_ticks(list(levels), labels=[f"{level:.2g}" for level in levels])
    panels[0].set_ylabel("second delay (s)")
    return figure


@styled
def hadamard_matrices(matrices: Mapping[str, NDArray[np.integer]]) -> Figure:
    """Encoding matrices, a panel a name: a row a volume, a column a sub-bolus; dark is label, light control."""
    widths = [matrix.shape[1] + 2 for matrix in matrices.values()]
    figure, panels = subplots(1, len(matrices), figsize=(0.27 * sum(widths) + 1.4, 4.0), width_ratios=widths)
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        shades = np.where(np.asarray(matrix)[..., None] > 0, (0.9, 0.9, 0.9), (0.0, 0.447, 0.698))
        axes.imshow(shades)
        rows, columns = np.shape(matrix)
        axes.set_xticks(np.arange(columns) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows) - 0.5, minor=True)
        axes.grid(False)
        axes.grid(which="minor", color="white", linewidth=1.5, alpha=1)
        axes.tick_params(which="minor", length=0)
        step = 1 if rows < 10 else 2
        axes.set_xticks(range(0, columns, step), range(1, columns + 1, step))
        axes.set_yticks(range(0, rows, step), range(1, rows + 1, step))
        axes.set(title=name, xlabel="sub-bolus")
    panels[0].set_ylabel("volume")
    return figure


@styled
def decoding(volumes: Float, time: Float, decoded: Float, sd: Float | float, curve_time: Float, curve: Float) -> Figure:
    """Left the encoded volumes of a voxel less the all-control signal, right what decoding gives; in % of M0b.

    volumes (N,); decoded (K,) at time in s with error bars sd; curve at curve_time: the signal without noise.
    """
    figure, (left, right) = subplots(1, 2, figsize=(8.6, 3.4))
    left.bar(np.arange(1, volumes.size + 1), 100 * volumes, color=CATEGORICAL[0])
    left.axhline(0, color="0.4", linewidth=0.8)
    left.set(xlabel="volume", ylabel="signal less control / M0b (%)", xticks=range(1, volumes.size + 1))
    left.grid(axis="x", visible=False)
    right.plot(curve_time, 100 * curve, color="0.4", linewidth=1.4, label="without noise")
    right.errorbar(time, 100 * decoded, 100 * np.asarray(sd), fmt="o", color=CATEGORICAL[1], capsize=2, label="decoded")
    right.axhline(0, color="0.6", linewidth=0.8)
    right.set(xlabel="t = τ + PLD (s)", ylabel="ΔM / M0b (%)")
    right.legend()
    return figure


@styled
def encoding_gain(
    orders: Sequence[int], measured: Mapping[str, Sequence[float]], expected: Mapping[str, Sequence[float]]
) -> Figure:
    """SNR of decoded sub-boli over that of sub-boli measured alone, against the order N; lines: theory."""
    figure, axes = subplots(figsize=(6.2, 3.6))
    for color, marker, dashes, (name, values) in zip(CATEGORICAL, MARKERS, DASHES, measured.items(), strict=False):
        axes.plot(orders, expected[name], linestyle=dashes, color=color, linewidth=1.2)
        axes.plot(orders, values, marker, color=color, label=name)
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set(xlabel="order N", ylabel="SNR gain", xticks=list(orders), ylim=(0, None))
    axes.legend(loc="upper left")
    return figure
