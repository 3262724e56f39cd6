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

from aslpinn.errors import InputError

from .plan import labels

#: Folder of both packages, aslpinn and aslpinn_book.
SOURCES = Path(__file__).resolve().parents[2]
#: Sources that do not change what a notebook computes: editing them makes no notebook run again.
NOT_HASHED = {
    *(f"aslpinn/{name}.py" for name in ("__main__", "cli", "files", "parser", "progress")),
    *(f"aslpinn_book/study/{name}.py" for name in ("command", "kernels", "launch_buttons", "lock", "needs")),
    *(f"aslpinn_book/study/{name}.py" for name in ("notebooks", "one_notebook", "pages", "plan", "pool", "preloaded")),
    *(
        f"aslpinn_book/study/{name}.py"
        for name in ("paired", "progress", "reading", "run", "site", "viewer", "virtual")
    ),
    "aslpinn_book/chapters/labels_and_search.py",
    "aslpinn_book/chapters/widget_directive.py",
    "aslpinn_book/chapters/group.py",  # an input of the group's notebook
}
#: Parameters that only say where files lie: what is in the files counts, so that a study may be moved.
PLACES = ("asl", "bids", "out", "measures", "compare", "subjects", "atlases")
LIBRARIES = ("matplotlib", "nibabel", "nilearn", "numba", "numpy", "scikit-image", "scipy", "torch")


@dataclass(frozen=True)
class Task:
    """One notebook to run: a chapter, or the subject template with one subject's parameters.

    Attributes
    ----------
    key : str
        Name of its page and folder; letters, digits, "-", "_" and "+" only.
    kind : str
        "chapter", "subject" or "group".
    notebook, report : Path
        The md:myst source, and where the executed notebook goes.
    parameters : dict
        Passed by papermill where the notebook declares them.
    inputs : tuple of Path
        Files whose content decides, with the notebook, the parameters and the core, whether it must run again.
    root : Path or None
        Folder to which names of inputs are relative in the records.
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
    root: Path | None = None
    title: str = ""
    dataset: str = ""
    series: str = ""
    maps: Path | None = field(default=None)

    @property
    def measures(self) -> Path:
        """Where a subject's notebook leaves the numbers that the group is made of."""
        return self.report.with_name("measures.json")

    @property
    def state_file(self) -> Path:
        """Where the result of the last run is kept."""
        return self.report.with_name(f"{self.report.stem}.json")


