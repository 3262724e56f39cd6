"""Ablations: what each setting of a network fit is worth, each a config run by the same code and scored alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from aslpinn.errors import InputError
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
    "level_decay": 0.0,
    "anatomy": "off",
    "arterial": "off",
}
#: The paper's hash encoding: sixteen levels, far finer than a voxel.
PAPER_LEVELS = {"levels": 16, "base": 16, "finest": 4096}
#: The paper's loss, with P read as the right-hand side of the ODE; the width of its edges follows from the sampling.
PAPER_LOSS = {"objective": "pointwise", "reading": "ode"}

#: Group -> row's name -> what it changes of BASE.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "objective": {
        "pointwise, step edges": {**PAPER_LOSS, "edge_width": 0.0},
        "pointwise": dict(PAPER_LOSS),
        "pointwise, P is dS/dt": {**PAPER_LOSS, "reading": "derivative"},
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
    "lambda (pointwise)": {f"{weight:g}": {**PAPER_LOSS, "lambda_physics": weight} for weight in (0.05, 0.5, 5.0)},
    "unit of t in s (pointwise)": {f"{unit:g}": {**PAPER_LOSS, "time_scale": unit} for unit in (0.3, 1.0, 3.0)},
    "random times (pointwise)": {str(count): {**PAPER_LOSS, "collocation": count} for count in (0, 4, 16)},
    "batch": {str(batch): {"batch": batch} for batch in (250, 1000, 4000)},
    "seed": {str(seed): {"seed": seed} for seed in (1, 2, 3, 4)},
}

#: Grid of the paper's own search, in small: frequencies and learning rate (its appendix A.4).
PAPER_GRID: dict[str, list[Any]] = {
    "omega_parameters_first": [5.0, 25.0],
    "omega_parameters": [5.0, 15.0],
    "lr": [1e-3, 1e-2],
}


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
    """Scores of a fit: inside the mask unless the name says otherwise; bias as a fraction; residual in noise SDs."""
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
    figure, grid = subplots(1, len(columns), figsize=(1.25 * len(columns) + 2.2, 0.235 * place + 0.8), sharey=True)
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
        axes.locator_params(axis="x", nbins=2)
        axes.tick_params(axis="y", length=0)
    first = np.atleast_1d(grid)[0]
    first.set_yticks([at for at, _ in places] + [at for at, _ in ticks], [row["name"] for _, row in places] + groups)
    for label in first.get_yticklabels()[len(places) :]:
        label.set_fontweight("bold")
    first.set_ylim(place - 1.0, -0.8)
    return figure
