"""One look for every figure: colors, color maps, units, display ranges, and what a page is given (SVG)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, wraps
from io import StringIO
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

P = ParamSpec("P")

#: Okabe and Ito's color-blind safe set, yellow left out (too light on white).
CATEGORICAL = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

#: One color a method, the same in every chapter.
METHOD_COLORS = {
    "field": CATEGORICAL[0],
    "field-unguided": "#004C77",
    "pinn": "#8CC6E8",
    "pinn-single": CATEGORICAL[5],
    "vb-prior": "#8C4A72",
    "nlls": CATEGORICAL[1],
    "smoothed": CATEGORICAL[2],
    "vb": CATEGORICAL[3],
    "svb": CATEGORICAL[4],
    "basil": CATEGORICAL[4],
    "truth": CATEGORICAL[6],
}

#: One marker a method, so that color is never the only difference.
METHOD_MARKERS = {
    "field": "o", "pinn-single": "P", "nlls": "s", "smoothed": "^", "vb": "D", "svb": "v", "basil": "v", "truth": "*",
    "field-unguided": "h", "pinn": "X", "vb-prior": "d",
}  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """How a quantity is drawn: label with unit, color map, display range.

    A bound that is None comes from the data (`limits`); the upper one is then their `percentile`.
    """

    name: str
    unit: str
    cmap: str
    low: float | None
    high: float | None
    percentile: float = 95.0

    @property
    def label(self) -> str:
        """Name and unit, as on an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def limits(self, *values: ArrayLike) -> tuple[float, float]:
        """Display range for maps that share one color bar; values: what they hold inside their masks."""
        inside = np.concatenate([np.ravel(some) for some in values])
        inside = inside[np.isfinite(inside)]
        low = float(np.percentile(inside, 2)) if self.low is None else self.low
        high = float(np.percentile(inside, self.percentile)) if self.high is None else self.high
        return low, high if high > low else low + 1e-6

    def ranged(self, *values: ArrayLike) -> Quantity:
        """The same quantity with the range that `limits` finds."""
        low, high = self.limits(*values)
        return replace(self, low=low, high=high)


QUANTITIES = {
    "cbf": Quantity("CBF", "ml/100g/min", "inferno", 0.0, 80.0),
    "att": Quantity("ATT", "s", "viridis", 0.5, 2.0),
    "m0": Quantity("M0", "relative", "gray", 0.5, 1.05),
    "gm": Quantity("Gray matter", "partial volume", "gray", 0.0, 1.0),
    "wm": Quantity("White matter", "partial volume", "gray", 0.0, 1.0),
    "cbf_sd": Quantity("SD of CBF", "ml/100g/min", "magma", 0.0, None),
    "att_sd": Quantity("SD of ATT", "s", "magma", 0.0, None),
    "abv": Quantity("Arterial blood volume", "%", "magma", 0.0, 2.0),
    "deltam": Quantity("ΔM/M0b", "%", "gray", 0.0, None, percentile=99.0),
    "residual": Quantity("Residual ΔM/M0b", "%", "PuOr_r", -0.15, 0.15),
    "error": Quantity("Relative error", "%", "PuOr_r", -60.0, 60.0),
    "cbf_error": Quantity("CBF error", "ml/100g/min", "PuOr_r", -30.0, 30.0),
    "att_error": Quantity("ATT error", "s", "PuOr_r", -0.6, 0.6),
}

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    # An SVG then holds a map's own voxels, which stay sharp at any magnification, and few bytes.
    "image.interpolation": "none",
    "figure.dpi": 110,
    "savefig.dpi": 192,  # of what is drawn in pixels: two a point of the page's 96
    "svg.hashsalt": "aslpinn",  # the same bytes on every run
    "savefig.bbox": "tight",
    # White behind every figure: axes stay legible on the book's dark theme.
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw with the book's style; matplotlib's own settings come back afterwards."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context(RC):
        matplotlib.rcParams["axes.prop_cycle"] = cycler(color=CATEGORICAL)
        yield


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorator of a figure function: draws with `style()`, and takes the figure from pyplot so that it shows once."""

    @wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style():
            figure = function(*args, **kwargs)
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.close(figure)
        return figure

    return drawn


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes, with the options of `plt.subplots`, but not registered with pyplot.

    A notebook cell that ends with the figure shows it once, as SVG; nothing has to be closed, and no display is needed.
    """
    taken = ("sharex", "sharey", "squeeze", "width_ratios", "height_ratios", "gridspec_kw", "subplot_kw")
    layout = {key: options.pop(key) for key in taken if key in options}
    figure = _figure_class()(**options)
    return figure, figure.subplots(rows, columns, **layout)


PAGE_WIDTH = 688.0  # CSS pixels of a page's text in a window of 1300; a wider figure is shown that wide
SMALLEST = 9.0  # CSS pixels: no label is shown smaller


def smallest_label(figure: Figure) -> float:
    """Size in points below which a label of the figure would be shown in fewer than SMALLEST pixels."""
    return SMALLEST * 0.75 * max(1.0, 96 * figure.get_figwidth() / PAGE_WIDTH)


@cache
def _figure_class() -> type[Figure]:
    """Matplotlib's Figure that saves with the book's style and shows itself in a notebook without pyplot."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as MatplotlibFigure
    from matplotlib.text import Text

    class BookFigure(MatplotlibFigure):
        def savefig(self, fname: Any, **options: Any) -> None:
            smallest = smallest_label(self)
            for label in self.findobj(Text):
                label.set_fontsize(max(label.get_fontsize(), smallest))
            with rc_context(RC):
                super().savefig(fname, **options)

        def _repr_svg_(self) -> str:
            buffer = StringIO()
            self.savefig(buffer, format="svg", metadata={"Date": None})
            return buffer.getvalue()

        def _ipython_display_(self) -> None:
            from IPython.display import publish_display_data

            # And nothing else: pyplot, where it is imported, would add the same figure as PNG.
            publish_display_data({"image/svg+xml": self._repr_svg_(), "text/plain": repr(self)})

    return BookFigure


def colorbar(image: ScalarMappable, axes: Any, quantity: Quantity | str, **options: Any) -> Colorbar:
    """A color bar with the quantity's name and unit beside axes (one, or an array that shares it)."""
    drawn = QUANTITIES[quantity] if isinstance(quantity, str) else quantity
    first: Axes = axes.flat[0] if hasattr(axes, "flat") else axes
    figure = first.get_figure()
    assert figure is not None
    options = {"shrink": 0.85, "pad": 0.02, "extend": "both", **options}
    bar = figure.colorbar(image, ax=axes, label=drawn.label, **options)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)  # 256 bars: as lines they would show seams
    return bar
