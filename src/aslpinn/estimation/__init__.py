"""Where physics and fields meet: fit(series, mask, acquisition) -> Estimate."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimate import Estimate
    from .estimators import ESTIMATORS, PRESETS, fit, options_for, uses
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
    from .problem import Problem, Request, prepare

_PUBLIC = {
    "ESTIMATORS": "estimators",
    "PRESETS": "estimators",
    "BasilOptions": "options",
    "ConsensusOptions": "options",
    "Estimate": "estimate",
    "FieldOptions": "options",
    "NllsOptions": "options",
    "Options": "options",
    "PinnOptions": "networks.config",
    "Problem": "problem",
    "Request": "problem",
    "SmoothedOptions": "options",
    "SvbOptions": "options",
    "VbOptions": "options",
    "fit": "estimators",
    "options_for": "estimators",
    "prepare": "problem",
    "uses": "estimators",
}

__all__ = [
    "ESTIMATORS",
    "PRESETS",
    "BasilOptions",
    "ConsensusOptions",
    "Estimate",
    "FieldOptions",
    "NllsOptions",
    "Options",
    "PinnOptions",
    "Problem",
    "Request",
    "SmoothedOptions",
    "SvbOptions",
    "VbOptions",
    "fit",
    "options_for",
    "prepare",
    "uses",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line reads the estimators' options without NumPy."""
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
