"""What a study runs, and the schema of its STUDY.toml: one table that checks files and makes the template."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aslpinn.errors import InputError
from aslpinn.estimation.estimators import ESTIMATORS, PRESETS, check_names
from aslpinn.maps.choices import PVC, check_choice, check_constants
from aslpinn.markdown import table

BATCH = 1000  #: Most volunteers that one study simulates.


@dataclass(frozen=True)
class Study:
    """What to run; the same names are the keys of a STUDY.toml (see SCHEMA for what each means).

    jobs and force belong to one run rather than to the study: they change no number.
    """

    bids: tuple[Path, ...] = ()
    out: Path = Path("build")
    virtual: bool = False
    volunteers: int = 2
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    estimators: tuple[str, ...] = ("field",)
    preset: str = "default"
    seed: int = 0
    held_out: bool = True
    constants: dict[str, float] = field(default_factory=dict)
    atlases: tuple[Path, ...] = ()
    pvc: str = "off"
    chapters: bool | tuple[str, ...] = True
    book: bool = True
    fast: bool = False
    jobs: int = 0
    force: bool = False

    @property
    def main(self) -> tuple[str, str]:
        """Estimator of the maps and of each subject's page, and its preset ("" where it has none)."""
        return split_estimator(self.estimators[0], self.preset)


@dataclass(frozen=True)
class Setting:
    """One key of a STUDY.toml: its kind (a name in KINDS), what it means, and an example for the template."""

    kind: str
    meaning: str
    example: str


KINDS = {
    "path": "a path, relative to this file",
    "paths": "a list of paths, relative to this file",
    "flag": "true or false",
    "count": "a whole number, 0 or more",
    "label": "a string",
    "labels": "a list of strings",
    "flag or labels": "true, false or a list of strings",
    "numbers": "a table of numbers",
}

SCHEMA: dict[str, Setting] = {
    "bids": Setting("paths", "BIDS data sets whose subjects are fitted", '["../dataset"]'),
    "out": Setting("path", "folder for everything that is made", '"build"'),
    "virtual": Setting("flag", "fit simulated volunteers too; they alone are fitted where bids is empty", "false"),
    "volunteers": Setting("count", f"how many volunteers are simulated, at most {BATCH}", "2"),
    "participants": Setting("labels", "labels of the subjects to fit; empty for all", '["01", "02"]'),
    "sessions": Setting("labels", "labels of the sessions to fit; empty for all", '["baseline"]'),
    "estimators": Setting(
        "labels",
        "estimators; the first makes the maps and the pages, the others are compared with it. "
        f'One of {", ".join(ESTIMATORS)}, with a preset of its own as in "pinn:paper" where wanted',
        '["field", "vb"]',
    ),
    "preset": Setting(
        "label", f"preset of pinn where it is named without one: {', '.join(PRESETS['pinn'])}", '"default"'
    ),
    "seed": Setting("count", "seed of every random choice", "0"),
    "held_out": Setting(
        "flag", "where delays are repeated, also fit half of the repeats and predict the others", "true"
    ),
    "constants": Setting(
        "numbers",
        "constants that replace the defaults and the sidecars': t1_blood, t1_tissue, t1_white (s; the last with pvc "
        "field), partition_coefficient (ml/g), labeling_efficiency, suppression_pulses",
        "{ t1_blood = 1.65 }",
    ),
    "atlases": Setting(
        "paths",
        "label images for tables by region, names from the dseg.tsv beside: space-MNI152NLin2009cAsym (through the "
        "transform that fMRIPrep left, else an affine registration), or on the grid of every series",
        '["atlas-Schaefer_space-MNI152NLin2009cAsym_dseg.nii.gz"]',
    ),
    "pvc": Setting("label", f"partial volume correction: {' or '.join(PVC)}", '"linear"'),
    "chapters": Setting(
        "flag or labels", "the chapters of the book that are run: all, none, or by name", '["kinetics"]'
    ),
    "book": Setting("flag", "build the book", "true"),
    "fast": Setting("flag", "short settings, for tests and a first look: the numbers are worse", "false"),
    "jobs": Setting("count", "notebooks that run at the same time; 0 is one a core", "0"),
}


def read_study(path: Path) -> Study:
    """A Study from a TOML file; paths in it are relative to the file.

    Raises
    ------
    InputError
        Where the file cannot be read, a key is unknown or a value is not what SCHEMA says.
    """
    try:
        if path.exists() and not path.is_file():  # a device may have no end
            raise InputError(f"{path}: is no file; expected a TOML file")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)[:200]
        raise InputError(f"{path}: {said}; expected a TOML file") from None
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in SCHEMA:
            raise InputError(f"{path}: unknown key {name!r}; expected one of {', '.join(SCHEMA)}")
        kind = SCHEMA[name].kind
        if not _is(kind, value):
            raise InputError(f"{path}: {name} is {value!r}; expected {KINDS[kind]}")
        values[name] = _converted(kind, value, path.parent)
    plan = Study(**values)
    check(plan, f"{path}: ")
    return plan


