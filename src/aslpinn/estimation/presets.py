"""Estimator "pinn": which fit a preset is. Networks, and torch with them, are imported only where they are trained."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from ..errors import InputError
from .config import FitConfig
from .estimate import Estimate
from .field.fit import fit_field
from .problem import Problem, Request

ENGINES = ("auto", "torch", "fused", "tinycudann")


def fit_pinn(problem: Problem, request: Request, **options: Any) -> Estimate:
    """The multiscale field (preset default), or networks (presets network and paper).

    Raises InputError where settings of networks are given to the multiscale field, or a setting does not exist.
    """
    if request.preset != "default":
        from . import pinn

        return pinn.fit_pinn(problem, request, **options)
    given = set(options) | ({"epochs"} if request.epochs is not None else set())
    of_networks = sorted(given & {item.name for item in fields(FitConfig)} - _own())
    if of_networks:
        raise InputError(
            f"{', '.join(of_networks)}: a setting of networks, and preset 'default' trains none; "
            "expected preset 'network' or 'paper' with it"
        )
    unknown = sorted(given - _own())
    if unknown:
        raise InputError(f"there is no setting {', '.join(unknown)}; expected some of {', '.join(sorted(_own()))}")
    if request.device != "cpu":
        raise InputError(f"device is {request.device!r}; preset 'default' runs on cpu, preset 'network' on others too")
    if request.engine not in ENGINES:
        raise InputError(f"engine is {request.engine!r}; expected one of {', '.join(ENGINES)}")
    return fit_field(problem, request, **options)


def _own() -> set[str]:
    parameters = inspect.signature(fit_field).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
