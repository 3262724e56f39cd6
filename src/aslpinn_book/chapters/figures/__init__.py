"""Every figure of the book: pure functions, arrays in, Figure out; those of a subject are in aslpinn.maps.figures.

Names are found in whichever module of this folder defines them, imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def __getattr__(name: str) -> Any:
    """A figure function of any module here, so that `figures.parameter_maps(...)` works without knowing its file."""
    if not name.startswith("_"):
        modules = sorted(module.name for module in iter_modules(__path__))
        for module_name in modules:
            module = import_module(f".{module_name}", __name__)
            if module_name == name:
                return module
            found = vars(module).get(name)
            if found is not None and getattr(found, "__module__", module.__name__).startswith(__name__):
                return found
        found = getattr(import_module("aslpinn.maps.figures"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
