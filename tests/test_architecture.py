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
EVERYWHERE = {"errors", "files", "markdown", "smoothing", "threads", "__version__"}


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


def imports_of(path: Path, anywhere: bool = False) -> set[str]:
    """What a file imports when it is imported; `anywhere`: in functions, and for types only, too."""
    package = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not anywhere:
                visit(node.orelse)
            elif anywhere and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(node.body)
            elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef | ast.For):
                for part in ("body", "orelse", "finalbody"):
                    visit(getattr(node, part, []))
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: -node.level + (path.stem == "__init__") or None] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                found.add(module)
                found.update(f"{module}.{alias.name}" for alias in node.names)

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def graph(anywhere: bool = False) -> dict[str, set[str]]:
    """Module -> what it imports of both packages; a package is its __init__. anywhere: see imports_of."""
    files = {}
    for root in (PACKAGE, PACKAGE.parent / "aslpinn_book"):
        for path in root.rglob("*.py"):
            files[".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")] = path
    return {name: {one for one in imports_of(path, anywhere) if one in files} - {name} for name, path in files.items()}


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes each of which reaches every other (Tarjan's strongly connected components of more than one)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in edges[node]:
            if other not in order:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == order[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(group)

    for node in edges:
        if node not in order:
            visit(node)
    return found


def test_the_core_does_not_import_the_book() -> None:
    edges = graph()
    core = {name for name in edges if name.split(".")[0] == "aslpinn"}
    assert len(core) > 40
    wrong = {name: sorted(edges[name] - core) for name in core if edges[name] - core}
    assert not wrong


def test_no_module_imports_itself_by_way_of_others() -> None:
    edges = graph()
    # A package imports what it offers: a module that takes something from its own package's __init__ is a circle too.
    assert circles(edges) == []


def test_no_module_imports_itself_by_way_of_others_while_it_runs_either() -> None:
    edges = graph(anywhere=True)  # imports inside functions and for types as well, but for a package's __init__
    packages = {name for name in edges if any(other.startswith(f"{name}.") for other in edges)}
    assert circles({name: found - packages for name, found in edges.items() if name not in packages}) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("package", ["aslpinn", "aslpinn_book"])
def test_every_room_says_what_it_is_for(package: str) -> None:
    rooms = sorted((PACKAGE.parent / package).rglob("__init__.py"))
    assert rooms
    for path in rooms:
        purpose = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert purpose, path
        assert len(purpose.split()) >= 4, path
    folders = {path.parent for path in (PACKAGE.parent / package).rglob("*.py")}
    assert folders == {path.parent for path in rooms}, "every folder with modules is a package"


def test_the_reader_of_imports_sees_every_form() -> None:
    source = """
import aslpinn.data.series
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


def test_names_and_options_of_estimators_are_read_without_any_library() -> None:
    code = "import sys, aslpinn.estimation.estimators; print(sorted({'numpy', 'torch', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, aslpinn; print(sorted({'torch', 'numba', 'nilearn', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