def find_project(start: Path | None = None, book: bool = True) -> Path:
    """The folder of the book: the nearest one above start that has its notebooks, else the checkout of this package.

    Without a book (book=False) an installed package has the notebooks of subjects and group in itself.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents, *SOURCES.parents):
        if (folder / "_toc.yml").is_file() and (folder / "notebooks").is_dir() and (folder / "book").is_dir():
            return folder
    installed = SOURCES / "aslpinn_book"
    if not book and (installed / "notebooks" / "subject.md").is_file():
        return installed
    raise InputError(
        f"no book found in {here} or above it; expected _toc.yml, book/ and notebooks/: run in a checkout of aslpinn, "
        "or leave the book out with --no-book"
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
    found = [path for path in found if not path.name.startswith("._")]  # macOS leaves such files beside others
    # ASLPrep writes a series on several grids: that of the scan is taken, not one that is interpolated again
    found = [path for path in found if "_space-" not in path.name or "_desc-preproc_" not in path.name]
    if not found:
        raise InputError(f"{bids_dir}: no ASL series found; expected sub-*/perf/*_asl.nii.gz (or sub-*/ses-*/perf)")
    return sorted(found)


def subject_tasks(
    bids_dirs: Sequence[Path],
    out: Path,
    notebook: Path,
    parameters: dict[str, Any],
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    compare: Sequence[str] = (),
    shared: Sequence[Path] = (),
) -> list[Task]:
    """One task for each ASL series of the data sets; sub-XX where that is unambiguous, longer names where it is not.

    A subject with one series is called sub-XX, with several by the stems of the files. A name found in more than one
    data set gets the folder name of its data set in front, on the page and below derivatives/aslpinn. compare names
    the estimators whose maps go to derivatives/aslpinn-NAME; shared are files that every subject is made from.
    """
    rows: list[tuple[str, str, Path, Path]] = []
    roots = _dataset_labels(bids_dirs)
    for root in bids_dirs:
        series = [path for path in find_series(root) if _chosen(path.relative_to(root), participants, sessions)]
        count = Counter(path.relative_to(root).parts[0] for path in series)
        for path in series:
            subject = path.relative_to(root).parts[0]
            name = subject if count[subject] == 1 else stem_of(path)
            rows.append((_safe(name), roots[root], root, path))
    if not rows and bids_dirs:
        wanted = [*(f"sub-{x}" for x in sorted(labels(participants, "sub-")))]
        wanted += [f"ses-{x}" for x in sorted(labels(sessions, "ses-"))]
        raise InputError(f"no series of {', '.join(wanted)} is in {', '.join(map(str, bids_dirs))}")
    names = Counter(name for name, *_ in rows)
    tasks: list[Task] = []
    taken: dict[str, Path] = {}
    for name, dataset, root, path in rows:
        clash = names[name] > 1
        key = f"{dataset}_{name}" if clash else name
        if taken.setdefault(key, path) != path:
            raise InputError(
                f"{taken[key]} and {path}: both would be subject {key}, and one would take the other's place; "
                "expected names that differ in letters, digits, + or _ (sub-01_run-1, sub-01_run-2, or one file fewer)"
            )
        below = dataset if clash else ""
        maps = out / "derivatives" / "aslpinn" / below
        report = out / "subjects" / key / "report.ipynb"
        own = {
            "asl": str(path),
            "subject": name,
            "out": str(maps),
            "measures": str(report.with_name("measures.json")),
            "compare": {other: str(out / "derivatives" / f"aslpinn-{_safe(other)}" / below) for other in compare},
        }
        tasks.append(
            Task(
                key=key,
                kind="subject",
                notebook=notebook,
                report=report,
                parameters=parameters | own,
                inputs=(*input_files(path, root), *(file for file in shared if file.is_file())),
                root=root,
                title=f"{dataset}: {name}" if len(bids_dirs) > 1 else name,
                dataset=dataset,
                series=str(path),
                maps=maps,
            )
        )
    return tasks


def stem_of(series: Path) -> str:
    """Name of a series without _asl and its extension, as its maps begin."""
    return series.name.split("_asl.nii")[0]


def _chosen(series: Path, participants: Sequence[str], sessions: Sequence[str]) -> bool:
    """Whether a series, relative to its data set, is among the labels asked for."""
    subject, second = series.parts[0].removeprefix("sub-"), series.parts[1]
    session = second.removeprefix("ses-") if second.startswith("ses-") else None
    return (not participants or subject in labels(participants, "sub-")) and (
        not sessions or session in labels(sessions, "ses-")
    )


def chapter_tasks(
    names: Iterable[str], project: Path, out: Path, parameters: dict[str, Any], bids: Sequence[Path] = ()
) -> list[Task]:
    """One task for each chapter that exists as notebooks/NAME.md; one that declares `bids` gets the first data set."""
    tasks = []
    for name in names:
        notebook = project / "notebooks" / f"{name}.md"
        if not notebook.is_file():
            continue
        real = bool(bids) and re.search(r'^bids = ""$', notebook.read_text(encoding="utf-8"), re.MULTILINE) is not None
        tasks.append(
            Task(
                key=name,
                kind="chapter",
                notebook=notebook,
                report=out / "chapters" / f"{name}.ipynb",
                parameters=parameters | ({"bids": str(bids[0])} if real else {}),
                inputs=tuple(input_files(find_series(bids[0])[0], bids[0])) if real else (),
                root=bids[0] if real else None,
                title=name,
            )
        )
    return tasks


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


def group_task(project: Path, out: Path, measured: Iterable[Path], parameters: dict[str, Any]) -> Task:
    """The notebook of the group, from OUT/group/subjects.json and what its subjects' notebooks have measured."""
    listed = out / "group" / "subjects.json"
    own = SOURCES / "aslpinn_book" / "chapters" / "group.py"
    return Task(
        key="group",
        kind="group",
        notebook=project / "notebooks" / "group.md",
        report=out / "group" / "report.ipynb",
        parameters=parameters | {"subjects": str(listed)},
        inputs=(listed, own, *(path for path in measured if path.is_file())),
        title="group",
    )


def digests(task: Task) -> dict[str, Any]:
    """SHA-256 of what a task's outcome depends on: notebook, parameters, core and libraries (code), each input file."""
    parameters = {name: value for name, value in task.parameters.items() if name not in PLACES}
    parameters["compare"] = sorted(task.parameters.get("compare", ()))
    inputs: dict[str, str] = {}
    for path in task.inputs:
        inside = task.root is not None and path.is_relative_to(task.root)
        name = path.relative_to(task.root).as_posix() if inside and task.root else f"{path.parent.name}/{path.name}"
        inputs[name] = file_digest(path)
    return {
        "code": core_digest(),
        "notebook": file_digest(task.notebook),
        "parameters": hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest(),
        "inputs": inputs,
    }


def digest(task: Task) -> str:
    """One SHA-256 of all of digests()."""
    return combined(digests(task))


def combined(parts: dict[str, Any]) -> str:
    """One SHA-256 of what digests() returned."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content; "unreadable" where it cannot be read (the notebook says why, not the runner)."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return "unreadable"


@cache
def core_digest() -> str:
    """SHA-256 of the core's sources and of the versions of the libraries that compute."""
    total = hashlib.sha256(json.dumps(library_versions()).encode())
    files = [path for package in ("aslpinn", "aslpinn_book") for path in (SOURCES / package).rglob("*.py")]
    for path in sorted(files):
        name = path.relative_to(SOURCES).as_posix()
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
