"""Files that are written whole or not at all, one or many together, by several processes side by side."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .errors import InputError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write under a temporary name in the same folder, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


#: How often a folder is made again that vanished between two calls; another process went on each time.
_TRIES = 100


@contextmanager
def staging(out: Path, keep: bool = True) -> Iterator[Path]:
    """A temporary folder inside OUT, removed at the end; on an error OUT and its parents go too, if made for it.

    What a run that was killed left of its own is swept. An error of the file system names OUT where it names no file.
    """
    missing: list[Path] = []
    done = False
    made: Path | None = None
    with ExitStack() as held:
        try:
            try:
                missing = [folder for folder in (out, *out.absolute().parents) if not folder.exists()]
                made = _folder_inside(out)
            except OSError as error:
                raise InputError(
                    f"{out}: cannot be written to ({error.strerror}); expected a writable folder for the output"
                ) from error
            held.callback(os.close, _hold(made))
            _sweep(out, made)
            try:
                yield made
            except OSError as error:
                if error.filename is None and error.errno is not None:
                    raise OSError(error.errno, error.strerror, str(out)) from error
                raise
            done = keep
        finally:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            if not done:
                for folder in missing:
                    try:
                        folder.rmdir()
                    except OSError:  # not empty, or never made: someone else's, or nothing to undo
                        break


#: How a temporary folder's name begins, and after how many s without a lock one counts as left.
_SCRATCH, _ABANDONED = ".aslpinn-", 86_400.0


def _hold(folder: Path) -> int:
    """A descriptor of a folder that keeps a lock on it as long as this process lives, where the system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def _sweep(out: Path, own: Path) -> None:
    """Remove temporary folders of runs that were killed: nobody holds their lock, and they are not just being made."""
    for folder in out.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            if folder == own or not folder.is_dir():
                continue
            age = time.time() - folder.stat().st_mtime
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left = age > 1.0  # between its making and its lock
            except BlockingIOError:
                continue
            except (ImportError, OSError):
                left = age > _ABANDONED
            finally:
                os.close(descriptor)
            if left:
                shutil.rmtree(folder, ignore_errors=True)


def commit(files: Mapping[Path, Path], scratch: Path, old: Sequence[Path] = ()) -> None:
    """Move files into place, in order, and old ones away before: all of it, or nothing where a step fails.

    A signal waits until it is done. Where the process is killed in between, no file of before stands beside a new one.
    """
    aside = scratch / "before"
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    with _undisturbed():
        try:
            for place in dict.fromkeys([*old, *files.values()]):
                if place.is_symlink() or place.exists():
                    kept = aside / str(len(moved))
                    os.replace(place, kept)
                    moved.append((kept, place))
            for file, place in files.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
                placed.append(place)
        except BaseException:
            for place in placed:
                place.unlink(missing_ok=True)
            for kept, place in reversed(moved):
                os.replace(kept, place)
            raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C and the end of a job's time wait, where signals can be held back."""
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    except AttributeError:  # Windows
        yield
        return
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _folder_inside(out: Path) -> Path:
    """A new folder in OUT, which is made where missing, also where another process removes its own empty OUT."""
    tries = 0
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=out))
        except (FileNotFoundError, FileExistsError):  # gone before mkdtemp, or after mkdir had found it
            tries += 1
            if tries == _TRIES:
                raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, where the system has one: subjects that are fitted side by side share its files.

    On NFS, which locks no folder, a file .lock in it takes its place.
    """
    with ExitStack() as held:
        with suppress(ImportError):  # Windows
            import fcntl

            for place, how in ((folder, os.O_RDONLY), (folder / ".lock", os.O_RDWR | os.O_CREAT)):
                with suppress(OSError):
                    descriptor = os.open(place, how, 0o666)
                    held.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    break
        yield
