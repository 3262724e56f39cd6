"""Every estimator on the digital phantom, where the truth is known: one tidy table of scores."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aslpinn.errors import InputError
from aslpinn.files import write_atomic
from aslpinn.maps import metrics

if TYPE_CHECKING:
    from aslpinn.data import Phantom
    from aslpinn.estimation import Estimate


@dataclass(frozen=True)
class Method:
    """How a row of the benchmark is fitted: options of `aslpinn.fit`, and whether M0 is passed as the guide."""

    estimator: str
    options: dict[str, Any] = field(default_factory=dict)
    guided: bool = False


#: Row's name -> how it is fitted. "field" is what the command line does; the row below it leaves M0 out.
METHODS: dict[str, Method] = {
    "field": Method("field", guided=True),
    "field-unguided": Method("field"),
    "pinn": Method("pinn", {"preset": "default"}),
    "pinn-single": Method("pinn", {"objective": "closed-form", "members": 1, "anatomy": "off"}),
    "nlls": Method("nlls"),
    "smoothed": Method("smoothed"),
    "vb": Method("vb"),
    "vb-prior": Method("vb", {"vb_start": "prior"}),
    "svb": Method("svb"),
    "basil": Method("basil"),
}
#: Rows of version 0.1 -> what they are now.
FORMER = {"network": "pinn", "pinn-unguided": "field-unguided", "closed-form": "pinn-single"}
QUICK_METHODS = ("pinn-single", "nlls", "smoothed")
TSNRS = (1.5, 0.5)
M0_NOISE = 0.02  # SD of the guide's noise, relative to M0: an M0 scan has a tSNR of about 50
ALL_SEEDS = -1  # `Score.seed` of what is computed from all noise seeds together

#: Phantom's name -> options of `simulate`; the last five are there because smoothing should lose on them.
PHANTOMS: dict[str, dict[str, Any]] = {
    "healthy": {},
    "lesion": {"lesion": True},
    "tumor": {"tumor": True},
    "correlated": {"noise_fwhm": 6.0},
    "delayed": {"delayed": True},
    "arterial": {"arterial_voxels": True},
}
LATE = 2.0  # s: voxels of the delayed phantom whose ATT is longer are the region "late"
ARTERY = 0.005  # arterial blood volume above which a voxel is in the region "artery"

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


def available() -> list[str]:
    """Names of METHODS that run here: "basil" only where fabber_asl is installed."""
    from aslpinn.estimation.basil import find_program

    try:
        find_program()
    except InputError:
        return [name for name in METHODS if name != "basil"]
    return list(METHODS)


def regions(phantom: Phantom) -> dict[str, NDArray[np.bool_]]:
    """Named regions of a phantom: mask, gm and wm (partial volume above 0.7), volume, and what makes it special.

    That is lesion, tumor, late (ATT above LATE, where it is delayed) or artery (arterial blood volume above ARTERY).
    """
    late = phantom.mask & (phantom.att > LATE)
    named = {
        "mask": phantom.mask,
        "gm": metrics.tissue_region(phantom.gm, phantom.mask),
        "wm": metrics.tissue_region(phantom.wm, phantom.mask),
        "volume": metrics.everywhere(phantom.mask),
        "lesion": phantom.lesion,
        "tumor": phantom.tumor,
        "late": late if late.mean() > 0.01 else np.zeros_like(late),
        "artery": phantom.abv > ARTERY,
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
            if region in ("mask", "gm", "wm", "volume"):
                values[region, f"{name}_pcc"] = metrics.pcc(shown, true, where)
                values[region, f"{name}_ssim"] = metrics.ssim(shown, true, where, phantom.mask)
            if region == "volume":
                continue
            values[region, f"{name}_bias"] = metrics.bias(shown, true, where)
            values[region, f"{name}_relative_bias"] = metrics.relative_bias(shown, true, where)
            if region in ("lesion", "tumor") and abs(metrics.contrast(true, where, phantom.mask)) > _FLAT[name]:
                values[region, f"{name}_contrast_kept"] = metrics.contrast_kept(shown, true, where, phantom.mask)
            if sd is not None:
                values[region, f"{name}_coverage"] = metrics.coverage(found, sd, true, where)
    index = phantom.acquisition.distinct[1]
    for region, where in regions(phantom).items():
        if region != "volume":
            residual = metrics.residual_rmse(phantom.series, estimate.fitted, where, index)
            values[region, "signal_residual_rmse"] = residual
    return values


_FLAT = {"cbf": 5.0, "att": 0.1}  # a region that differs less from its surroundings has no contrast to be kept


class Moments:
    """Sums over noise seeds of one method's maps of a phantom: their mean and variance in each voxel."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def add(self, maps: Mapping[str, NDArray[Any]]) -> None:
        """Add one seed's maps."""
        self.count += 1
        for name, values in maps.items():
            wide = np.asarray(values, dtype=np.float64)
            first, second = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (first + wide, second + wide**2)

    def scores(self, phantom: Phantom) -> dict[tuple[str, str], float]:
        """(region, metric) -> root mean square bias and SD over the voxels of a region, see metrics.bias_and_sd."""
        values: dict[tuple[str, str], float] = {}
        for name, true in (("cbf", phantom.cbf), ("att", phantom.att)):
            first, second = self.sums[name]
            for region, where in regions(phantom).items():
                if region != "volume":
                    parts = metrics.bias_and_sd(first, second, self.count, true, where)
                    values[region, f"{name}_rms_bias"], values[region, f"{name}_rms_sd"] = parts
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
    estimators
        Names of METHODS; by default all that are `available`.
    tsnrs, seeds, phantoms
        By default both TSNRS, three noise seeds and all of PHANTOMS; those of `aslpinn.data.phantom.unkind`, which have
        a protocol with repeats of their own, where they are named.
    quick : bool
        For tests: coarse voxels, three quick estimators, one tSNR, one seed, two phantoms, unless they are named.
    options : mapping
        Method -> further options for `aslpinn.fit`.
    progress : callable
        Called with (done, total, message) before each fit and at the end.
    keep : dict, optional
        Filled with the fits: (method, phantom, tsnr, seed) -> Estimate.

    With two seeds or more, rows of seed ALL_SEEDS split the error into bias and noise (metrics.bias_and_sd).

    Raises
    ------
    InputError
        For an unknown method or phantom, or what `simulate` and `fit` refuse.
    """
    from aslpinn.data import simulate
    from aslpinn.data.phantom.unkind import UNKIND, unkind

    chosen = list(estimators or (QUICK_METHODS if quick else available()))
    levels = list(tsnrs or (TSNRS[:1] if quick else TSNRS))
    repeats = list(seeds if seeds is not None else ((0,) if quick else (0, 1, 2)))
    brains = list(phantoms or (("healthy", "lesion") if quick else PHANTOMS))
    for name in chosen:
        if name in FORMER:
            raise InputError(f"estimator {name!r} of the benchmark is now {FORMER[name]!r}")
    _known(chosen, METHODS, "estimator")
    _known(brains, {**PHANTOMS, **UNKIND}, "phantom")
    size = voxel_size or ((6.0, 6.0, 7.0) if quick else (3.0, 3.0, 7.0))
    total = len(chosen) * len(levels) * len(repeats) * len(brains)
    rows: list[Score] = []
    done = 0
    for brain in brains:
        for tsnr in levels:
            moments = {name: Moments() for name in chosen}
            seconds: dict[str, list[float]] = {name: [] for name in chosen}
            for seed in repeats:
                if brain in UNKIND:
                    phantom = unkind(brain, tsnr=tsnr, seed=seed, voxel_size=size)
                else:
                    phantom = simulate(protocol, tsnr=tsnr, seed=seed, voxel_size=size, **PHANTOMS[brain])
                for name in chosen:
                    if progress:
                        progress(done, total, f"{name} on {brain}, tSNR {tsnr:g}, seed {seed}")
                    start = time.perf_counter()
                    estimate = fit_phantom(phantom, name, **dict((options or {}).get(name, {})))
                    seconds[name].append(round(time.perf_counter() - start, 3))
                    place = (name, brain, tsnr, seed)
                    rows += _rows(place, score(phantom, estimate), seconds[name][-1])
                    moments[name].add({"cbf": estimate.cbf, "att": estimate.att})
                    if keep is not None:
                        keep[place] = estimate
                    done += 1
            if len(repeats) > 1:
                for name in chosen:
                    place, mean = (name, brain, tsnr, ALL_SEEDS), float(np.mean(seconds[name]))
                    rows += _rows(place, moments[name].scores(phantom), round(mean, 3))
    if progress:
        progress(total, total, "done")
    return rows


def described(name: str) -> str:
    """What a row of the benchmark is, in words: estimator, members, the options that it changes, and the guide."""
    from aslpinn.estimation import options_for

    method = METHODS[name]
    members = getattr(options_for(method.estimator, **method.options), "members", None)
    words = [f"estimator {method.estimator}"]
    if members is not None:
        words.append(f"{members} {'network' if method.estimator == 'pinn' else 'member'}{'s' * (members > 1)}")
    words += [f"{key} {value}" for key, value in method.options.items() if key != "members"]
    return ", ".join([*words, *(["M0 as guide"] if method.guided else [])])


def _known(names: Sequence[str], table: Mapping[str, Any], what: str) -> None:
    for name in names:
        if name not in table:
            raise InputError(f"there is no {what} {name!r} in the benchmark; expected one of {', '.join(table)}")


def _rows(place: tuple[str, str, float, int], values: Mapping[tuple[str, str], float], seconds: float) -> list[Score]:
    return [Score(*place, region, metric, value, seconds) for (region, metric), value in values.items()]


def fit_phantom(phantom: Phantom, name: str, **options: Any) -> Estimate:
    """Fit a phantom with a method of METHODS; the seed of the fit is that of the noise.

    Where the method takes a guide it is the phantom's M0 with noise of its own, SD M0_NOISE.
    """
    from aslpinn.estimation import fit

    method = METHODS[name]
    settings: dict[str, Any] = {"seed": phantom.seed, "voxel_size": phantom.voxel_size}
    if method.guided:
        noise = np.random.default_rng([phantom.seed, 50]).standard_normal(phantom.m0.shape)
        settings["guide"] = (phantom.m0 * (1 + M0_NOISE * noise)).astype(np.float32)
    settings |= {**method.options, **options}
    return fit(phantom.series, phantom.mask, phantom.acquisition, estimator=method.estimator, **settings)


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
    lines = io.StringIO()
    writer = csv.DictWriter(lines, [field.name for field in fields(Score)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomic(Path(path), lines.getvalue())
    return Path(path)


def read_csv(path: str | Path) -> list[Score]:
    """The rows of a CSV file that `write_csv` wrote; InputError where a column is missing."""
    with Path(path).open(newline="", encoding="utf-8") as handle:
        try:
            return [
                Score(
                    row["estimator"],
                    row["phantom"],
                    float(row["tsnr"]),
                    int(row["seed"]),
                    row["region"],
                    row["metric"],
                    float(row["value"]),
                    float(row["seconds"]),
                )
                for row in csv.DictReader(handle)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: {error!r}; expected a table that aslpinn benchmark wrote") from None
