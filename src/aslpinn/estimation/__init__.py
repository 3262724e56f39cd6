"""Where physics and fields meet: fit(series, mask, acquisition) -> Estimate.

`estimators` names them all and has `fit`; `options` says what each takes, `problem` what each is given, `estimate` what
each returns. `field` is the default, `networks` the estimator pinn; `nlls`, `variational`, `smoothed`, `basil` and
`consensus` are what they are compared with, and most start from the grid in `voxelwise`. What the field and networks
share stands beside them: `regions`, `mixture`, `contrast`. A module of compiled loops bears the name of the one that
calls them: `nlls_kernels`.
"""

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