def check(plan: Study, where: str = "") -> None:
    """InputError, its message after where, unless every value of the plan can be run."""
    _check_names(f"{where}preset: ", "pinn", plan.preset)
    if not plan.estimators:
        raise InputError(f"{where}estimators is empty; expected at least one of {', '.join(ESTIMATORS)}")
    for name in plan.estimators:
        estimator, preset = split_estimator(name, plan.preset)
        _check_names(f"{where}estimators has {name!r}: ", estimator, preset)
    if len({split_estimator(name, plan.preset) for name in plan.estimators}) < len(plan.estimators):
        raise InputError(f"{where}estimators has {', '.join(plan.estimators)}; expected each once")
    if not 1 <= plan.volunteers <= BATCH:
        raise InputError(f"{where}volunteers is {plan.volunteers}; expected 1 to {BATCH}")
    if plan.jobs < 0:
        raise InputError(f"{where}jobs is {plan.jobs}; expected 0 or more")
    if not 0 <= plan.seed < 2**32:
        raise InputError(f"{where}seed is {plan.seed}; expected 0 to {2**32 - 1}")
    for file in plan.atlases:
        if not file.is_file():
            raise InputError(f"{where}atlases has {file}, which is no file; expected a label image")
    check_choice(plan.pvc, {}, plan.main[0], f"{where}pvc")
    check_constants(plan.constants, plan.pvc, f"{where}pvc")
    if plan.constants:
        _check_constants(plan.constants, where)


def _check_names(where: str, estimator: str, preset: str) -> None:
    try:
        check_names(estimator, preset or None)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def _check_constants(constants: dict[str, float], where: str) -> None:
    from aslpinn.physics.constants import Constants

    known = Constants.__dataclass_fields__
    for name in constants:
        if name not in known:
            raise InputError(f"{where}there is no constant {name!r}; expected one of {', '.join(known)}")
    try:
        Constants(**constants)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"{where}constants: {error}") from None


def split_estimator(name: str, preset: str) -> tuple[str, str]:
    """("pinn", "paper") of "pinn:paper"; without a colon the preset given, or "" where the estimator has none."""
    estimator, _, own = name.partition(":")
    return estimator, own or (preset if estimator in PRESETS else "")


def template() -> str:
    """A STUDY.toml in which every key stands with its meaning, commented out at an example value."""
    lines = ["# A study: aslpinn study STUDY.toml. Every key may be left out; paths are relative to this file."]
    for name, setting in SCHEMA.items():
        meaning = re.sub(r"(.{1,100})(?:\s+|$)", r"# \1\n", setting.meaning[0].upper() + setting.meaning[1:]).rstrip()
        lines += ["", f"{meaning}.", f"# {name} = {setting.example}"]
    return "\n".join(lines) + "\n"


def write_template(path: Path) -> None:
    """Write template() to a new file; InputError where there is one already or it cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(template())
    except FileExistsError:
        raise InputError(f"{path}: is there already; name another file for --init") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); expected a new file") from None


def schema_table() -> str:
    """SCHEMA as a markdown table, for the book."""
    default = Study()
    lines = []
    for name, setting in SCHEMA.items():
        shown = _toml(getattr(default, name))
        lines.append([f"`{name}`", setting.meaning, KINDS[setting.kind], f"`{shown}`"])
    return table(["key", "meaning", "value", "default"], lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str | Path) else str(value)


def _is(kind: str, value: Any) -> bool:
    if kind in ("path", "label"):
        return isinstance(value, str) and value != "" and "\0" not in value
    if kind in ("paths", "labels"):
        return isinstance(value, list) and all(isinstance(item, str) and item and "\0" not in item for item in value)
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "flag or labels":
        return isinstance(value, bool) or _is("labels", value)
    if kind == "count":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, dict) and all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in value.values()
    )


def _converted(kind: str, value: Any, folder: Path) -> Any:
    if kind == "path":
        return folder / value
    if kind == "paths":
        return tuple(folder / item for item in value)
    return tuple(value) if isinstance(value, list) else value


def labels(given: Sequence[str], prefix: str) -> set[str]:
    """Labels without their BIDS prefix: "sub-01" and "01" are the same subject."""
    return {label.removeprefix(prefix) for label in given}
