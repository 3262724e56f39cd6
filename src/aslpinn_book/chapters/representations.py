"""Figures of the chapter on implicit representations: spectral bias, initialization, frequencies, derivatives, fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, QUANTITIES, Quantity, colorbar, styled, subplots

from .shared import DASHES, MARKERS, Float, empty_figure


@styled
def spectral_bias(
    x: Float, target: Float, fits: Mapping[str, Float], frequencies: Sequence[int], shares: Mapping[str, Float]
) -> Figure:
    """Fits of a signal of one coordinate, and the share of each frequency's amplitude learned after each step.

    x and target (n,); fits name -> (n,), after the last step; shares name -> (steps, frequencies), 1 where all is
    learned; frequencies in periods over the length of x.
    """
    figure = empty_figure((7.2, 5.4))
    grid = figure.add_gridspec(2, len(fits), height_ratios=(1.0, 1.1))
    above = figure.add_subplot(grid[0, :])
    above.plot(x, target, color="0.6", linewidth=3.5, label="signal")
    panels = []
    for column, (color, dashes, (name, fit)) in enumerate(zip(CATEGORICAL, DASHES, fits.items(), strict=False)):
        above.plot(x, fit, dashes, color=color, label=name, linewidth=1.5)
        axes = figure.add_subplot(grid[1, column])
        steps = len(shares[name])
        edges = np.arange(steps + 1) + 0.5
        mesh = axes.pcolormesh(
            edges,
            np.arange(len(frequencies) + 1) - 0.5,
            shares[name].T,
            cmap="viridis",
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        axes.set(xscale="log", xlim=(1, steps), xlabel="training step", title=name)
        axes.set_yticks(range(len(frequencies)), [str(f) for f in frequencies] if column == 0 else [])
        axes.grid(visible=False)
        panels.append(axes)
    panels[0].set_ylabel("frequency (periods)")
    above.set(xlabel="coordinate x", ylabel="signal (no unit)", xlim=(float(x[0]), float(x[-1])))
    above.set_ylim(top=1.45 * float(target.max()))
    above.legend(loc="upper center", ncols=1 + len(fits))
    figure.colorbar(mesh, ax=panels, label="share learned (1 = all)", shrink=0.9, pad=0.02)
    return figure


@styled
def initialization(spreads: Mapping[str, Float], slopes: Mapping[str, Float]) -> Figure:
    """What a network is before training: SD of its activations, and of their derivative by an input, layer by layer.

    spreads, slopes: start -> (layers,); the slopes are drawn on a logarithmic axis.
    """
    figure, (left, right) = subplots(1, 2, figsize=(8.2, 3.4))
    for axes, values in ((left, spreads), (right, slopes)):
        for color, marker, (name, by_layer) in zip(CATEGORICAL, MARKERS, values.items(), strict=False):
            axes.plot(np.arange(len(by_layer)) + 1, by_layer, marker=marker, color=color, label=name)
        axes.set_xlabel("hidden layer")
        axes.set_xticks(np.arange(1, len(by_layer) + 1))
    left.set(ylabel="SD of the activations", ylim=(0, 1.05))
    right.set(ylabel="SD of their derivative by x", yscale="log")
    right.legend(title="weights times", loc="upper left")
    return figure


@styled
def frequency_fits(
    x: Float, truth: Float, sample_x: Float, samples: Float, fits: Mapping[str, tuple[Float, float]]
) -> Figure:
    """One panel a fit of the same noisy samples: title -> (values (n,) at x, RMSE against the truth)."""
    figure, panels = subplots(1, len(fits), figsize=(2.75 * len(fits), 3.1), sharey=True, squeeze=False)
    for axes, (name, (values, error)) in zip(panels[0], fits.items(), strict=True):
        axes.plot(x, truth, color="0.6", linewidth=3, label="truth")
        axes.plot(sample_x, samples, "o", color="black", markersize=3.5, label="noisy samples")
        axes.plot(x, values, color=CATEGORICAL[1], linewidth=1.4, label="fit")
        axes.set(title=f"{name}\nRMSE {error:.2f}", xlabel="coordinate x")
    panels[0, 0].set_ylabel("signal (no unit)")
    low, high = float(min(truth.min(), samples.min())), float(max(truth.max(), samples.max()))
    panels[0, 0].set_ylim(low - 0.35 * (high - low), high + 0.35 * (high - low))
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def derivatives(x: Float, truth: tuple[Float, Float], fits: Mapping[str, tuple[Float, Float]]) -> Figure:
    """Above a signal and fits of it, below their derivatives by x: (values, derivatives) each, (n,)."""
    figure, panels = subplots(2, 1, figsize=(6.6, 4.8), sharex=True)
    for row, (axes, label) in enumerate(zip(panels, ("signal (no unit)", "derivative by x"), strict=True)):
        axes.plot(x, truth[row], color="0.6", linewidth=3.5, label="truth")
        for color, dashes, (name, pair) in zip(CATEGORICAL, DASHES, fits.items(), strict=False):
            axes.plot(x, pair[row], dashes, color=color, linewidth=1.4, label=name)
        axes.set_ylabel(label)
    panels[0].legend(loc="upper right")
    panels[1].set(xlabel="coordinate x", xlim=(float(x[0]), float(x[-1])))
    return figure


@styled
def image_fits(image: Float, fits: Mapping[str, Float], inside: NDArray[np.bool_], quantity: str = "gm") -> Figure:
    """An image and fits of it in the first row, their errors below; arrays (X, Y), errors where `inside` is set."""
    shown = QUANTITIES[quantity]
    error = Quantity("fit minus image", shown.unit, "PuOr_r", -0.4, 0.4)
    figure, panels = subplots(2, 1 + len(fits), figsize=(1.85 * (1 + len(fits)) + 0.8, 5.0))
    for axes in panels.flat:
        axes.set_axis_off()
    first = panels[0, 0].imshow(image.T, origin="lower", cmap=shown.cmap, vmin=shown.low, vmax=shown.high)
    panels[0, 0].set_title("image")
    for column, (name, fit) in zip(panels.T[1:], fits.items(), strict=True):
        column[0].imshow(fit.T, origin="lower", cmap=shown.cmap, vmin=shown.low, vmax=shown.high)
        column[0].set_title(name)
        difference = np.where(inside, fit - image, np.nan)
        second = column[1].imshow(difference.T, origin="lower", cmap=error.cmap, vmin=error.low, vmax=error.high)
    for mapped, row, drawn in ((first, panels[0], shown), (second, panels[1], error)):
        colorbar(mapped, row, drawn).set_label(f"{drawn.name}\n({drawn.unit})")
    return figure
