"""Perfusion imaging with physics-informed neural networks: the core of a book that runs.

Five rooms, each of which imports only rooms that stand before it: `physics`, what the scanner measures; `fields`, what
is fitted; `data`, in and out; `estimation`, where they meet; `maps`, what is said of maps. Below all of them lie
`errors`, `files`, `markdown`, `smoothing` and `threads`, above them the command line: `cli`, `parser`, `progress`. What
makes the book is another package, `aslpinn_book`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenMP threads that wait by spinning take the cores from our compiled loops; read once, when torch is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.2.0"

_PUBLIC = {
    "Acquisition": "physics",
    "Constants": "physics",
    "Estimate": "estimation",
    "FitError": "errors",
    "InputError": "errors",
    "Subject": "data",
    "fit": "estimation",
    "load_subject": "data",
    "simulate": "data",
}

__all__ = [
    "Acquisition",
    "Constants",
    "Estimate",
    "FitError",
    "InputError",
    "Subject",
    "__version__",
    "fit",
    "load_subject",
    "simulate",
]

if TYPE_CHECKING:
    from .data import Subject, load_subject, simulate
    from .errors import FitError, InputError
    from .estimation import Estimate, fit
    from .physics import Acquisition, Constants


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `aslpinn --help` loads neither torch nor Numba."""
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
