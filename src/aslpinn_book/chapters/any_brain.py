"""Where the default loses: errors of held-out repeats beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from aslpinn.maps.style import styled, subplots

from .shared import method_look

#: The half itself is no method and has a look of its own.
HALF = ("#555555", "x")


@styled
def held_out_ratios(names: Sequence[str], ratios: Mapping[str, Sequence[float]]) -> Figure:
    """Each series' held-out error over that of `field`, one row a series, one marker a method.

    Parameters
    ----------
    names : series, from top to bottom
    ratios : name of a method -> its ratios, as many as names
    """
    figure, axes = subplots(figsize=(7.0, 0.8 + 0.3 * len(names)), layout="constrained")
    axes.axvline(1.0, color=method_look("field", 0)[0], linewidth=1.5, label="field")
    for place, (name, values) in enumerate(ratios.items()):
        color, marker = HALF if name == "half" else method_look(name, place)
        axes.plot(values, range(len(names)), linestyle="none", color=color, marker=marker, markersize=8, label=name)
    axes.set_yticks(range(len(names)), labels=names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("RMSE of the other half / that of field")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=1 + len(ratios), frameon=False)
    return figure
