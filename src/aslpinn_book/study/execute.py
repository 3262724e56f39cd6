"""Run one notebook with papermill: the unit of a study, in a process of its own.

    python -m aslpinn_book.study.execute JOB.json

JOB.json names the notebook (md:myst), its parameters, the folder it runs in, and where the executed notebook and the
result go. The result holds what happened: state "done" or "failed", seconds, peak memory, and the error in words.
Each line on stdout is JSON with the section of the notebook that begins. `aslpinn study --only KEY` makes the job file.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Names in a traceback that point to the machine (a full disk, a folder that cannot be written), not to the input.
_MACHINE = re.compile(r"\b(OSError|PermissionError|MemoryError|FileNotFoundError)\b")
_ENGINE = "aslpinn-stages"


def declared_parameters(notebook: Any) -> set[str]:
    """Names assigned in the cell tagged "parameters"."""
    names: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.id)
    return names


def write_atomic(path: Path, text: str) -> None:
    """Write under a temporary name in the same folder, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sections(notebook: Any) -> list[str]:
    """For each cell the heading above it, without markup."""
    found, heading = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#{1,3} +(.+)$", cell.source, flags=re.MULTILINE)
            heading = headings[-1].strip() if headings else heading
        found.append(heading)
    return found


def execute(
    notebook: Path,
    output: Path,
    parameters: dict[str, Any],
    folder: Path,
    tell: Callable[[str, int, int], None] | None = None,
    manager: type | None = None,
) -> dict[str, Any]:
    """Run a notebook and write it, executed, to output; failing is a result, not an exception.

    Of the parameters only those are passed that the notebook declares in its cell tagged "parameters"; tell is called
    with (section, cell, cells) before each cell; manager is the class that starts the kernel, jupyter_client's own
    without it. Returns state, seconds, error (None or one message), input_error (whether mending the input is what it
    needs) and traceback (None or text, for the log only).
    """
    import jupytext
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    start = time.monotonic()
    error = traceback = None
    input_error = False
    try:
        node = jupytext.read(notebook)
        known = declared_parameters(node)
        _register_engine()
        # No output path: papermill would write the whole notebook before and after every cell.
        executed = papermill.execute_notebook(
            node,
            None,
            parameters={name: value for name, value in parameters.items() if name in known},
            engine_name=_ENGINE,
            kernel_name="python3",
            cwd=str(folder),
            progress_bar=False,
            log_output=False,
            tell=tell,
            **({"kernel_manager_class": manager} if manager is not None else {}),
        )
        write_atomic(output, nbformat.writes(executed))
    except PapermillExecutionError as failure:
        traceback = "\n".join(failure.traceback)
        input_error = failure.ename.endswith(("InputError", "AcquisitionError")) and not _MACHINE.search(traceback)
        error = failure.evalue if failure.ename.endswith("InputError") else f"{failure.ename}: {failure.evalue}"
    except Exception as failure:  # a kernel that died, a notebook that cannot be read: named on the page as well
        error = f"{type(failure).__name__}: {failure}".strip()
    return {
        "state": "failed" if error else "done",
        "seconds": round(time.monotonic() - start, 2),
        "error": error,
        "input_error": input_error,
        "traceback": traceback,
    }


def _register_engine() -> None:
    """Papermill's own engine, telling which section begins."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Stages(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, tell: Any = None, **options: Any) -> Any:
            if tell is not None:
                names, begin = sections(nb_man.nb), nb_man.cell_start

                def cell_start(cell: Any, cell_index: int | None = None, **more: Any) -> None:
                    if cell_index is not None:
                        tell(names[cell_index], cell_index + 1, len(names))
                    begin(cell, cell_index, **more)

                nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register(_ENGINE, Stages)


def peak_memory_mb() -> float | None:
    """Largest resident set of the kernel in MB, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def _end_with_parent() -> None:
    """End when the study that started this process has gone (kill -9): its next run must not meet this one.

    The kernel watches its own parent in the same way.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def say_section(section: str, cell: int, cells: int) -> None:
    """Tell on stdout which section begins."""
    print(json.dumps({"section": section, "cell": cell, "cells": cells}), flush=True)


def main(job_file: str, tell: Callable[[str, int, int], None] = say_section, manager: type | None = None) -> int:
    """Run the job that a JSON file describes and write its result beside it; 0 where it was done, 1 where it failed.

    tell and manager: see execute.
    """
    _end_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)  # so that nbclient ends the kernel too
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    try:
        notebook, output, folder = (Path(job[name]) for name in ("notebook", "output", "folder"))
        result = execute(notebook, output, job["parameters"], folder, tell, manager)
    except KeyboardInterrupt:
        return 1
    result["peak_memory_mb"] = peak_memory_mb()
    result["cpu_seconds"] = round(sum(os.times()[:4]), 2)  # of this process and, since it has ended, of the kernel
    write_atomic(Path(job["result"]), json.dumps(result, indent=1))
    return 0 if result["state"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
