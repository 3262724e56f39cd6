"""The simulated volunteers of a study, written once as a BIDS data set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from aslpinn.files import write_atomic

from .notebooks import SOURCES, file_digest
from .plan import Study


def uses_virtual(plan: Study) -> bool:
    """Whether simulated volunteers are among the subjects."""
    return plan.virtual or not plan.bids


def write_virtual(folder: Path, plan: Study, say: Callable[[str], None] = print) -> Path:
    """A BIDS data set of simulated volunteers, each with an anatomy, a perfusion and a noise of its own.

    Written again only where the code that simulates, or a setting, changed; of several processes one writes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / ".virtual.lock")
    with suppress(OSError, NotImplementedError):  # a network file system without locks
        lock.acquire()
    try:
        return _write_virtual(folder, plan, say)
    finally:
        lock.release()


def _write_virtual(folder: Path, plan: Study, say: Callable[[str], None]) -> Path:
    sources = sorted(path for room in ("data", "physics") for path in (SOURCES / "aslpinn" / room).glob("*.py"))
    wanted = json.dumps([plan.fast, plan.seed, plan.volunteers, *(file_digest(path) for path in sources)])
    stamp = folder / ".stamp"
    with suppress(OSError):
        if stamp.read_text() == wanted and len(list(folder.glob("sub-*/perf/*_asl.nii.gz"))) == plan.volunteers:
            return folder
    from aslpinn.data import simulate, write_phantom

    say(f"simulating {plan.volunteers} volunteers")
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier study with more of them
    for number in range(1, plan.volunteers + 1):
        coarse: dict[str, Any] = {"voxel_size": (6.0, 6.0, 7.0)} if plan.fast else {}
        phantom = simulate(seed=plan.seed + number, volunteer=number, **coarse)
        write_phantom(phantom, folder, subject=f"virtual{number:02d}")
    write_atomic(stamp, wanted)
    return folder
