"""Every module of this project that any of its files names is there: in code, pages, workflows and settings."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = {".py", ".md", ".yml", ".yaml", ".toml", ".cff", ".css", ".ini", ""}
#: What follows the name of the package without being a module of it.
OTHERWISE = {"aslpinn.egg", "aslpinn.git", "aslpinn.js"}


def files() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git: which files belong to the project is not known")
    found = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in found if path.suffix in TEXT and path.is_file() and path != Path(__file__).resolve()]


@cache
def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, rest = name.partition(".")
    found = import_module(module)
    for part in rest.split("."):
        if not hasattr(found, part):
            try:
                import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                return False
        found = getattr(found, part)
    return True


def names_in(text: str) -> set[str]:
    """Modules of this project and what is in them, as `aslpinn.a.b` or as `from aslpinn.a import b, c`."""
    found = set(re.findall(r"(?<![\w./-])(aslpinn(?:_book)?(?:\.[A-Za-z_]\w*)+)", text))
    imports = re.findall(r"^ *from (aslpinn(?:_book)?[\w.]*) import \(?([\w, \n]+)\)?", text, flags=re.MULTILINE)
    for module, imported in imports:
        for name in re.findall(r"\w+", re.sub(r" as \w+", "", imported.split("\n\n")[0].split("\n")[0])):
            found.add(f"{module}.{name}")
    return {name for name in found if ".".join(name.split(".")[:2]) not in OTHERWISE}


def test_every_module_that_is_named_anywhere_is_there():
    wrong = {}
    for path in files():
        names = sorted(name for name in names_in(path.read_text(encoding="utf-8")) if not resolves(name))
        if names:
            wrong[path.relative_to(ROOT).as_posix()] = names
    assert not wrong


def test_every_source_file_that_is_named_anywhere_is_there():
    wrong = {}
    for path in files():
        named = re.findall(r"(?<![\w/])(?:src/)?(aslpinn(?:_book)?/[\w/]+\.py)\b", path.read_text(encoding="utf-8"))
        missing = sorted({name for name in named if not (ROOT / "src" / name).is_file()})
        if missing:
            wrong[path.relative_to(ROOT).as_posix()] = missing
    assert not wrong


def test_every_program_that_is_run_as_a_module_is_there():
    named = {
        name
        for path in files()
        for name in re.findall(r"python3? -m (\w+(?:\.\w+)*)", path.read_text(encoding="utf-8"))
    }
    assert {"aslpinn_book.compile_loops", "aslpinn_book.study.launch_buttons", "pytest"} <= named
    assert not [name for name in named if find_spec(name) is None]


def test_the_reader_of_names_sees_every_form():
    text = (
        "`aslpinn.maps.quality` and\n    from aslpinn_book.study import pages, site as built\n/x/aslpinn.db aslpinn.git"
    )
    assert names_in(text) == {
        "aslpinn.maps.quality", "aslpinn_book.study", "aslpinn_book.study.pages", "aslpinn_book.study.site",
    }  # fmt: skip
    assert resolves("aslpinn.maps.quality.quality")
    assert not resolves("aslpinn.report")
