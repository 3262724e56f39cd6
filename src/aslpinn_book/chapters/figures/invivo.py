"""Figures of held-out evaluation: errors against their floor, where they sit, and what slice times do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aslpinn.maps import style as plt
from aslpinn.maps.style import CATEGORICAL, METHOD_COLORS, METHOD_MARKERS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float = NDArray[Any]


def _look(name: str, number: int) -> dict[str, Any]:
    name = {"grid": "nlls"}.get(name, name)
    return {
        "color": METHOD_COLORS.get(name, CATEGORICAL[number % len(CATEGORICAL)]),
        "marker": METHOD_MARKERS.get(name, "X"),
    }


@styled
def prediction(
    errors: Mapping[str, tuple[float, float]],
    by_delay: Mapping[str, Float],
    delays: Float,
    half: float,
    floor: tuple[float, Float],
) -> Figure:
    """Training (open) and held-out error (filled) of each method, and the held-out error by delay.

    errors: method -> (train, held out), by_delay: method -> (D,), delta-M / M0b; delays: (D,) PLD in s; half: error of
    one half as the prediction of the other; floor: noise of a half, over all delays and by delay.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4), width_ratios=[1.15, 1])
    for row, (name, (train, held)) in enumerate(errors.items()):
        look = _look(name, row)
        left.plot([1e3 * train, 1e3 * held], [row, row], "-", color="0.8", linewidth=1.2, zorder=1)
        left.plot(1e3 * train, row, markerfacecolor="white", markersize=7, linestyle="none", **look)
        left.plot(1e3 * held, row, markersize=7, linestyle="none", **look)
        right.plot(delays, 1e3 * by_delay[name], markersize=5, linewidth=1.3, label=name, **look)
    left.axvline(1e3 * floor[0], color="0.3", linestyle=":", label="floor (noise)")
    left.axvline(1e3 * half, color="0.3", linestyle="--", linewidth=1.2, label="the half itself")
    left.plot([], [], "o", color="0.4", markerfacecolor="white", label="on the fitted half")
    left.plot([], [], "o", color="0.4", label="on the held-out half")
    left.set_yticks(range(len(errors)), list(errors))
    left.set_ylim(len(errors) - 0.5, -0.5)
    left.set_xlabel("RMS error of ΔM/M0b (1e-3)")
    right.plot(delays, 1e3 * floor[1], ":", color="0.3", label="floor")
    right.set(xlabel="post-labeling delay (s)", ylabel="held-out RMS error (1e-3)", ylim=(0, None))
    right.legend(fontsize=8, ncols=2, loc="lower left")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    return figure


@styled
def concentration(squares: Mapping[str, Float], noise: Float) -> Figure:
    """Share of the squared held-out error that sits in the worst voxels: method -> (N,), and (N,) of noise alone."""
    figure, axes = plt.subplots(figsize=(5.6, 3.1))
    for number, (name, values) in enumerate([("noise alone", noise), *squares.items()]):
        ordered = np.sort(values)[::-1]
        share = 100 * np.cumsum(ordered) / ordered.sum()
        at = np.unique(np.geomspace(1, len(share), 200).astype(int)) - 1
        look = {"color": "0.6", "linestyle": "--"} if number == 0 else {"color": _look(name, number)["color"]}
        axes.plot(100 * (at + 1) / len(share), share[at], label=name, **look)
    axes.axvline(5, color="0.4", linestyle=":", linewidth=1.2)
    axes.set(xscale="log", xlim=(0.05, 100), ylim=(0, 100))
    axes.set_xticks([0.1, 1, 5, 10, 100], ["0.1", "1", "5", "10", "100"])
    axes.set(xlabel="worst voxels (% of the mask)", ylabel="squared error held (%)")
    axes.legend(fontsize=8)
    return figure


@styled
def slice_times(offset: Float, att: Float, cbf: Float, t1_blood: float) -> Figure:
    """Change of median ATT (s) and ratio of CBF by slice when slice times are used, with what theory says (lines)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.9))
    line = np.linspace(0, float(offset.max()), 50)
    left.plot(line, line, "-", color="0.6", label="theory")
    left.plot(offset, att, "o", color=CATEGORICAL[0], markersize=4, label="median of a slice")
    right.plot(line, np.exp(line / t1_blood), "-", color="0.6")
    right.plot(offset, cbf, "o", color=CATEGORICAL[1], markersize=4)
    left.set(xlabel="slice time (s)", ylabel="ATT with minus without (s)")
    right.set(xlabel="slice time (s)", ylabel="CBF with / without")
    left.legend(fontsize=8)
    return figure
