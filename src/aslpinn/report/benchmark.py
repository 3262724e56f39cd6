"""Every estimator on the digital phantom, where the truth is known: one tidy table of scores."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import metrics

if TYPE_CHECKING:
    from ..data import Phantom
    from ..estimation import Estimate

ESTIMATORS = ("pinn", "closed-form", "nlls", "smoothed", "vb", "svb")
QUICK_ESTIMATORS = ("closed-form", "nlls", "smoothed")
TSNRS = (1.5, 0.5)

#: Phantom's name -> options of `simulate`; the last five are there because smoothing should lose on them.
PHANTOMS: dict[str, dict[str, Any]] = {
    "healthy": {},
    "lesion": {"lesion": True},
    "tumor": {"tumor": True},
    "correlated": {"noise_fwhm": 6.0},
    "delayed": {"delayed": True},
    "arterial": {"arterial_voxels": True},
}

#: Table 3 of the paper (its own phantom, whole volume): (tSNR, map, score) -> estimator -> number.
PAPER_TABLE_3: dict[tuple[float, str, str], dict[str, float]] = {
    (1.5, "cbf", "ssim"): {"pinn": 0.825, "nlls": 0.786},
    (1.5, "cbf", "pcc"): {"pinn": 0.969, "nlls": 0.944},
    (1.5, "att", "ssim"): {"pinn": 0.951, "nlls": 0.467},
    (1.5, "att", "pcc"): {"pinn": 0.995, "nlls": 0.761},
    (0.5, "cbf", "ssim"): {"pinn": 0.643, "nlls": 0.533},
    (0.5, "cbf", "pcc"): {"pinn": 0.907, "nlls": 0.841},
    (0.5, "att", "ssim"): {"pinn": 0.842, "nlls": 0.212},
    (0.5, "att", "pcc"): {"pinn": 0.980, "nlls": 0.482},
}


@dataclass(frozen=True)
class Score:
    """One row of the benchmark: metric is the map's name and the score's (cbf_pcc), seconds those of the whole fit."""

    estimator: str
    phantom: str
    tsnr: float
    seed: int
    region: str
    metric: str
    value: float
    seconds: float


def regions(phantom: Phantom) -> dict[str, NDArray[np.bool_]]:
    """Named regions of a phantom: mask, gm and wm (partial volume above 0.7), volume, and lesion or tumor."""
    named = {
        "mask": phantom.mask,
        "gm": metrics.tissue_region(phantom.gm, phantom.mask),
        "wm": metrics.tissue_region(phantom.wm, phantom.mask),
        "volume": metrics.everywhere(phantom.mask),
        "lesion": phantom.lesion,
        "tumor": phantom.tumor,
    }
    return {name: region for name, region in named.items() if region.any()}


def score(phantom: Phantom, estimate: Estimate) -> dict[tuple[str, str], float]:
    """(region, metric) -> value of one fit; maps outside the mask are taken as zero."""
    values: dict[tuple[str, str], float] = {}
    for name, true, found, sd in (
        ("cbf", phantom.cbf, estimate.cbf, estimate.cbf_sd),
        ("att", phantom.att, estimate.att, estimate.att_sd),
    ):
        shown = np.where(phantom.mask, found, 0)
        for region, where in regions(phantom).items():
            values[region, f"{name}_rmse"] = metrics.rmse(shown, true, where)
            if region in ("lesion", "tumor"):
                values[region, f"{name}_contrast_kept"] = metrics.contrast_kept(shown, true, where, phantom.mask)
                continue
            values[region, f"{name}_pcc"] = metrics.pcc(shown, true, where)
            values[region, f"{name}_ssim"] = metrics.ssim(shown, true, where, phantom.mask)
            if region == "volume":
                continue
            values[region, f"{name}_bias"] = metrics.bias(shown, true, where)
            values[region, f"{name}_relative_bias"] = metrics.relative_bias(shown, true, where)
            if sd is not None:
                values[region, f"{name}_coverage"] = metrics.coverage(found, sd, true, where)
    index = phantom.acquisition.distinct[1]
    for region, where in regions(phantom).items():
        if region in ("mask", "gm", "wm"):
            residual = metrics.residual_rmse(phantom.series, estimate.fitted, where, index)
            values[region, "signal_residual_rmse"] = residual
    return values


def run(
    estimators: Iterable[str] | None = None,
    tsnrs: Iterable[float] | None = None,
    seeds: Iterable[int] | None = None,
    phantoms: Iterable[str] | None = None,
    quick: bool = False,
    protocol: str = "te11",
    voxel_size: tuple[float, float, float] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    keep: dict[tuple[str, str, float, int], Estimate] | None = None,
) -> list[Score]:
    """Fit phantoms with estimators and score every map.

    Parameters
    ----------
    estimators, tsnrs, seeds, phantoms
        By default all of ESTIMATORS and PHANTOMS, both TSNRS and three noise seeds.
    quick : bool
        For tests: coarse voxels, three quick estimators, one tSNR, one seed, two phantoms, unless they are named.
    options : mapping
        Estimator -> its options for `aslpinn.fit`.
    progress : callable
        Called with (done, total, message) before each fit and at the end.
    keep : dict, optional
        Filled with the fits: (estimator, phantom, tsnr, seed) -> Estimate.

    Raises
    ------
    InputError
        For an unknown phantom, or what `simulate` and `fit` refuse.
    """
    from ..data import simulate
    from ..estimation import fit

    chosen = list(estimators or (QUICK_ESTIMATORS if quick else ESTIMATORS))
    levels = list(tsnrs or (TSNRS[:1] if quick else TSNRS))
    repeats = list(seeds if seeds is not None else ((0,) if quick else (0, 1, 2)))
    brains = list(phantoms or (("healthy", "lesion") if quick else PHANTOMS))
    for name in brains:
        if name not in PHANTOMS:
            raise InputError(f"there is no phantom {name!r}; expected one of {', '.join(PHANTOMS)}")
    size = voxel_size or ((6.0, 6.0, 7.0) if quick else (3.0, 3.0, 7.0))
    total = len(chosen) * len(levels) * len(repeats) * len(brains)
    rows: list[Score] = []
    done = 0
    for brain in brains:
        for tsnr in levels:
            for seed in repeats:
                phantom = simulate(protocol, tsnr=tsnr, seed=seed, voxel_size=size, **PHANTOMS[brain])
                for estimator in chosen:
                    if progress:
                        progress(done, total, f"{estimator} on {brain}, tSNR {tsnr:g}, seed {seed}")
                    start = time.perf_counter()
                    estimate = fit(
                        phantom.series,
                        phantom.mask,
                        phantom.acquisition,
                        estimator=estimator,
                        seed=seed,
                        voxel_size=size,
                        **dict((options or {}).get(estimator, {})),
                    )
                    seconds = time.perf_counter() - start
                    rows += [
                        Score(estimator, brain, tsnr, seed, region, metric, value, round(seconds, 3))
                        for (region, metric), value in score(phantom, estimate).items()
                    ]
                    if keep is not None:
                        keep[estimator, brain, tsnr, seed] = estimate
                    done += 1
    if progress:
        progress(total, total, "done")
    return rows


def values_of(rows: Sequence[Score], **wanted: Any) -> NDArray[np.float64]:
    """Values of the rows whose fields equal those wanted, for example estimator="nlls", metric="cbf_pcc"."""
    known = {field.name for field in fields(Score)}
    if set(wanted) - known:
        raise InputError(
            f"rows have no field {', '.join(sorted(set(wanted) - known))}; expected {', '.join(sorted(known))}"
        )
    return np.array([row.value for row in rows if all(getattr(row, key) == value for key, value in wanted.items())])


def summary(rows: Sequence[Score], **wanted: Any) -> tuple[float, float]:
    """Mean and SD over noise seeds of the values that `values_of` finds; InputError where there are none."""
    found = values_of(rows, **wanted)
    if found.size == 0:
        raise InputError(f"the benchmark has no row with {wanted}")
    return float(found.mean()), float(found.std(ddof=1)) if found.size > 1 else 0.0


def write_csv(rows: Sequence[Score], path: str | Path) -> Path:
    """Write rows as a CSV file with a header, one score a line."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return file


