"""What is fitted: the hash encoding of positions, the networks on top of it, and fields linear in their weights."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ENGINES": "grids",
    "HashIndex": "encoding",
    "Level": "grids",
    "MultiresHashEncoding": "encoding",
    "ParameterField": "networks",
    "SignalField": "networks",
    "Siren": "networks",
    "grid_levels": "grids",
    "set_threads": "threads",
}

__all__ = [
    "ENGINES",
    "HashIndex",
    "Level",
    "MultiresHashEncoding",
    "ParameterField",
    "SignalField",
    "Siren",
    "grid_levels",
    "set_threads",
]

if TYPE_CHECKING:
    from .encoding import HashIndex, MultiresHashEncoding
    from .grids import ENGINES, Level, grid_levels
    from .networks import ParameterField, SignalField, Siren
    from .threads import set_threads


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: encodings and networks bring torch, grids do not."""
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
