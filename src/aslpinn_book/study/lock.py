"""One study at a time in a folder."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aslpinn.errors import InputError

#: What is in these folders of OUT is removed when they are made anew.
REMADE = ("site", "stage", "virtual")
LOCK = ".lock"


def _require_own(out: Path) -> None:
    """InputError where OUT, in which no study has run, holds something that a study would remove."""
    if (out / LOCK).exists() or (out / "study.json").exists():
        return
    for name in REMADE:
        if any((out / name).glob("*")):
            raise InputError(
                f"{out / name}: is there already, and no study made it; expected an --out without {', '.join(REMADE)}"
            )


@contextmanager
def locked(out: Path, shared: bool = False) -> Iterator[None]:
    """Make OUT and refuse to run two studies in it at the same time, where the system has file locks.

    Processes that each run subjects of their own (shared) exclude whole studies, not each other.
    """
    from filelock import ReadWriteLock, Timeout

    _require_own(out)
    with contextlib.ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = ReadWriteLock(out / LOCK, blocking=False, is_singleton=False)
            held.enter_context(lock.read_lock() if shared else lock.write_lock())
        except Timeout:
            raise InputError(f"{out}: another study is running there; name another folder with --out") from None
        except sqlite3.Error:  # a network file system without locks
            print(f"note: {out} has no file locks; nothing keeps two studies apart there", file=sys.stderr)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror}); expected a folder for the study") from None
        yield