def table(rows: Sequence[Score], region: str = "mask", phantom: str = "healthy") -> str:
    """A plain text table: per tSNR and estimator PCC and SSIM of CBF and ATT in the region, CBF bias, mean seconds."""
    lines = [f"{phantom} phantom, scores over the {region}, mean over seeds", ""]
    lines.append(
        f"{'tSNR':>5} {'estimator':<12} {'CBF PCC/SSIM':>13} {'ATT PCC/SSIM':>13} {'GM/WM CBF bias':>15} {'s':>6}"
    )
    here = [row for row in rows if row.phantom == phantom]
    for tsnr in sorted({row.tsnr for row in here}, reverse=True):
        for name in dict.fromkeys(row.estimator for row in here):

            def mean(metric: str, where: str = region, name: str = name, tsnr: float = tsnr) -> float:
                return summary(here, estimator=name, tsnr=tsnr, region=where, metric=metric)[0]

            cbf, att = (f"{mean(f'{m}_pcc'):.3f}/{mean(f'{m}_ssim'):.3f}" for m in ("cbf", "att"))
            bias = "/".join(f"{100 * mean('cbf_relative_bias', tissue):+.1f} %" for tissue in ("gm", "wm"))
            seconds = np.mean([row.seconds for row in here if row.estimator == name and row.tsnr == tsnr])
            lines.append(f"{tsnr:>5g} {name:<12} {cbf:>13} {att:>13} {bias:>15} {seconds:>6.1f}")
    return "\n".join(lines)
