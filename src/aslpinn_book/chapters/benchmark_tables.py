"""The benchmark's scores as tables: for a terminal, and for the book."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aslpinn.markdown import table as markdown_table

from .benchmark import ALL_SEEDS, PAPER_TABLE_3, PHANTOMS, Score, values_of

#: Scores of the paper's Table 3, in its order.
TABLE_3 = (("cbf", "ssim"), ("cbf", "pcc"), ("att", "ssim"), ("att", "pcc"))
SPREAD_SEEDS = 3  # fewer noise seeds have no ± in a table
#: Phantom -> the region that makes it special, and the scores that say how it is treated.
SPECIAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "lesion": ("lesion", ("cbf_contrast_kept", "att_contrast_kept")),
    "tumor": ("tumor", ("cbf_contrast_kept", "att_bias")),
    "correlated": ("mask", ("cbf_ssim", "att_ssim")),
    "delayed": ("late", ("cbf_relative_bias", "att_bias")),
    "arterial": ("artery", ("cbf_relative_bias", "att_bias")),
}


@dataclass(frozen=True)
class Column:
    """A score in a table: its metric, the region, and what is best: the highest, or the nearest to `goal`.

    factor 100 states a share in percent.
    """

    metric: str
    region: str = "mask"
    goal: float | None = None
    factor: float = 1.0
    digits: int = 3

    def text(self, values: NDArray[np.float64]) -> str:
        """Mean over noise seeds, ± SD from three on: two say little of a spread; "-" where there is none."""
        if not values.size:
            return "-"
        scaled = self.factor * values
        sign = "+" if self.goal == 0 else ""
        text = f"{scaled.mean():{sign}.{self.digits}f}"
        if values.size < SPREAD_SEEDS:
            return text
        return f"{text} ±\N{NO-BREAK SPACE}{scaled.std(ddof=1):.{self.digits}f}"

    def best(self, means: Sequence[float]) -> float:
        """How far the best of some means is from the goal."""
        return float(np.nanmin([self.distance(mean) for mean in means]))

    def distance(self, mean: float) -> float:
        """How far a mean is from the goal, in digits that are shown."""
        off = -mean if self.goal is None else abs(mean - self.goal)
        return round(self.factor * off, self.digits)


#: The tables of the chapter on results: header -> column; all of one noise level.
TABLES: dict[str, dict[str, Column]] = {
    "cbf": {
        "PCC": Column("cbf_pcc"),
        "SSIM": Column("cbf_ssim"),
        "bias GM (%)": Column("cbf_relative_bias", "gm", 0, 100, 1),
        "bias WM (%)": Column("cbf_relative_bias", "wm", 0, 100, 1),
    },
    "att": {
        "PCC": Column("att_pcc"),
        "SSIM": Column("att_ssim"),
        "bias GM (s)": Column("att_bias", "gm", 0),
        "bias WM (s)": Column("att_bias", "wm", 0),
    },
    "coverage": {
        f"{key.upper()}, {tissue.upper()} (%)": Column(f"{key}_coverage", tissue, 0.95, 100, 1)
        for key in ("cbf", "att")
        for tissue in ("gm", "wm")
    },
    "volume": {f"{key.upper()} {score.upper()}": Column(f"{key}_{score}", "volume") for key, score in TABLE_3},
}


def _values(rows: Sequence[Score], name: str, column: Column) -> NDArray[np.float64]:
    here = [row for row in rows if row.seed != ALL_SEEDS]
    return values_of(here, estimator=name, region=column.region, metric=column.metric)


def _bold(columns: Sequence[Column], found: Sequence[Sequence[NDArray[np.float64]]]) -> list[list[str]]:
    """Cells of rows of methods, the best of each column in bold."""
    cells = [[column.text(values) for column, values in zip(columns, row, strict=True)] for row in found]
    for place, column in enumerate(columns):
        means = [row[place].mean() if row[place].size else np.nan for row in found]
        if np.isfinite(means).sum() < 2:
            continue
        for row, mean in zip(cells, means, strict=True):
            if column.distance(mean) == column.best(means):
                row[place] = f"**{row[place]}**"
    return cells


def scores_table(rows: Sequence[Score], tsnr: float, what: str, methods: Sequence[str] | None = None) -> str:
    """Markdown: a row a method, the columns of TABLES[what] on the healthy phantom at one noise level, best in bold."""
    here = [row for row in rows if (row.phantom, row.tsnr) == ("healthy", tsnr)]
    names = list(methods or dict.fromkeys(row.estimator for row in here))
    columns = TABLES[what]
    found = [[_values(here, name, column) for column in columns.values()] for name in names]
    cells = _bold(list(columns.values()), found)
    return markdown_table(["method", *columns], [[f"`{n}`", *row] for n, row in zip(names, cells, strict=True)])


def paper_table(rows: Sequence[Score], tsnr: float, methods: Sequence[str]) -> str:
    """Markdown: the paper's Table 3 at one noise level, as published, above ours over the whole volume."""
    lines = []
    for name in ("pinn", "nlls"):
        published = [f"{PAPER_TABLE_3[tsnr, key, score][name]:.3f}" for key, score in TABLE_3]
        lines.append([f"*{name}, published*", *published])
    here = [row for row in rows if (row.phantom, row.tsnr) == ("healthy", tsnr)]
    columns = TABLES["volume"]
    for name in methods:
        lines.append([f"`{name}`", *(column.text(_values(here, name, column)) for column in columns.values())])
    return markdown_table(["method", *columns], lines)


