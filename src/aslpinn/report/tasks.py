"""What a study consists of: its chapters, its subjects, and how to tell that one of them need not run again."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
#: Sources that do not change what a notebook computes: editing them makes no notebook run again.
NOT_HASHED = {"cli.py", "report/study.py", "report/runner.py", "report/tasks.py", "report/execute.py", "report/site.py"}
LIBRARIES = ("matplotlib", "nibabel", "nilearn", "numba", "numpy", "scikit-image", "scipy", "torch")


@dataclass(frozen=True)
class Task:
    """One notebook to run: a chapter, or the subject template with one subject's parameters.

    Attributes
    ----------
    key : str
        Name of its page and folder; letters, digits, "-", "_" and "+" only.
    kind : str
        "chapter" or "subject".
    notebook, report : Path
        The md:myst source, and where the executed notebook goes.
    parameters : dict
        Passed by papermill where the notebook declares them.
    inputs : tuple of Path
        Files whose content decides, with the notebook, the parameters and the core, whether it must run again.
    title, dataset, series : str
        For subjects: the page's title, the data set's folder name and the ASL series.
    maps : Path or None
        Folder into which the notebook writes maps.
    """

    key: str
    kind: str
    notebook: Path
    report: Path
    parameters: dict[str, Any]
    inputs: tuple[Path, ...] = ()
    title: str = ""
    dataset: str = ""
    series: str = ""
    maps: Path | None = field(default=None)

    @property
    def state_file(self) -> Path:
        """Where the result of the last run is kept."""
        return self.report.with_name(f"{self.report.stem}.json")


def find_project(start: Path | None = None) -> Path:
    """The folder of the book: the nearest one above start that has its notebooks, else the checkout of this package."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents, *PACKAGE.parents):
        if (folder / "_toc.yml").is_file() and (folder / "notebooks").is_dir() and (folder / "book").is_dir():
            return folder
    raise InputError(
        f"no book found in {here} or above it; expected _toc.yml, book/ and notebooks/: run in a checkout of aslpinn"
    )


def find_series(bids_dir: Path) -> list[Path]:
    """Every ASL series of a BIDS data set, sessions included, sorted; derivatives are left out.

    Raises
    ------
    InputError
        Where the folder does not exist or has no sub-*/perf/*_asl.nii[.gz].
    """
    if not bids_dir.is_dir():
        raise InputError(f"{bids_dir}: no such folder; expected a BIDS data set with sub-*/perf/*_asl.nii.gz")
    found: list[Path] = []
    for pattern in ("sub-*/perf/*_asl.nii*", "sub-*/ses-*/perf/*_asl.nii*"):
        found += [path for path in bids_dir.glob(pattern) if path.name.endswith((".nii", ".nii.gz"))]
    if not found:
        raise InputError(f"{bids_dir}: no ASL series found; expected sub-*/perf/*_asl.nii.gz (or sub-*/ses-*/perf)")
    return sorted(found)


def subject_tasks(
    bids_dirs: Sequence[Path], out: Path, notebook: Path, parameters: dict[str, Any], participants: Sequence[str] = ()
) -> list[Task]:
    """One task for each ASL series of the data sets; sub-XX where that is unambiguous, longer names where it is not.

    A subject with one series is called sub-XX, with several by the stems of the files. A name found in more than one
    data set gets the folder name of its data set in front, on the page and below derivatives/aslpinn.
    """
    wanted = {label.removeprefix("sub-") for label in participants}
    rows: list[tuple[str, str, Path, Path]] = []
    labels = _dataset_labels(bids_dirs)
    for root in bids_dirs:
        series = find_series(root)
        count = Counter(path.relative_to(root).parts[0] for path in series)
        for path in series:
            subject = path.relative_to(root).parts[0]
            if wanted and subject.removeprefix("sub-") not in wanted:
                continue
            name = subject if count[subject] == 1 else path.name.split("_asl.nii")[0]
            rows.append((_safe(name), labels[root], root, path))
    if wanted and not rows:
        raise InputError(f"none of the participants {', '.join(sorted(wanted))} is in {', '.join(map(str, bids_dirs))}")
    names = Counter(name for name, *_ in rows)
    tasks = []
    for name, dataset, root, path in rows:
        clash = names[name] > 1
        key = f"{dataset}_{name}" if clash else name
        maps = out / "derivatives" / "aslpinn" / (dataset if clash else "")
        tasks.append(
            Task(
                key=key,
                kind="subject",
                notebook=notebook,
                report=out / "subjects" / key / "report.ipynb",
                parameters=parameters | {"asl": str(path), "subject": name, "out": str(maps)},
                inputs=tuple(input_files(path, root)),
                title=f"{dataset}: {name}" if len(bids_dirs) > 1 else name,
                dataset=dataset,
                series=str(path),
                maps=maps,
            )
        )
    return tasks


def chapter_tasks(names: Iterable[str], project: Path, out: Path, parameters: dict[str, Any]) -> list[Task]:
    """One task for each chapter that exists as notebooks/NAME.md."""
    return [
        Task(
            key=name,
            kind="chapter",
            notebook=project / "notebooks" / f"{name}.md",
            report=out / "chapters" / f"{name}.ipynb",
            parameters=parameters,
            title=name,
        )
        for name in names
        if (project / "notebooks" / f"{name}.md").is_file()
    ]


def input_files(series: Path, root: Path) -> list[Path]:
    """Files that belong to a series: its own folder, anat beside it, inherited sidecars, the subject's derivatives."""
    subject = series.relative_to(root).parts[0]
    files = {path for path in series.parent.glob("*") if path.is_file()}
    files |= {path for path in series.parent.parent.glob("anat/*") if path.is_file()}
    for level in series.parent.parents:
        files |= {path for path in level.glob("*") if path.suffix in (".json", ".tsv") and path.is_file()}
        if level == root:
            break
    files |= {path for path in root.glob(f"derivatives/*/{subject}/**/*") if path.is_file()}
    return sorted(files)


def digest(task: Task) -> str:
    """SHA-256 of everything that a task's outcome depends on: notebook, parameters, core, libraries, inputs."""
    total = hashlib.sha256()
    total.update(core_digest().encode())
    total.update(file_digest(task.notebook).encode())
    total.update(json.dumps(task.parameters, sort_keys=True).encode())
    for path in task.inputs:
        total.update(f"{path.name} {file_digest(path)}".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def core_digest() -> str:
    """SHA-256 of the core's sources and of the versions of the libraries that compute."""
    total = hashlib.sha256(json.dumps(library_versions()).encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in NOT_HASHED:
            total.update(f"{name} {file_digest(path)}".encode())
    return total.hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute; "missing" where one is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _dataset_labels(bids_dirs: Sequence[Path]) -> dict[Path, str]:
    labels: dict[Path, str] = {}
    for root in bids_dirs:
        label = base = _safe(root.resolve().name)
        number = 2
        while label in labels.values():
            label, number = f"{base}-{number}", number + 1
        labels[root] = label
    return labels


def _safe(name: str) -> str:
    """A name for a file and a page: what BIDS allows in a label, and "_" and "-" between labels."""
    return re.sub(r"[^A-Za-z0-9_+-]", "-", name).strip("-") or "unnamed"
