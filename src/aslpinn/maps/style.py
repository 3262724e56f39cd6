"""One look for every figure: colors, color maps, units."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any, ParamSpec

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
    """How a quantity is drawn: label with unit, color map, display range (None: from the data)."""

    name: str
    unit: str
    cmap: str
    low: float | None
    high: float | None

    @property
    def label(self) -> str:
        """Name and unit, as on an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


QUANTITIES = {
    "cbf": Quantity("CBF", "ml/100g/min", "inferno", 0.0, 80.0),
    "att": Quantity("ATT", "s", "viridis", 0.5, 2.0),
    "m0": Quantity("M0", "relative", "gray", 0.5, 1.05),
    "gm": Quantity("Gray matter", "partial volume", "gray", 0.0, 1.0),
    "wm": Quantity("White matter", "partial volume", "gray", 0.0, 1.0),
    "cbf_sd": Quantity("SD of CBF", "ml/100g/min", "magma", 0.0, 20.0),
    "att_sd": Quantity("SD of ATT", "s", "magma", 0.0, 0.5),
    "abv": Quantity("Arterial blood volume", "%", "magma", 0.0, 2.0),
    "deltam": Quantity("ΔM/M0b", "%", "cividis", -0.1, 0.3),
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
    "image.interpolation": "nearest",
    "figure.dpi": 110,
    "savefig.dpi": 110,
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

    A notebook cell that ends with the figure shows it once, at the book's resolution; nothing has to be closed,
    and no display is needed.
    """
    taken = ("sharex", "sharey", "squeeze", "width_ratios", "height_ratios", "gridspec_kw", "subplot_kw")
    layout = {key: options.pop(key) for key in taken if key in options}
    figure = _figure_class()(**options)
    return figure, figure.subplots(rows, columns, **layout)


@cache
def _figure_class() -> type[Figure]:
    """Matplotlib's Figure that saves with the book's style and shows itself in a notebook without pyplot."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as MatplotlibFigure

    class BookFigure(MatplotlibFigure):
        def savefig(self, fname: Any, **options: Any) -> None:
            with rc_context(RC):
                super().savefig(fname, **options)

        def _repr_png_(self) -> bytes:
            buffer = BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return BookFigure


def colorbar(image: ScalarMappable, axes: Any, quantity: Quantity | str, **options: Any) -> Colorbar:
    """A color bar with the quantity's name and unit beside axes (one, or an array that shares it)."""
    drawn = QUANTITIES[quantity] if isinstance(quantity, str) else quantity
    first: Axes = axes.flat[0] if hasattr(axes, "flat") else axes
    figure = first.get_figure()
    assert figure is not None
    options = {"shrink": 0.85, "pad": 0.02, "extend": "both", **options}
    return figure.colorbar(image, ax=axes, label=drawn.label, **options)
