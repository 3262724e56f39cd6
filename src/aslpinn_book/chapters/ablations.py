"""Ablations: what each setting of a network fit is worth, each a config run by the same code and scored alike."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from aslpinn.errors import FitError, InputError
from aslpinn.maps import metrics
from aslpinn.maps.style import CATEGORICAL, styled, subplots

if TYPE_CHECKING:
    from aslpinn.data import Phantom
    from aslpinn.estimation import Estimate

Row = dict[str, Any]

#: Networks of all ablations: preset default of pinn with one member, one encoding for CBF and ATT, short training.
BASE: dict[str, Any] = {
    "objective": "closed-form",
    "levels": 4,
    "base": 8,
    "finest": 48,
    "att_levels": 0,
    "members": 1,
    "batch": 1000,
    "epochs": 30,
}
#: The paper's hash encoding: sixteen levels, far finer than a voxel.
PAPER_LEVELS = {"levels": 16, "base": 16, "finest": 4096}
COARSE_LEVELS = {"levels": 4, "base": 8, "finest": 48}
STEPS = {"edge_width": 0.0}  # P written with steps, as these pages say

#: Group -> row's name -> what it changes of BASE.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "objective": {
        "pointwise": {"objective": "pointwise", **STEPS},
        "pointwise, ODE": {"objective": "pointwise", "reading": "ode", **STEPS},
        "increments": {"objective": "increments"},
        "closed form": {},
    },
    "hash levels": {
        "2 levels, 8 to 16": {"levels": 2, "base": 8, "finest": 16},
        "3 levels, 8 to 32": {"levels": 3, "base": 8, "finest": 32},
        "4 levels, 8 to 48": {},
        "6 levels, 8 to 128": {"levels": 6, "base": 8, "finest": 128},
        "16 levels, 16 to 4096": dict(PAPER_LEVELS),
    },
    "activation": {
        "SIREN": {},
        "ReLU": {"activation": "relu"},
    },
    "omega of f_ode (first, later)": {
        f"{first:g}, {later:g}": {"omega_parameters_first": first, "omega_parameters": later}
        for first, later in ((5.0, 5.0), (25.0, 5.0), (25.0, 15.0), (60.0, 15.0))
    },
    "omega of f_tissue (increments)": {
        f"{omega:g}": {"objective": "increments", "omega_signal_first": omega, "omega_signal": omega}
        for omega in (5.0, 15.0, 40.0)
    },
    "lambda (increments)": {
        f"{weight:g}": {"objective": "increments", "lambda_physics": weight} for weight in (0.05, 0.5, 5.0)
    },
    "lambda (pointwise)": {
        f"{weight:g}": {"objective": "pointwise", "lambda_physics": weight, **STEPS} for weight in (0.005, 0.05, 0.5)
    },
    "batch": {str(batch): {"batch": batch} for batch in (250, 1000, 4000)},
    "seed": {str(seed): {"seed": seed} for seed in (1, 2, 3, 4)},
}

#: Grid of the paper's own search, in small: frequencies and learning rate (its appendix A.4).
PAPER_GRID: dict[str, list[Any]] = {
    "omega_parameters_first": [5.0, 25.0],
    "omega_parameters": [5.0, 15.0],
    "lr": [1e-3, 1e-2],
}

#: Stated by the paper, and so fixed where its loss is searched (Table 2, alpha, lambda, collocation).
AS_PUBLISHED: dict[str, Any] = {
    "objective": "pointwise",
    **STEPS,
    "alpha": 1.0,
    "lambda_physics": 0.5,
    "collocation": 4,
    **PAPER_LEVELS,
    "att_levels": 0,
    "members": 1,
    "batch": 1000,
}
SEARCHES = ("unsaid", "free")
UNSAID = ("reading", "time_scale", "signal_scale", "cbf_scale", "att_scale", "collocation_at")
LONG = "paper's schedule, "  # what "search" of a row of `paper_schedule` begins with


@lru_cache(maxsize=4)
def slab(protocol: str = "te11", tsnr: float = 1.5, seed: int = 0, slices: int = 4) -> Phantom:
    """Slices from the middle of the digital phantom at full resolution, 3 or more: a case that fits in a second."""
    from aslpinn.data import simulate

    whole = simulate(protocol, tsnr=tsnr, seed=seed)
    first = (whole.mask.shape[2] - slices) // 2
    part = slice(first, first + slices)
    names = ("series", "clean", "mask", "cbf", "att", "m0", "gm", "wm", "abv", "arterial_arrival", "lesion", "tumor")
    cut: dict[str, Any] = {name: np.ascontiguousarray(getattr(whole, name)[:, :, part]) for name in names}
    return replace(whole, **cut)


def fit_config(case: Phantom, settings: Mapping[str, Any]) -> Estimate:
    """Fit a phantom with networks of preset default, changed by any fields of PinnOptions."""
    from aslpinn.estimation import fit

    return fit(case.series, case.mask, case.acquisition, estimator="pinn", voxel_size=case.voxel_size, **dict(settings))


def score(case: Phantom, estimate: Estimate) -> Row:
    """Scores of a fit: inside the mask unless the name says otherwise; bias as a fraction; residual in noise SDs.

    skill, which the search maximizes, is the mean of CBF's and ATT's SSIM inside the mask.
    """
    row: Row = {}
    for key in ("cbf", "att"):
        found, true = getattr(estimate, key), getattr(case, key)
        row[f"{key}_pcc"] = metrics.pcc(found, true, case.mask)
        row[f"{key}_ssim"] = metrics.ssim(found, true, case.mask)
        shown = np.where(case.mask, found, 0)
        row[f"{key}_pcc_volume"] = metrics.pcc(shown, true, metrics.everywhere(case.mask))
        row[f"{key}_ssim_volume"] = metrics.ssim(shown, true, metrics.everywhere(case.mask))
    for tissue in ("gm", "wm"):
        region = metrics.tissue_region(getattr(case, tissue), case.mask)
        row[f"cbf_bias_{tissue}"] = metrics.relative_bias(estimate.cbf, case.cbf, region)
        row[f"att_bias_{tissue}"] = metrics.bias(estimate.att, case.att, region)
    index = case.acquisition.distinct[1]
    row["residual"] = metrics.residual_rmse(case.series, estimate.fitted, case.mask, index) / case.noise_sd
    row["skill"] = (row["cbf_ssim"] + row["att_ssim"]) / 2
    row["seconds"] = estimate.info["seconds"]
    return row


def run(
    case: Phantom,
    groups: Iterable[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    **changes: Any,
) -> list[Row]:
    """One row for each entry of the groups (default: all of GROUPS): group, name, and its scores.

    Equal configs are fitted once. changes: fields of PinnOptions that replace those of BASE, such as epochs=10.
    """
    chosen = list(groups or GROUPS)
    for group in chosen:
        if group not in GROUPS:
            raise InputError(f"there is no ablation {group!r}; expected one of {', '.join(GROUPS)}")
    entries = [(group, name, {**BASE, **changes, **own}) for group in chosen for name, own in GROUPS[group].items()]
    done: dict[tuple[Any, ...], Row] = {}
    rows = []
    for number, (group, name, settings) in enumerate(entries):
        if progress:
            progress(number, len(entries), f"{group}: {name}")
        key = tuple(sorted(settings.items()))
        if key not in done:
            done[key] = score(case, fit_config(case, settings))
        rows.append({"group": group, "name": name, **done[key]})
    return rows


def grid_search(case: Phantom, grid: Mapping[str, Sequence[Any]] | None = None, **changes: Any) -> list[Row]:
    """The paper's grid search in small, by Optuna's GridSampler: every combination, best first.

    It is judged as it would be without a truth: a tenth of the voxel-times are kept from the loss, and their error is
    minimized ("held_out", in noise SDs). The scores against the truth stand beside it. changes as in `run`.
    """
    optuna = _optuna()
    space = dict(grid or PAPER_GRID)
    rows: list[Row] = []

    def trial_error(trial: Any) -> float:
        settings = {name: trial.suggest_categorical(name, values) for name, values in space.items()}
        estimate = fit_config(case, {**BASE, **changes, "held_out": 0.1, **settings})
        history = estimate.info["history"][0]
        error = history["held-out"][history["best_epoch"]] / estimate.info["signal_scale"] / case.noise_sd
        rows.append({**settings, "held_out": error, **score(case, estimate)})
        return float(error)

    study = optuna.create_study(sampler=optuna.samplers.GridSampler(space, seed=0))
    study.optimize(trial_error, n_trials=int(np.prod([len(values) for values in space.values()])))
    return sorted(rows, key=lambda row: float(row["held_out"]))


def _optuna() -> Any:
    """Optuna, telling of warnings and errors only."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm misses a widget that is not needed
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def suggest(trial: Any, search: str) -> tuple[str, dict[str, Any]]:
    """Protocol and settings of one trial of the pointwise loss.

    "unsaid" varies only what the paper leaves open; "free" also what it states: weight of the physics, collocation
    times, levels of the encoding, frequencies of f_tissue.
    """
    if search not in SEARCHES:
        raise InputError(f"search is {search!r}; expected one of {', '.join(SEARCHES)}")
    protocol = trial.suggest_categorical("protocol", ["te11", "te11-t1adjusted"])
    settings = {
        **AS_PUBLISHED,
        "reading": trial.suggest_categorical("reading", ["derivative", "ode"]),
        "time_scale": trial.suggest_float("time_scale", 0.03, 10.0, log=True),
        "signal_scale": trial.suggest_float("signal_scale", 0.05, 20.0, log=True),
        "cbf_scale": trial.suggest_float("cbf_scale", 10.0, 100.0, log=True),
        "att_scale": trial.suggest_float("att_scale", 0.6, 1.8),
        "collocation_at": trial.suggest_categorical("collocation_at", ["uniform", "between", "near"]),
    }
    if search == "free":
        settings |= {
            "lambda_physics": trial.suggest_float("lambda_physics", 1e-4, 10.0, log=True),
            "collocation": trial.suggest_categorical("collocation", [0, 4, 16]),
            "omega_signal_first": trial.suggest_float("omega_signal_first", 5.0, 80.0, log=True),
            "omega_signal": trial.suggest_float("omega_signal", 3.0, 40.0, log=True),
        }
        levels = trial.suggest_categorical("encoding", ["16 to 4096", "8 to 48"])
        settings |= PAPER_LEVELS if levels == "16 to 4096" else COARSE_LEVELS
    return protocol, settings


