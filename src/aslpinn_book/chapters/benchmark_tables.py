"""The benchmark's scores as tables: for a terminal, and for the book."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aslpinn.markdown import table as markdown_table

from .benchmark import PAPER_TABLE_3, PHANTOMS, Score, summary

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


def cell(rows: Sequence[Score], where: Mapping[str, object], percent: bool = False) -> str:
    """Mean over noise seeds of the rows whose fields are as in `where`, ± SD from three on: two say little of a spread.

    "-" where there is none.
    """
    found = [row for row in rows if all(getattr(row, key) == value for key, value in where.items())]
    if not found:
        return "-"
    mean, sd = summary(found)
    text = f"{100 * mean:+.1f} %" if percent else f"{mean:.3f}"
    if len(found) < SPREAD_SEEDS:
        return text
    return f"{text} ± {100 * sd:.1f}" if percent else f"{text} ± {sd:.3f}"


def seconds_of(rows: Sequence[Score], name: str, tsnr: float) -> float:
    """Mean seconds of a method's fits."""
    by_seed = {row.seed: row.seconds for row in rows if (row.estimator, row.tsnr) == (name, tsnr)}
    return float(np.mean(list(by_seed.values())))


def scores_table(rows: Sequence[Score], phantom: str = "healthy", region: str = "mask") -> str:
    """Markdown: by tSNR and method PCC and SSIM over the region, bias of CBF by tissue, 95 % coverage, seconds."""
    here = [row for row in rows if row.phantom == phantom]
    header = ["tSNR", "method", "CBF PCC", "CBF SSIM", "ATT PCC", "ATT SSIM"]
    header += ["CBF bias GM (%)", "CBF bias WM (%)", "seconds"]
    lines = []
    for tsnr in sorted({row.tsnr for row in here}, reverse=True):
        for name in dict.fromkeys(row.estimator for row in here):
            at: dict[str, object] = {"estimator": name, "tsnr": tsnr}
            scores = [f"{key}_{kind}" for key in ("cbf", "att") for kind in ("pcc", "ssim")]
            cells = [cell(here, at | {"region": region, "metric": metric}) for metric in scores]
            biases = [cell(here, at | {"region": t, "metric": "cbf_relative_bias"}, percent=True) for t in ("gm", "wm")]
            cells += [bias.replace(" %", "") for bias in biases]  # the unit is in the header
            lines.append([tsnr, name, *cells, f"{seconds_of(here, name, tsnr):.1f}"])
    return markdown_table(header, lines)


def coverage_table(rows: Sequence[Score], phantom: str = "healthy") -> str:
    """Markdown: share of voxels whose 95 % interval holds the truth, by tSNR and method, CBF and ATT in GM and WM."""
    here = [row for row in rows if row.phantom == phantom]
    lines = []
    for tsnr in sorted({row.tsnr for row in here}, reverse=True):
        for name in dict.fromkeys(row.estimator for row in here):
            shares = [
                cell(here, {"estimator": name, "tsnr": tsnr, "region": tissue, "metric": f"{key}_coverage"})
                for key in ("cbf", "att")
                for tissue in ("gm", "wm")
            ]
            lines.append([tsnr, name, *shares])
    return markdown_table(["tSNR", "method", "CBF, GM", "CBF, WM", "ATT, GM", "ATT, WM"], lines)


def paper_table(rows: Sequence[Score], methods: Sequence[str]) -> str:
    """Markdown: the paper's Table 3, as published, above ours over the whole volume and inside the mask."""
    lines = []
    for tsnr in sorted({row.tsnr for row in rows}, reverse=True):
        for name in ("pinn", "nlls"):
            published = [f"{PAPER_TABLE_3[tsnr, key, score][name]:.3f}" for key, score in TABLE_3]
            lines.append([tsnr, f"**{name}, published**", "not stated", *published])
        for region in ("volume", "mask"):
            for name in methods:
                at: dict[str, object] = {"estimator": name, "tsnr": tsnr, "phantom": "healthy", "region": region}
                ours = [cell(rows, at | {"metric": f"{key}_{score}"}) for key, score in TABLE_3]
                lines.append([tsnr, f"{name}, ours", region, *ours])
    return markdown_table(["tSNR", "method", "region", "CBF SSIM", "CBF PCC", "ATT SSIM", "ATT PCC"], lines)


def special_table(rows: Sequence[Score], tsnr: float) -> str:
    """Markdown: a column a method, two scores of what makes each hard phantom hard, see SPECIAL; one tSNR."""
    here = [row for row in rows if row.tsnr == tsnr]
    brains = [name for name in SPECIAL if any(row.phantom == name for row in here)]
    methods = list(dict.fromkeys(row.estimator for row in here if row.phantom in brains))
    lines = []
    for brain in brains:
        region, names = SPECIAL[brain]
        for metric in names:
            percent = metric.endswith(("kept", "relative_bias"))
            cells = []
            for name in methods:
                at: dict[str, object] = {"estimator": name, "phantom": brain, "region": region, "metric": metric}
                cells.append(cell(here, at, percent).lstrip("+" if metric.endswith("kept") else ""))
            lines.append([f"{brain}: {_words(metric)} ({region})", *cells])
    return markdown_table(["phantom: score (region)", *methods], lines)


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
