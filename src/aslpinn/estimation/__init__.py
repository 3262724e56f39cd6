"""Where physics and fields meet: fit(series, mask, acquisition) -> Estimate."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dispatch import fit
    from .estimate import Estimate
    from .networks.config import FitConfig
    from .options import ESTIMATORS, PRESETS
    from .problem import Problem, Request, prepare

_PUBLIC = {
    "ESTIMATORS": "options",
    "PRESETS": "options",
    "Estimate": "estimate",
    "FitConfig": "networks.config",
    "Problem": "problem",
    "Request": "problem",
    "fit": "dispatch",
    "prepare": "problem",
}

__all__ = ["ESTIMATORS", "PRESETS", "Estimate", "FitConfig", "Problem", "Request", "fit", "prepare"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line reads the estimators' names without NumPy."""
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