def search_pointwise(
    trials: int,
    search: str = "unsaid",
    seed: int = 0,
    slices: int = 4,
    progress: Callable[[int, int, str], None] | None = None,
    seconds: float = float("inf"),
    **changes: Any,
) -> list[Row]:
    """The paper's loss at its best: settings searched with the truth at hand, which no user has; best first.

    Optuna's tree-structured Parzen estimator maximizes `score`'s skill. A trial is one training (AdamW, one-cycle)
    on a slab of the phantom (`slab`). changes: fields of PinnOptions for all trials, such as epochs=60. Stops after
    `seconds`. A trial whose loss is not finite has skill 0.
    """
    optuna = _optuna()
    rows: list[Row] = []
    cases = {name: slab(name, slices=slices) for name in ("te11", "te11-t1adjusted")}
    began = time.perf_counter()

    def trial_skill(trial: Any) -> float:
        protocol, settings = suggest(trial, search)
        if progress:
            best = max((row["skill"] for row in rows), default=0.0)
            progress(trial.number, trials, f"search {search}, best skill {best:.3f}")
        try:
            scores = score(cases[protocol], fit_config(cases[protocol], {**settings, **changes}))
        except FitError:
            scores = {"skill": 0.0}
        rows.append({"search": search, "trial": trial.number, **trial.params, **scores})
        if time.perf_counter() - began > seconds:
            trial.study.stop()
        return float(scores["skill"])

    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, trials // 5))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(trial_skill, n_trials=trials)
    return sorted(rows, key=lambda row: -float(row["skill"]))


