"""Where physics and fields meet: fit(series, mask, acquisition) -> Estimate."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..physics import Acquisition
from .estimate import Estimate
from .problem import Problem, Progress, Request, prepare

#: Estimator name -> "module:function" of this room, imported when it is first asked for. A function takes
#: (problem: Problem, request: Request, **its own options) and returns an Estimate.
ESTIMATORS: dict[str, str] = {
    "pinn": "presets:fit_pinn",
    "closed-form": "pinn:fit_closed_form",
    "nlls": "nlls:fit_nlls",
    "vb": "variational:fit_vb",
    "svb": "variational:fit_svb",
    "smoothed": "smoothed:fit_smoothed",
    "basil": "basil:fit_basil",
}
PRESETS = ("default", "network", "paper")
#: Estimators whose model has the gamma kernel of dispersion; "pinn" has it where it trains networks.
DISPERSING = ("closed-form", "nlls", "smoothed")

__all__ = ["ESTIMATORS", "PRESETS", "Estimate", "FitConfig", "Problem", "Request", "fit", "prepare"]


def __getattr__(name: str) -> Any:
    """FitConfig without importing torch before it is needed."""
    if name == "FitConfig":
        from .config import FitConfig

        return FitConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def fit(
    series: ArrayLike,
    mask: ArrayLike,
    acquisition: Acquisition,
    *,
    estimator: str = "pinn",
    preset: str = "default",
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
    estimator, preset : str
        Names in ESTIMATORS and PRESETS. Presets of "pinn": default, the multiscale field (`estimation.field`);
        network, an ensemble of trained networks; paper, the paper's network and loss.
    members, seed
        Members of the ensemble, and seed.
    epochs, device, engine
        Of networks (presets network and paper): passes over the voxels, torch device, engine of the encoding.
    voxel_size : (3,) floats
        mm.
    progress : callable, optional
        Called with (done, total, message).
    guide : (X, Y, Z) array, optional
        Anatomical image, for estimators that use one.
    options
        The estimator's own settings: for the networks any field of FitConfig; for preset default
        arterial="auto" (a macrovascular component by evidence), "on" or "off".

    Raises
    ------
    InputError
        Input or options that are wrong.
    FitError
        A fit whose loss is not finite.
    """
    function = _estimator(estimator)
    if preset not in PRESETS:
        raise InputError(f"preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    _check_options(estimator, function, options)
    trains = estimator == "pinn" and preset != "default"
    if acquisition.constants.disperses and estimator not in DISPERSING and not trains:
        raise InputError(
            f"dispersion_sharpness is {acquisition.constants.dispersion_sharpness:g}, and estimator {estimator!r} "
            f"({preset}) has no dispersion; expected {', '.join(DISPERSING)}, or pinn with preset network"
        )
    problem = prepare(series, mask, acquisition)
    sizes = tuple(float(size) for size in voxel_size)
    if len(sizes) != 3 or not all(0 < size < 1000 for size in sizes):
        raise InputError(f"voxel_size is {voxel_size}; expected three positive lengths in mm")
    if guide is not None and guide.shape != problem.mask.shape:
        raise InputError(f"guide has shape {guide.shape}; expected that of the mask, {problem.mask.shape}")
    request = Request(preset, members, epochs, seed, device, engine, (sizes[0], sizes[1], sizes[2]), guide, progress)
    return function(problem, request, **options)


def _estimator(name: str) -> Any:
    if name not in ESTIMATORS:
        raise InputError(f"estimator is {name!r}; expected one of {', '.join(ESTIMATORS)}")
    module, function = ESTIMATORS[name].split(":")
    try:
        return getattr(import_module(f".{module}", __name__), function)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{module}":
            raise
        raise InputError(f"estimator {name!r} is not in this version; expected one of the others") from error


def _check_options(name: str, function: Any, options: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return  # the estimator checks them itself
    valid = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "name"]
    unknown = sorted(set(options) - set(valid))
    if unknown:
        expected = f"expected {', '.join(valid)}" if valid else "it has none"
        raise InputError(f"estimator {name!r} has no option {', '.join(unknown)}; {expected}")
