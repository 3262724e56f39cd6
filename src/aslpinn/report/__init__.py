"""What people see: metrics, figures, the benchmark and the study that fills the book."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = ("benchmark", "figures", "metrics", "study")


def __getattr__(name: str) -> Any:
    """Import a module of this room when it is first used: figures and the study load large libraries."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
