"""The estimators by name, the options and presets of each, and `fit`, which calls one.

The names are read by `aslpinn --help` and by the study, so nothing heavy is imported before a fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .networks.config import PRESETS as NETWORK_PRESETS
from .networks.config import PinnOptions
from .options import (
    BasilOptions,
    ConsensusOptions,
    FieldOptions,
    NllsOptions,
    Options,
    SmoothedOptions,
    SvbOptions,
    VbOptions,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..physics import Acquisition
    from .estimate import Estimate
    from .problem import Progress


@dataclass(frozen=True)
class Estimator:
    """The options of an estimator, and "module:function" of this room, imported when it is first called.

    The function takes (problem: Problem, request: Request, options) and returns an Estimate. disperses: its model has
    the gamma kernel of dispersion. signed: CBF is reported below zero where it is estimated so, not bounded at 0.
    """

    options: type[Options]
    function: str
    disperses: bool = False
    signed: bool = False

    def load(self) -> Callable[..., Estimate]:
        """The function."""
        module, function = self.function.split(":")
        loaded: Callable[..., Estimate] = getattr(import_module(f".{module}", __package__), function)
        return loaded


ESTIMATORS = {
    "field": Estimator(FieldOptions, "field.fit:fit_field", signed=True),
    "pinn": Estimator(PinnOptions, "networks.fit:fit_pinn", disperses=True),
    "nlls": Estimator(NllsOptions, "nlls:fit_nlls", disperses=True),
    "vb": Estimator(VbOptions, "variational:fit_vb", signed=True),
    "svb": Estimator(SvbOptions, "variational:fit_svb", signed=True),
    "smoothed": Estimator(SmoothedOptions, "smoothed:fit_smoothed", disperses=True),
    "basil": Estimator(BasilOptions, "basil:fit_basil", signed=True),
    "consensus": Estimator(ConsensusOptions, "consensus:fit_consensus", signed=True),
}
#: What fits a series where no estimator is named: one of several delays, and one of one delay.
DEFAULT, ONE_DELAY = "field", "consensus"
#: Estimator -> its presets, the first is the one without a name; the others have none.
PRESETS = {"pinn": NETWORK_PRESETS}

#: Names of version 0.1 -> what they are now.
_FORMER_ESTIMATOR = {"closed-form": "estimator 'pinn' with objective closed-form and members 1"}
_FORMER_PRESET = {"network": "preset 'default' of estimator 'pinn'"}
_FORMER_OPTION = {
    "field": {"levels": "gaussian_levels"},
    "svb": {"spatial": "prior_on", "iterations": "sweeps"},
}


def check_names(estimator: str, preset: str | None) -> None:
    """InputError unless there is such an estimator, and it has such a preset (None: no preset was asked for)."""
    if estimator in _FORMER_ESTIMATOR:
        raise InputError(f"estimator {estimator!r} is now {_FORMER_ESTIMATOR[estimator]}")
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator is {estimator!r}; expected one of {', '.join(ESTIMATORS)}")
    if preset is None:
        return
    if preset in _FORMER_PRESET:
        raise InputError(f"preset {preset!r} is now {_FORMER_PRESET[preset]}")
    if estimator not in PRESETS:
        others = " or ".join(PRESETS)
        raise InputError(
            f"preset is {preset!r}, and estimator {estimator!r} has no presets; expected estimator {others}"
        )
    if preset not in PRESETS[estimator]:
        known = ", ".join(PRESETS[estimator])
        raise InputError(f"preset is {preset!r}; expected one of {known} of estimator {estimator!r}")


def estimator_for(delays: int, named: str | None = None) -> str:
    """The estimator that fits a series of so many distinct (labeling duration, delay) pairs: the one named, if any.

    InputError where the one named cannot: consensus takes one delay, the others take two or more.
    """
    chosen = named or (ONE_DELAY if delays == 1 else DEFAULT)
    if delays == 1 and chosen != ONE_DELAY:
        raise InputError(
            f"the series has one distinct (labeling duration, delay) pair, and estimator {chosen!r} needs at least 2 "
            f"for CBF and ATT; expected estimator {ONE_DELAY!r} (CBF alone), or more delays: check LabelingDuration "
            "and PostLabelingDelay"
        )
    if delays > 1 and chosen == ONE_DELAY:
        raise InputError(
            f"estimator {ONE_DELAY!r} takes one delay and the series has {delays} distinct (labeling duration, delay) "
            "pairs; expected another estimator, which finds ATT too"
        )
    return chosen


def uses(estimator: str, name: str) -> bool:
    """Whether an estimator uses an option, or an argument of `fit`: guide, voxel_size."""
    options = ESTIMATORS[estimator].options
    return bool(getattr(options, f"uses_{name}", False)) or name in options.names()


def options_for(estimator: str = DEFAULT, preset: str | None = None, **settings: Any) -> Options:
    """The options of an estimator: those of its preset, or its defaults, with some changed by name.

    Raises
    ------
    InputError
        For a name or preset that is unknown, an option that the estimator does not have, and a value outside its
        limits.
    """
    check_names(estimator, preset)
    kind = ESTIMATORS[estimator].options
    unknown = [name for name in settings if name not in kind.names()]
    former = _FORMER_OPTION.get(estimator, {})
    for name in unknown:
        if name in former:
            raise InputError(f"{name} of estimator {estimator!r} is now {former[name]}")
    if unknown:
        others = [other for other in ESTIMATORS if all(name in ESTIMATORS[other].options.names() for name in unknown)]
        of = f" ({', '.join(others)} would)" if others else ""
        raise InputError(
            f"estimator {estimator!r} does not use {', '.join(unknown)}{of}; it takes {', '.join(kind.names())}"
        )
    named = preset or default_preset(estimator)
    return (kind() if named is None else PRESETS[estimator][named]).changed(**settings)


def default_preset(estimator: str) -> str | None:
    """The preset of an estimator that is named alone; None where it has none."""
    return next(iter(PRESETS[estimator])) if estimator in PRESETS else None


def former_default(estimator: str | None, preset: str | None = None, settings: Collection[str] = ()) -> str | None:
    """A line to say where what is asked for meant something else in version 0.1; None elsewhere."""
    if estimator == "pinn" and preset is None and all(uses("field", name) for name in settings):
        return "pinn trains networks; what it fitted by default in version 0.1 is now the estimator field"
    return None


def fit(
    series: ArrayLike,
    mask: ArrayLike,
    acquisition: Acquisition,
    *,
    estimator: str | None = None,
    preset: str | None = None,
    options: Options | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    guide: NDArray[Any] | None = None,
    tissue: Mapping[str, NDArray[Any]] | None = None,
    apart: bool = True,
    progress: Progress | None = None,
    **settings: Any,
) -> Estimate:
    """Estimate CBF and ATT from a series.

    Parameters
    ----------
    series : (X, Y, Z, T) array
        delta-M / M0b.
    mask : (X, Y, Z) array
        Voxels above 0 are fitted.
    acquisition : Acquisition
        One (tau, PLD) for each of the T volumes.
    estimator : str
        field, the Gaussian-process field; pinn, networks; nlls; vb and svb; smoothed; basil; consensus, the formula for
        one delay. Without a name field, or consensus for one delay.
    preset : str
        Of pinn: default, or paper for the paper's network and loss.
    options : Options
        In place of these names and of settings: FieldOptions, PinnOptions, NllsOptions, VbOptions, SvbOptions,
        SmoothedOptions, BasilOptions or ConsensusOptions, which also says which estimator it is.
    voxel_size : (3,) floats
        mm; field, pinn, smoothed and basil need it.
    guide : (X, Y, Z) array
        An anatomical image such as M0, for field and pinn.
    tissue : {"gm": (X, Y, Z) array, "wm": (X, Y, Z) array}
        Shares of gray and white matter, for field: gives CBF of each, and bias and SDs of regional means that know
        of both.
    apart : bool
        False: of what tissue gives only the bias of regional means, by one step of the model of both.
    progress : callable
        Called with (done, total, message).
    settings
        Any option of the estimator by name, such as members=16 or seed=1.

    Raises
    ------
    InputError
        Input or options that are wrong, or that the estimator does not use.
    FitError
        A fit whose loss is not finite.
    """
    from .problem import Request, prepare

    delays = len(acquisition.distinct[0])
    name, chosen = _chosen(delays, estimator, preset, options, settings)
    kind = ESTIMATORS[name]
    if acquisition.constants.disperses and not kind.disperses:
        raise InputError(
            f"dispersion_sharpness is {acquisition.constants.dispersion_sharpness:g}, and estimator {name!r} "
            f"has no dispersion; expected one of {', '.join(key for key, of in ESTIMATORS.items() if of.disperses)}"
        )
    sizes = _checked_size(name, chosen, voxel_size)
    if guide is not None and not chosen.takes_guide:
        users = ", ".join(key for key in ESTIMATORS if key != name and uses(key, "guide"))
        raise InputError(f"estimator {name!r} does not use guide as its options are ({users} would)")
    if tissue is not None and not uses(name, "tissue"):
        users = ", ".join(key for key in ESTIMATORS if uses(key, "tissue"))
        raise InputError(f"estimator {name!r} does not use tissue ({users} would)")
    problem = prepare(series, mask, acquisition)
    if guide is not None and guide.shape != problem.mask.shape:
        raise InputError(f"guide has shape {guide.shape}; expected that of the mask, {problem.mask.shape}")
    request = Request(sizes, guide, progress, _shares(tissue, problem.mask), apart)
    estimate = kind.load()(problem, request, chosen)
    estimate.settings.setdefault("seed", chosen.seed)
    estimate.info["cbf_below_zero"] = "as estimated" if kind.signed else "none: bounded at 0"
    if name in PRESETS and options is None:
        estimate.settings["preset"] = preset or default_preset(name)
    return estimate


def _shares(tissue: Mapping[str, NDArray[Any]] | None, mask: NDArray[Any]) -> NDArray[Any] | None:
    """Shares (2, X, Y, Z) of gray and white matter, 0 to 1."""
    if tissue is None:
        return None
    import numpy as np

    if not {"gm", "wm"} <= set(tissue):
        raise InputError(f"tissue has {', '.join(tissue) or 'nothing'}; expected gm and wm")
    shares = [np.asarray(tissue[name], dtype=np.float32) for name in ("gm", "wm")]
    if any(share.shape != mask.shape for share in shares):
        raise InputError(f"tissue has shape {shares[0].shape}; expected that of the mask, {mask.shape}")
    return np.clip(np.nan_to_num(np.stack(shares)), 0.0, 1.0)


def _chosen(
    delays: int, estimator: str | None, preset: str | None, options: Options | None, settings: dict[str, Any]
) -> tuple[str, Options]:
    """The estimator's name and its options."""
    if options is None:
        check_names(estimator or DEFAULT, preset)
        name = estimator_for(delays, estimator)
        if told := former_default(name, preset, settings):
            warnings.warn(told, stacklevel=3)
        return name, options_for(name, preset, **settings)
    if preset is not None or settings:
        given = ", ".join([*(["preset"] if preset else []), *settings])
        raise InputError(f"options and {given} are given; expected either: options.changed(...) changes some")
    names = [key for key, kind in ESTIMATORS.items() if type(options) is kind.options]
    if not names or estimator not in (None, names[0]):
        what = type(options).__name__
        raise InputError(f"options is of type {what}; expected {ESTIMATORS[estimator or DEFAULT].options.__name__}")
    return estimator_for(delays, names[0]), options


def _checked_size(estimator: str, options: Options, voxel_size: Any) -> tuple[float, float, float] | None:
    if voxel_size is None:
        if options.needs_voxel_size:
            raise InputError(f"voxel_size is not given; estimator {estimator!r} needs it, three lengths in mm")
        return None
    sizes = tuple(float(size) for size in voxel_size)
    if len(sizes) != 3 or not all(0 < size < 1000 for size in sizes):
        raise InputError(f"voxel_size is {voxel_size}; expected three positive lengths in mm")
    return sizes[0], sizes[1], sizes[2]