def paper_schedule(trial: Mapping[str, Any] | None, epochs: int, slices: int = 4) -> Row:
    """The paper's own schedule (AdamW from 1e-3, cosine) on a slab, with the settings of a trial of `search_pointwise`.

    None trains preset paper as it stands. The row's "search" says which trial it was.
    """
    from aslpinn.estimation.networks.config import PRESETS

    own: dict[str, Any] = {}
    protocol, name = "te11", "preset paper"
    if trial is not None:
        searched = (*UNSAID, "lambda_physics", "collocation", "omega_signal_first", "omega_signal")
        own = {key: trial[key] for key in searched if key in trial}
        protocol, name = str(trial["protocol"]), f"trial {trial['trial']} of search {trial['search']}"
    levels = COARSE_LEVELS if trial is not None and trial.get("encoding") == "8 to 48" else {}
    settings = PRESETS["paper"].as_dict() | own | levels | {"epochs": epochs, "t_max": epochs}
    case = slab(protocol, slices=slices)
    return {"search": f"{LONG}{name}", "protocol": protocol, **own, **score(case, fit_config(case, settings))}


def write_csv(rows: Sequence[Row], path: str | Path) -> Path:
    """Write rows as CSV; a column that a row does not have is empty."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
    return file


def read_csv(path: str | Path) -> list[Row]:
    """Rows of a CSV file, numbers as numbers; an empty cell is left out."""
    with Path(path).open(newline="", encoding="utf-8") as handle:
        return [{name: _number(text) for name, text in row.items() if text != ""} for row in csv.DictReader(handle)]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@styled
def scores_by_setting(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, float]]) -> Figure:
    """A row a setting, in its group; a panel a score.

    rows: each with "group", "name" and the scores; columns: score -> (panel title, factor). A panel whose values have
    both signs has a line at zero.
    """
    groups = list(dict.fromkeys(row["group"] for row in rows))
    places, ticks, place = [], [], 0.0
    for group in groups:
        ticks.append((place, group))
        for row in rows:
            if row["group"] == group:
                place += 1
                places.append((place, row))
        place += 1.4
    figure, grid = subplots(1, len(columns), figsize=(1.95 * len(columns) + 2.3, 0.235 * place + 0.8), sharey=True)
    for axes, (score, (title, factor)) in zip(np.atleast_1d(grid), columns.items(), strict=True):
        for k, group in enumerate(groups):
            here = [(at, factor * float(row[score])) for at, row in places if row["group"] == group]
            heights, values = zip(*here, strict=True)
            axes.plot(values, heights, "o-", color=CATEGORICAL[k % 6], markersize=5, linewidth=0.8)
        low, high = axes.get_xlim()
        if low < 0 < high or high <= 0:
            axes.axvline(0, color="0.3", linewidth=1, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    first = np.atleast_1d(grid)[0]
    first.set_yticks([at for at, _ in places] + [at for at, _ in ticks], [row["name"] for _, row in places] + groups)
    for label in first.get_yticklabels()[len(places) :]:
        label.set_fontweight("bold")
    first.set_ylim(place - 1.0, -0.8)
    return figure


@styled
def search_results(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, str], score: str, label: str) -> Figure:
    """What a search tried: a score against each setting, a dot a trial, the best trial ringed; numbers on a log axis.

    settings: setting -> its axis label; trials that do not have a setting are left out of its panel.
    """
    columns = min(4, len(settings))
    lines = -(-len(settings) // columns)
    figure, grid = subplots(lines, columns, figsize=(2.3 * columns + 0.6, 2.3 * lines), sharey=True, squeeze=False)
    best = max(rows, key=lambda row: float(row[score]))
    for axes, (name, title) in zip(grid.flat, settings.items(), strict=False):
        known = [row for row in rows if name in row]
        values = [row[name] for row in known]
        heights = [float(row[score]) for row in known]
        words = any(isinstance(value, str) for value in values)
        names = sorted({str(value) for value in values})
        across = [names.index(str(value)) if words else float(value) for value in values]
        spread = 0.18 * np.sin(np.arange(len(across)) * 2.4) if words else np.zeros(len(across))
        axes.plot(np.asarray(across) + spread, heights, "o", color=CATEGORICAL[0], markersize=3.5, alpha=0.5)
        if name in best:
            at = (np.asarray(across) + spread)[known.index(best)]
            axes.plot(at, float(best[score]), "o", color=CATEGORICAL[1], markersize=11, markerfacecolor="none")
        if words:
            axes.set_xticks(range(len(names)), names, fontsize=8.5)
            axes.set_xlim(-0.6, len(names) - 0.4)
        elif min(across) > 0 and max(across) > 4 * min(across):
            axes.set_xscale("log")
        axes.set_xlabel(title, fontsize=9.5)
    for axes in grid.flat[len(settings) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    return figure
