"""What is fitted: the hash encoding of positions, the networks on top of it, and fields linear in their weights.

`encoding` and `networks` are PyTorch's; `arrays` has the same in NumPy, which every engine starts from, and `compiled`
trains that. `gaussian` is the field without a network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ENGINES": "arrays",
    "HashIndex": "encoding",
    "Level": "arrays",
    "MultiresHashEncoding": "encoding",
    "ParameterField": "networks",
    "SignalField": "networks",
    "Siren": "networks",
    "grid_levels": "arrays",
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
]

if TYPE_CHECKING:
    from .arrays import ENGINES, Level, grid_levels
    from .encoding import HashIndex, MultiresHashEncoding
    from .networks import ParameterField, SignalField, Siren


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: encodings and networks bring torch, grids do not."""
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