#: Metric of a hard phantom -> what is best of it.
_HARD = {
    "contrast_kept": (1.0, 100.0, 0, " kept (%)"),
    "relative_bias": (0.0, 100.0, 1, " bias (%)"),
    "bias": (0.0, 1.0, 2, " bias (s)"),
    "ssim": (None, 1.0, 3, " SSIM"),
}


def special_table(rows: Sequence[Score], tsnr: float) -> str:
    """Markdown: a column a method, two scores of what makes each hard phantom hard, see SPECIAL; one tSNR."""
    here = [row for row in rows if row.tsnr == tsnr and row.phantom in SPECIAL]
    methods = list(dict.fromkeys(row.estimator for row in here))
    lines = []
    for brain, (region, names) in SPECIAL.items():
        some = [row for row in here if row.phantom == brain]
        for metric in names if some else ():
            key, _, kind = metric.partition("_")
            goal, factor, digits, words = _HARD[kind]
            column = Column(metric, region, goal, factor, digits)
            cells = _bold([column], [[_values(some, name, column)] for name in methods])
            lines.append([f"{brain}: {key.upper()}{words}", *(row[0] for row in cells)])
    return markdown_table(["phantom: score", *(f"`{name}`" for name in methods)], lines)


def seconds_of(rows: Sequence[Score], name: str, tsnr: float) -> float:
    """Mean seconds of a method's fits."""
    by_seed = {row.seed: row.seconds for row in rows if (row.estimator, row.tsnr) == (name, tsnr)}
    return float(np.mean(list(by_seed.values())))


def _words(metric: str) -> str:
    name, _, rest = metric.partition("_")
    unit = ", s" if metric == "att_bias" else ""
    score = {"contrast_kept": "contrast kept", "relative_bias": "bias", "bias": "bias"}.get(rest, rest.upper())
    return f"{name.upper()} {score}{unit}"


def table(rows: Sequence[Score], region: str = "mask", phantom: str = "healthy") -> str:
    """A plain text table: per tSNR and method PCC and SSIM of CBF and ATT in the region, bias, coverage, seconds."""
    lines = [f"{phantom} phantom, scores over the {region}, mean over noise seeds", ""]
    special, names = SPECIAL.get(phantom, ("mask", ()))
    lines.append(
        f"{'tSNR':>5} {'method':<14} {'CBF PCC/SSIM':>13} {'ATT PCC/SSIM':>13} {'GM/WM CBF bias':>15} "
        f"{'GM/WM CBF cover':>16} {'s':>6}" + "".join(f"  {_words(name)} ({special})" for name in names)
    )
    here = [row for row in rows if row.phantom == phantom]
    for tsnr in sorted({row.tsnr for row in here}, reverse=True):
        for name in dict.fromkeys(row.estimator for row in here):
            of = [row for row in here if (row.estimator, row.tsnr) == (name, tsnr)]

            def mean(metric: str, where: str = region, of: list[Score] = of) -> float:
                values = [row.value for row in of if (row.metric, row.region) == (metric, where)]
                return float(np.mean(values)) if values else float("nan")

            cbf, att = (f"{mean(f'{m}_pcc'):.3f}/{mean(f'{m}_ssim'):.3f}" for m in ("cbf", "att"))
            bias = "/".join(f"{100 * mean('cbf_relative_bias', tissue):+.1f} %" for tissue in ("gm", "wm"))
            cover = "/".join(f"{100 * mean('cbf_coverage', tissue):.0f} %" for tissue in ("gm", "wm"))
            seconds = seconds_of(of, name, tsnr)
            line = f"{tsnr:>5g} {name:<14} {cbf:>13} {att:>13} {bias:>15} {cover:>16} {seconds:>6.1f}"
            extra = (f"{mean(m, special):.3f}".rjust(len(_words(m)) + len(special) + 5) for m in names)
            lines.append(line + "".join(extra))
    return "\n".join(lines)


def phantoms_in(rows: Sequence[Score]) -> list[str]:
    """Phantoms of a table of scores, in the order of PHANTOMS."""
    found = {row.phantom for row in rows}
    return [name for name in PHANTOMS if name in found]


def published(rows: Sequence[Score]) -> str:
    """Plain text: the paper's Table 3 above ours over the whole volume, and the warning that goes with that region."""
    lines = [
        "Table 3 of the paper (its own phantom, region not stated) and ours over the whole volume, zeros included:"
    ]
    lines.append("a constant inside the mask scores a PCC above 0.9 there. Compare the tables above, of the mask only.")
    lines += ["", f"{'tSNR':>5} {'method':<18} " + " ".join(f"{m.upper() + ' ' + s.upper():>9}" for m, s in TABLE_3)]
    here = [row for row in rows if (row.phantom, row.region) == ("healthy", "volume")]
    for tsnr in sorted({row.tsnr for row in here}, reverse=True):
        for name in ("pinn", "nlls"):
            numbers = [PAPER_TABLE_3[tsnr, *key][name] for key in TABLE_3 if (tsnr, *key) in PAPER_TABLE_3]
            if numbers:
                shown = " ".join(f"{number:>9.3f}" for number in numbers)
                lines.append(f"{tsnr:>5g} {name + ', published':<18} {shown}")
        for name in dict.fromkeys(row.estimator for row in here):
            of = [row for row in here if (row.estimator, row.tsnr) == (name, tsnr)]
            ours = [np.mean([row.value for row in of if row.metric == f"{m}_{s}"]) for m, s in TABLE_3]
            lines.append(f"{tsnr:>5g} {name:<18} " + " ".join(f"{number:>9.3f}" for number in ours))
    return "\n".join(lines)
