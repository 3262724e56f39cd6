"""Every subject, then the book: run notebooks side by side, resume by hash, say what failed.

OUT/chapters/NAME.ipynb             executed chapters
OUT/subjects/KEY/report.ipynb       one executed report a subject, with report.json (state, seconds, error, hash)
OUT/derivatives/aslpinn/            maps, BIDS derivatives
OUT/study.json                      the whole study: versions, settings, each notebook's state
OUT/site/index.html                 the book
"""

from __future__ import annotations

import json
import platform
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from .execute import write_atomic
from .runner import cores, run_tasks
from .tasks import PACKAGE, Task, chapter_tasks, file_digest, find_project, library_versions, subject_tasks

VIRTUAL_SUBJECTS = 2


@dataclass(frozen=True)
class Study:
    """What to run; the same names are the keys of a STUDY.toml.

    Attributes
    ----------
    bids : tuple of Path
        BIDS data sets whose subjects are fitted.
    out : Path
        Folder for everything that is made.
    virtual : bool
        Fit the simulated volunteers too (they alone are fitted where bids is empty).
    chapters, book : bool
        Run the chapters; build the book.
    jobs : int
        Notebooks that run at the same time.
    fast : bool
        Short settings, for tests and a first look: the numbers are worse.
    estimator, preset, seed
        Passed to each subject's fit.
    participants : tuple of str
        Labels of the subjects to fit; empty for all.
    force : bool
        Run everything again, whatever the hashes say.
    """

    bids: tuple[Path, ...] = ()
    out: Path = Path("build")
    virtual: bool = False
    chapters: bool = True
    book: bool = True
    jobs: int = 0
    fast: bool = False
    estimator: str = "pinn"
    preset: str = "default"
    seed: int = 0
    participants: tuple[str, ...] = ()
    force: bool = False


def read_study(path: Path) -> Study:
    """A Study from a TOML file; paths in it are relative to the file.

    Raises
    ------
    InputError
        Where the file cannot be read, a key is unknown or a value has the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {error}; expected a TOML file") from None
    default, values = Study(), {}
    known = [item.name for item in fields(Study)]
    for name, value in table.items():
        if name not in known:
            raise InputError(f"{path}: unknown key {name!r}; expected one of {', '.join(known)}")
        expected = getattr(default, name)
        if isinstance(expected, tuple):
            if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
                raise InputError(f"{path}: {name} is {value!r}; expected a list of strings")
            value = tuple(path.parent / item for item in value) if name == "bids" else tuple(value)
        elif isinstance(expected, Path):
            if not isinstance(value, str):
                raise InputError(f"{path}: {name} is {value!r}; expected a path")
            value = path.parent / value
        elif type(value) is not type(expected):
            raise InputError(f"{path}: {name} is {value!r}; expected {type(expected).__name__}")
        values[name] = value
    return Study(**values)


def study(
    bids_dirs: Sequence[str | Path] = (),
    out: str | Path = "build",
    jobs: int = 0,
    fast: bool = False,
    say: Callable[[str], None] = print,
    **settings: Any,
) -> int:
    """Run a study; 0 where everything was done, 1 where a notebook or the book failed (see Study for the settings).

    Raises
    ------
    InputError
        Where a data set has no ASL series or the book's sources are not found; nothing has been written then.
    """
    plan = Study(bids=tuple(Path(d) for d in bids_dirs), out=Path(out), jobs=jobs, fast=fast, **settings)
    return run_study(plan, say)


def run_study(plan: Study, say: Callable[[str], None] = print) -> int:
    """Run a study as planned; see study()."""
    from .site import build_site, chapters_of

    project = find_project()
    out = plan.out.resolve()
    bids = [path.resolve() for path in plan.bids]
    common = {"fast": plan.fast, "seed": plan.seed}
    options = common | {"estimator": plan.estimator, "preset": plan.preset}
    template = project / "notebooks" / "subject.md"
    subject_tasks(bids, out, template, options, plan.participants)  # refuses bad input before anything is written
    with _locked(out):
        if plan.virtual or not bids:
            bids.insert(0, write_virtual(out / "virtual", plan.fast, plan.seed, say))
        tasks = subject_tasks(bids, out, template, options, plan.participants)
        if plan.chapters:
            tasks = chapter_tasks(chapters_of(project), project, out, common) + tasks
        states = run_tasks(tasks, project / "notebooks", plan.jobs, plan.force, say)
        record = summary(plan, tasks, states)
        write_atomic(out / "study.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
        failed = [task for task in tasks if states[task.key]["state"] != "done"]
        built = build_site(project, out, tasks, record, say) if plan.book else True
    for task in failed:
        print(f"aslpinn: {task.title}: {states[task.key]['error']}", file=sys.stderr)
    if not built:
        print(f"aslpinn: the book was not built; {out / 'logs' / 'site.log'} says why", file=sys.stderr)
    return 1 if failed or not built else 0


def summary(plan: Study, tasks: Sequence[Task], states: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What study.json holds."""
    settings = {k: v for k, v in asdict(plan).items() if k not in ("bids", "out", "force", "jobs")}
    record: dict[str, Any] = {
        "aslpinn": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {cores()} logical cores",
        "libraries": library_versions(),
        "settings": settings,
        "chapters": {},
        "subjects": {},
    }
    for task in tasks:
        state = dict(states[task.key])
        if task.kind == "subject":
            state |= {"dataset": task.dataset, "series": Path(task.series).name, "title": task.title}
        record[f"{task.kind}s"][task.key] = state
    return record


