"""Figures of the chapter on time encoding: matrices, decoding, the gain, a scan's timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, styled, subplots
from aslpinn.physics import Acquisition

from .shared import DASHES, MARKERS, Float


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


@styled
def phases(time: Float, signal: Float, att: float, tau: float) -> Figure:
    """One curve in % of M0b with its three phases marked: before arrival, arriving, washing out."""
    figure, axes = subplots(figsize=(6.4, 3.4))
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
def scan_timing(acquisitions: Mapping[str, tuple[Float, Float]]) -> Figure:
    """Labeling blocks of each protocol given as name -> (tau, PLD) in s, drawn backwards from the readout."""
    figure, axes = subplots(figsize=(6.8, 0.9 + 0.5 * len(acquisitions)))
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
def duration_spline(
    timing: Acquisition, delays: Float, duration: Float, rates: Mapping[str, Float], numeric: Float
) -> Figure:
    """Left tau in s against PLD in s, acquired and along the spline; right rates in 1/s against t = tau + PLD.

    delays, duration, numeric and each of rates (n,); numeric are finite differences of the signal.
    """
    figure, (left, right) = subplots(1, 2, figsize=(8.8, 3.6))
    left.plot(timing.post_labeling_delay, timing.labeling_duration, "o", color="black", label="sub-boli")
    left.plot(delays, duration, color=CATEGORICAL[0], label="fifth-order spline")
    left.set(xlabel="PLD (s)", ylabel="labeling duration τ (s)", ylim=(0, None))
    time = delays + duration
    for color, dashes, (name, rate) in zip(CATEGORICAL, ("-", "--"), rates.items(), strict=False):
        right.plot(time, 100 * rate, dashes, color=color, label=name)
    some = slice(None, None, 20)
    right.plot(time[some], 100 * numeric[some], ".", color="black", label="slope of the signal")
    right.set(xlabel="t = τ + PLD (s)", ylabel="d(ΔM / M0b)/dt (%/s)")
    left.legend()
    right.legend(loc="upper right")
    return figure
