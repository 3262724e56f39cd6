"""Figures of a group: one point a subject, by region and data set; estimators against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aslpinn.maps import style as plt
from aslpinn.maps.style import CATEGORICAL, QUANTITIES, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = NDArray[np.float64]


@styled
def subject_values(
    panels: Mapping[str, Mapping[str, Values]],
    names: Mapping[str, Sequence[str]] | None = None,
    marked: Sequence[str] = (),
) -> Figure:
    """One panel a quantity: a point a subject and a bar at the median, in a column for each group.

    panels: axis label -> {column: values}; NaN is left out, and columns of nothing else. names: column -> the subject
    of each value; those in marked are ringed and named. One subject has no median.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(7.6 if len(panels) > 1 else 4.0, 3.0), squeeze=False)
    for panel, (label, told) in zip(axes[0], panels.items(), strict=True):
        columns = {column: values for column, values in told.items() if np.isfinite(values).any()}
        places = {column: place for place, column in enumerate(told)}  # of all: a column has one color in every panel
        for at, (column, values) in enumerate(columns.items()):
            kept = np.flatnonzero(np.isfinite(values))
            points = values[kept]
            across = at + _spread(points)
            look = {"markersize": 5 if kept.size > 1 else 7, "alpha": 0.6 if kept.size > 1 else 1.0}
            panel.plot(across, points, "o", color=CATEGORICAL[places[column] % 6], markeredgewidth=0, **look)
            if kept.size > 1:
                panel.hlines(np.median(points), at - 0.35, at + 0.35, color="0.2", linewidth=1.6)
            for x, index in zip(across, kept, strict=True):
                name = names[column][int(index)] if names else ""
                if name in marked:
                    panel.plot(x, values[index], "o", markersize=9, markerfacecolor="none", markeredgecolor="0.1")
                    panel.annotate(name, (x, values[index]), (6, 3), textcoords="offset points", fontsize=7)
        panel.set_xticks(range(len(columns)), [name.replace(" ", "\n") for name in columns], fontsize=9)
        turned = len(columns) * len(panels) > 5
        panel.tick_params(axis="x", rotation=30 if turned else 0)
        for tick in panel.get_xticklabels() if turned else ():
            tick.set(ha="right", rotation_mode="anchor")
        panel.set_xlim(-0.6, len(columns) - 0.4)
        panel.set_ylabel(label)
        everything = np.concatenate([values[np.isfinite(values)] for values in columns.values()] or [np.zeros(0)])
        if everything.size and everything.min() >= 0:
            panel.set_ylim(0, 1.1 * everything.max() or 1)  # from zero, and no point on the frame
    return figure


def _spread(values: Values) -> Values:
    """Sideways shifts, the same on every run, that keep near-equal values apart."""
    shift = np.zeros(values.size)
    order = np.argsort(values, kind="stable")
    shift[order] = ((np.arange(values.size) * 0.618034) % 1 - 0.5) * 0.5
    return shift if values.size > 1 else np.zeros(values.size)


@styled
def paired(mine: Values, others: Mapping[str, Values], label: str, name: str) -> Figure:
    """One point a subject: an error of the main estimator (up) against that of each other (across), logarithmic.

    Below the line of equality the main estimator's is the smaller. Values are positive.
    """
    figure, panel = plt.subplots(figsize=(4.2, 3.8))
    everything: list[Any] = [mine[np.isfinite(mine)]]
    for index, (other, values) in enumerate(others.items()):
        both = np.isfinite(mine) & np.isfinite(values)
        marker = "osD^v"[index % 5]
        panel.plot(values[both], mine[both], marker, color=CATEGORICAL[index + 1], markersize=5, alpha=0.7, label=other)
        everything.append(values[both])
    known = np.concatenate(everything) if any(v.size for v in everything) else np.ones(1)
    low, high = 0.8 * float(known.min()), 1.25 * float(known.max())
    panel.plot([low, high], [low, high], color="0.5", linewidth=1, label="equal")
    panel.set(xlabel=f"{label}, other estimator", ylabel=f"{label}, {name}", xscale="log", yscale="log")
    panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ticks = [tick for power in range(-3, 6) for tick in np.array([1, 2, 5]) * 10.0**power if low <= tick <= high]
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    panel.legend(loc="upper left")
    return figure


@styled
def subject_maps(
    slices: Mapping[str, Mapping[str, Values]],
    voxel_sizes: Mapping[str, Sequence[float]],
    quantities: Sequence[str] = ("cbf", "att"),
    columns: int = 7,
) -> Figure:
    """One axial slice a subject: a row of CBF and below it one of ATT, again for every `columns` subjects.

    slices: subject -> quantity -> (X, Y) values, NaN outside the brain; voxel_sizes: subject -> its x and y in mm. All
    are drawn at one scale. A color bar for each quantity stands below.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    names = list(slices)
    columns = min(columns, len(names))
    blocks = -(-len(names) // columns)
    extents = {
        name: [count * mm for count, mm in zip(slices[name][quantities[0]].shape, voxel_sizes[name], strict=False)]
        for name in names
    }
    wide, high = (1.06 * max(extent[axis] for extent in extents.values()) for axis in (0, 1))
    label = 0.3 * high  # room for a name of two lines
    block_high = len(quantities) * high + label
    unit = max(1.05, 7.2 / max(columns, 5))  # inches a subject
    inches = columns * unit, unit * blocks * block_high / wide
    figure, axes = plt.subplots(figsize=inches)
    axes.set_axis_off()
    axes.set(xlim=(0, columns * wide), ylim=(-blocks * block_high, 0), aspect="equal")
    for level, key in enumerate(quantities):
        drawn = QUANTITIES[key]
        colors = ScalarMappable(Normalize(drawn.low, drawn.high), drawn.cmap)
        for index, name in enumerate(names):
            x, y = (index % columns + 0.5) * wide, -(index // columns) * block_high
            if level == 0:
                axes.text(x, y - label, name.replace("_", "\n"), fontsize=8, ha="center", va="bottom", linespacing=1.0)
            y -= label + (level + 0.5) * high
            values = np.rot90(slices[name][key])
            shown = np.where(np.isfinite(values)[..., None], colors.to_rgba(np.nan_to_num(values)), 0.0)
            half = [0.5 * extent for extent in extents[name]]
            axes.imshow(shown, extent=(x - half[0], x + half[0], y - half[1], y + half[1]))
        room = (level / len(quantities) + 0.03, -0.3 / inches[1], 1 / len(quantities) - 0.06, 0.12 / inches[1])
        figure.colorbar(colors, cax=axes.inset_axes(room), orientation="horizontal", extend="both", label=drawn.label)
    axes.set(xlim=(0, columns * wide), ylim=(-blocks * block_high, 0))
    return figure