def write_virtual(folder: Path, fast: bool, seed: int, say: Callable[[str], None] = print) -> Path:
    """A BIDS data set of simulated volunteers, each with an anatomy, a perfusion and a noise of its own.

    Written again only where the code that simulates, or a setting, changed.
    """
    sources = sorted([*(PACKAGE / "data").glob("*.py"), *(PACKAGE / "physics").glob("*.py")])
    wanted = json.dumps([fast, seed, VIRTUAL_SUBJECTS, *(file_digest(path) for path in sources)])
    stamp = folder / ".stamp"
    with suppress(OSError):
        if stamp.read_text() == wanted and len(list(folder.glob("sub-*/perf/*_asl.nii.gz"))) == VIRTUAL_SUBJECTS:
            return folder
    from ..data import simulate, write_phantom

    say(f"simulating {VIRTUAL_SUBJECTS} volunteers")
    for number in range(1, VIRTUAL_SUBJECTS + 1):
        coarse: dict[str, Any] = {"voxel_size": (6.0, 6.0, 7.0)} if fast else {}
        phantom = simulate(seed=seed + number, volunteer=number, **coarse)
        write_phantom(phantom, folder, subject=f"virtual{number:02d}")
    write_atomic(stamp, wanted)
    return folder


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make OUT and refuse to run two studies in it at the same time, where the system has file locks."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        stream = (out / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); expected a folder for the study") from None
    with stream:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"{out}: another study is running there; name another folder with --out") from None
        yield


def add_arguments(parser: Any) -> None:
    """Declare the arguments of `aslpinn study` on an argparse parser."""
    parser.add_argument("study", nargs="?", type=Path, metavar="STUDY.toml", help="settings; options override it")
    parser.add_argument("--bids", action="append", type=Path, metavar="DIR", help="a BIDS data set; may be repeated")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for everything that is made (default: build)")
    parser.add_argument("-j", "--jobs", type=int, metavar="N", help="notebooks at a time (default: one a core)")
    parser.add_argument("--no-book", action="store_true", help="fit the subjects only: no chapter, no page")
    parser.add_argument("--virtual", action="store_true", help="the simulated volunteers too, besides --bids")
    parser.add_argument("--participant", action="append", metavar="LABEL", help="only this subject; may be repeated")
    parser.add_argument("--estimator", help="estimator of the subjects (default: pinn)")
    parser.add_argument("--preset", help="its preset: default, network or paper")
    parser.add_argument("--seed", type=int, help="seed of every random choice (default: 0)")
    parser.add_argument("--fast", action="store_true", help="short settings: minutes become seconds, numbers are worse")
    parser.add_argument("--force", action="store_true", help="run everything again")


def command(arguments: Any) -> int:
    """Run `aslpinn study` with parsed arguments; returns the exit code."""
    plan = read_study(arguments.study) if arguments.study else Study()
    changes: dict[str, Any] = {}
    if arguments.bids:
        changes["bids"] = tuple(arguments.bids)
    if arguments.participant:
        changes["participants"] = tuple(arguments.participant)
    for name in ("out", "jobs", "estimator", "preset", "seed"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    for name in ("virtual", "fast", "force"):
        if getattr(arguments, name):
            changes[name] = True
    if arguments.no_book:
        changes |= {"book": False, "chapters": False}
    plan = replace(plan, **changes)
    if plan.jobs < 0:
        raise InputError(f"-j is {plan.jobs}; expected 1 or more")
    return run_study(plan)
