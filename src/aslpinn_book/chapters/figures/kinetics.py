"""Figures of the chapter on Buxton's model: curves, timing, identifiability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, styled

Float = NDArray[np.floating]


@styled
def kinetic_curves(
    time: Float, curves: Mapping[str, Float], samples: Mapping[str, tuple[Float, Float]] | None = None
) -> Figure:
    """Signal in % of M0b against time since labeling began in s, a line a name; samples (t, signal) as dots."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    for color, (name, signal) in zip(CATEGORICAL, curves.items(), strict=False):
        axes.plot(time, 100 * signal, color=color, label=name)
        if samples and name in samples:
            axes.plot(samples[name][0], 100 * samples[name][1], "o", color=color, markersize=5)
    axes.set(xlabel="time since labeling began, t = τ + PLD (s)", ylabel="ΔM / M0b (%)", xlim=(time[0], time[-1]))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylim(top=axes.get_ylim()[1] * (1 + 0.14 * len(curves)))  # room for the legend above the curves
    axes.legend(loc="upper left")
    return figure


@styled
def phases(time: Float, signal: Float, att: float, tau: float) -> Figure:
    """One curve in % of M0b with its three phases marked: before arrival, arriving, washing out."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    names = ("before arrival", "label arrives", "label decays and leaves")
    edges = (time[0], att, att + tau, time[-1])
    for left, right, name, shade in zip(edges[:-1], edges[1:], names, (0.97, 0.88, 0.94), strict=True):
        axes.axvspan(left, right, color=str(shade), linewidth=0)
        axes.text((left + right) / 2, 102 * signal.max(), name, ha="center", va="bottom", fontsize=9)
    axes.plot(time, 100 * signal, color=CATEGORICAL[0])
    axes.set(xlabel="time since labeling began, t (s)", ylabel="ΔM / M0b (%)", xlim=(time[0], time[-1]))
    axes.set_ylim(0, 118 * signal.max())
    axes.set_xticks([0, att, att + tau, time[-1]], ["0", "ATT", "ATT + τ", f"{time[-1]:g}"])
    return figure


@styled
def timing(acquisitions: Mapping[str, tuple[Float, Float]]) -> Figure:
    """Labeling blocks of each protocol given as name -> (tau, PLD) in s, drawn backwards from the readout."""
    figure, axes = plt.subplots(figsize=(6.8, 0.9 + 0.5 * len(acquisitions)))
    for row, (tau, pld) in enumerate(acquisitions.values()):
        for block, (duration, delay) in enumerate(zip(tau, pld, strict=True)):
            axes.barh(
                row, duration, left=-delay - duration, height=0.55, color=CATEGORICAL[block % 2], edgecolor="white"
            )
    axes.axvline(0, color="0.2", linewidth=1.2)
    axes.text(0.03, len(acquisitions) - 0.5, "readout", fontsize=9, va="center")
    axes.set(xlabel="time before the readout (s)", ylim=(-0.6, len(acquisitions) - 0.2))
    axes.set_yticks(range(len(acquisitions)), list(acquisitions))
    axes.set_xlim(axes.get_xlim()[0] - 0.1, 0.5)
    return figure


@styled
def misfit_landscape(cbf: Float, att: Float, misfits: Mapping[str, Float], truth: tuple[float, float]) -> Figure:
    """Misfit of a whole series in noise SDs over (cbf, att), a panel a name; misfit arrays are (att, cbf)."""
    figure, panels = plt.subplots(1, len(misfits), figsize=(2.6 * len(misfits) + 0.6, 3.0), sharey=True, squeeze=False)
    levels = np.array([1, 2, 3, 5, 8, 12, 20])
    for axes, (name, misfit) in zip(panels[0], misfits.items(), strict=True):
        drawn = axes.contourf(cbf, att, misfit, levels=levels, cmap="cividis_r", extend="both")
        axes.plot(*truth, "x", color=CATEGORICAL[1], markersize=9, markeredgewidth=2)
        axes.set(title=name, xlabel="CBF (ml/100g/min)")
    panels[0][0].set_ylabel("ATT (s)")
    figure.colorbar(drawn, ax=panels[0].tolist(), label="misfit (noise SDs)", shrink=0.9)
    return figure
