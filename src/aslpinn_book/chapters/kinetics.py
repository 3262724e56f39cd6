"""Figures of the chapter on Buxton's model: the convolution behind it, identifiability, pairs of delays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from aslpinn.maps.style import CATEGORICAL, styled, subplots

from .shared import Float


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
def misfit_landscape(cbf: Float, att: Float, misfits: Mapping[str, Float], truth: tuple[float, float]) -> Figure:
    """Misfit of a whole series in noise SDs over (cbf, att), a panel a name; misfit arrays are (att, cbf)."""
    figure, panels = subplots(1, len(misfits), figsize=(2.6 * len(misfits) + 0.6, 3.0), sharey=True, squeeze=False)
    levels = np.array([1, 2, 3, 5, 8, 12, 20])
    for axes, (name, misfit) in zip(panels[0], misfits.items(), strict=True):
        drawn = axes.contourf(cbf, att, misfit, levels=levels, cmap="cividis_r", extend="both")
        axes.plot(*truth, "x", color=CATEGORICAL[1], markersize=9, markeredgewidth=2)
        axes.set(title=name, xlabel="CBF (ml/100g/min)")
    panels[0][0].set_ylabel("ATT (s)")
    figure.colorbar(drawn, ax=panels[0].tolist(), label="misfit (noise SDs)", shrink=0.9)
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
