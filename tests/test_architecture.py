"""The rooms of the core and the one direction of their imports (design.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aslpinn

PACKAGE = Path(aslpinn.__file__).parent
ALLOWED = {
    "physics": set(),
    "fields": set(),
    "data": {"physics"},
    "estimation": {"physics", "fields"},
    "maps": {"physics", "fields", "data", "estimation"},
}
EVERYWHERE = {"errors", "smoothing", "__version__"}


def imported(source: str, module: tuple[str, ...]) -> set[str]:
    """Names of the parts of aslpinn that the source of `module`, such as ("fields", "encoding"), imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[list[str]] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            target = node.module.split(".") if node.module else []
            if node.level:  # one dot is the package that holds the module
                target = ["aslpinn", *module[: len(module) - node.level], *target]
            names = [[*target, alias.name] for alias in node.names]
        found |= {name[1] for name in names if name[0] == "aslpinn" and len(name) > 1}
    return found


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_stands_before_it(room: str) -> None:
    files = modules(room)
    assert files
    wrong = {}
    for path in files:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        other = imported(path.read_text(encoding="utf-8"), parts) - {room} - EVERYWHERE - ALLOWED[room]
        if other:
            wrong[str(path.relative_to(PACKAGE))] = sorted(other)
    assert not wrong


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ALLOWED)


def test_the_reader_of_imports_sees_every_form() -> None:
    source = """
import aslpinn.data.bids
from aslpinn import maps
from aslpinn.physics import delta_m
from .networks import Siren
from ..errors import InputError
def late():
    from ..estimation.pinn import fit
    from .. import cli
    import numpy
"""
    found = imported(source, ("fields", "encoding"))
    assert found == {"data", "maps", "physics", "fields", "errors", "estimation", "cli"}


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, aslpinn; print(sorted({'torch', 'numba', 'nilearn', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
