"""The Containerfile and the Apptainer definition, which no test here can build: grammar, sources, pinned bases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT"}
SECTIONS = {"files", "post", "environment", "runscript", "labels"}
PINNED = re.compile(r"python:3\.\d+\.\d+-slim-\w+")


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def sections() -> tuple[dict[str, str], dict[str, list[str]]]:
    head: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    now: list[str] | None = None
    for line in (ROOT / "apptainer.def").read_text().splitlines():
        if line.startswith("%"):
            now = found.setdefault(line[1:].strip(), [])
        elif line.strip() and now is None:
            key, value = line.split(":", 1)
            head[key] = value.strip()
        elif line.strip() and now is not None:
            now.append(line.strip())
    return head, found


def test_the_containerfile_is_of_known_instructions_and_copies_what_is_there() -> None:
    made = instructions()
    assert {word for word, _ in made} <= KNOWN
    assert made[0][0] == "FROM"
    assert PINNED.fullmatch(made[0][1])
    for word, rest in made:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    assert made[-1] == ("ENTRYPOINT", '["aslpinn-bids"]')


def test_the_apptainer_definition_is_of_known_sections_and_copies_the_same() -> None:
    head, found = sections()
    assert set(head) == {"Bootstrap", "From"}
    assert PINNED.fullmatch(head["From"])
    assert set(found) == SECTIONS
    sources = [line.split()[0] for line in found["files"]]
    assert all((ROOT / source).exists() for source in sources)
    copied = [source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]]
    assert sorted(source.removeprefix("./") for source in copied) == sorted(sources)
    assert found["runscript"] == ['exec aslpinn-bids "$@"']


def test_both_are_built_by_a_workflow() -> None:
    yaml = pytest.importorskip("yaml")
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "container.yml").read_text())
    steps = " ".join(str(step.get("run", "")) for job in flow["jobs"].values() for step in job["steps"])
    assert "docker build -f Containerfile" in steps
    assert "apptainer build image.sif apptainer.def" in steps
