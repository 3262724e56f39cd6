"""fit(series, mask, acquisition) -> Estimate: the input checked, and the estimator that was asked for called."""

from __future__ import annotations

import inspect
import warnings
from importlib import import_module
from typing import Any

from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..physics import Acquisition
from .estimate import Estimate
from .options import PRESETS, USERS, check_names, estimator_for, former_default, uses
from .problem import Progress, Request, prepare

#: Estimator -> "module:function" of this room, imported when it is first asked for. A function takes
#: (problem: Problem, request: Request, **its own options) and returns an Estimate.
FUNCTIONS: dict[str, str] = {
    "field": "field.fit:fit_field",
    "pinn": "networks.fit:fit_pinn",
    "nlls": "nlls:fit_nlls",
    "vb": "variational:fit_vb",
    "svb": "variational:fit_svb",
    "smoothed": "smoothed:fit_smoothed",
    "basil": "basil:fit_basil",
    "consensus": "consensus:fit_consensus",
}
#: Estimators whose model has the gamma kernel of dispersion.
DISPERSING = ("pinn", "nlls", "smoothed")


def fit(
    series: ArrayLike,
    mask: ArrayLike,
    acquisition: Acquisition,
    *,
    estimator: str | None = None,
    preset: str | None = None,
    members: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    engine: str = "auto",
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    progress: Progress | None = None,
    guide: NDArray[Any] | None = None,
    **options: Any,
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
        field, the Gaussian-process field (`estimation.field`); pinn, an ensemble of networks; nlls, vb and svb,
        smoothed, basil; consensus, the formula for one delay. Without a name field, or consensus for one delay.
    preset : str
        Of pinn: default, or paper for the paper's network and loss.
    members, seed
        Members of the ensemble of field or pinn, and seed.
    epochs, device, engine
        Of pinn: passes over the voxels, torch device, engine of the encoding.
    voxel_size : (3,) floats
        mm.
    progress : callable, optional
        Called with (done, total, message).
    guide : (X, Y, Z) array, optional
        Anatomical image, for field.
    options
        The estimator's own settings: for pinn any field of FitConfig; for field arterial="auto" (a macrovascular
        component by evidence), "on" or "off".

    Raises
    ------
    InputError
        Input or options that are wrong, or that the estimator does not use.
    FitError
        A fit whose loss is not finite.
    """
    delays = len(acquisition.distinct[0])
    check_names(estimator or estimator_for(delays), preset)
    estimator = estimator_for(delays, estimator)
    if preset is None and not options and epochs is None and (told := former_default(estimator)):
        warnings.warn(told, stacklevel=2)
    function = _function(estimator)
    _check_used(estimator, members, epochs, device, engine, guide)
    _check_options(estimator, function, options)
    if acquisition.constants.disperses and estimator not in DISPERSING:
        raise InputError(
            f"dispersion_sharpness is {acquisition.constants.dispersion_sharpness:g}, and estimator {estimator!r} "
            f"has no dispersion; expected one of {', '.join(DISPERSING)}"
        )
    problem = prepare(series, mask, acquisition)
    sizes = tuple(float(size) for size in voxel_size)
    if len(sizes) != 3 or not all(0 < size < 1000 for size in sizes):
        raise InputError(f"voxel_size is {voxel_size}; expected three positive lengths in mm")
    if guide is not None and guide.shape != problem.mask.shape:
        raise InputError(f"guide has shape {guide.shape}; expected that of the mask, {problem.mask.shape}")
    named = preset or PRESETS.get(estimator, ("default",))[0]
    request = Request(named, members, epochs, seed, device, engine, (sizes[0], sizes[1], sizes[2]), guide, progress)
    return function(problem, request, **options)


def _function(estimator: str) -> Any:
    module, function = FUNCTIONS[estimator].split(":")
    return getattr(import_module(f".{module}", __package__), function)


def _check_used(
    estimator: str, members: int | None, epochs: int | None, device: str, engine: str, guide: NDArray[Any] | None
) -> None:
    """InputError where something is given that the estimator does not use."""
    given = {
        "members": members is not None,
        "epochs": epochs is not None,
        "device": device != "cpu",
        "engine": engine != "auto",
        "guide": guide is not None,
    }
    for name, is_given in given.items():
        if is_given and not uses(estimator, name):
            raise InputError(f"{name}: estimator {estimator!r} does not use it; {' and '.join(USERS[name])} would")


def _check_options(name: str, function: Any, options: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return  # the estimator checks them itself
    valid = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "name"]
    unknown = sorted(set(options) - set(valid))
    if unknown:
        expected = f"expected {', '.join(valid)}" if valid else "it has none"
        raise InputError(f"estimator {name!r} has no option {', '.join(unknown)}; {expected}")
