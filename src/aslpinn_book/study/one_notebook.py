"""Run one notebook with papermill, in a kernel of its own: what it returns says whether it worked, and if not, why."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from aslpinn.files import write_atomic

#: Errors that name the machine (a full disk, a folder that cannot be written), not the input.
_MACHINE = re.compile(r"\b(OSError|PermissionError|MemoryError|FileNotFoundError)\b")
#: Errors that trying again may mend: memory, processes and time come back; a full disk or a missing file does not.
_PASSING = {
    "MemoryError",
    "TimeoutError",
    "BlockingIOError",
    "ConnectionError",
    "ConnectionResetError",
    "BrokenPipeError",
}
#: Seconds to wait for a kernel to start, and for an output once its cell has ended: what takes one or two here may take
#: minutes on a machine that does ten other things. A cell itself may take as long as it needs.
PATIENCE = 600
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
    with (section, cell, cells) before each cell; manager is the class that starts the kernel in folder, without it that
    of jupyter_client. Returns state, seconds, error (None or one message), input_error (whether mending the input is
    what it needs), passing (whether the machine failed in a way that trying again may mend) and traceback (None or
    text, for the log only).
    """
    import jupytext
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    start = time.monotonic()
    error = traceback = None
    input_error = passing = False
    try:
        node = jupytext.read(notebook)
        known = declared_parameters(node)
        _register_engine()
        # No output path: papermill would write the whole notebook before and after every cell. No cwd: papermill would
        # change this process's, and others run in it beside this one.
        executed = papermill.execute_notebook(
            node,
            None,
            parameters={name: value for name, value in parameters.items() if name in known},
            engine_name=_ENGINE,
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            start_timeout=PATIENCE,
            iopub_timeout=PATIENCE,
            tell=tell,
            resources={"metadata": {"path": str(folder)}},
            **({"kernel_manager_class": manager} if manager is not None else {}),
        )
        write_atomic(output, nbformat.writes(executed))
    except PapermillExecutionError as failure:
        traceback = "\n".join(failure.traceback)
        input_error = failure.ename.endswith(("InputError", "AcquisitionError")) and not _MACHINE.search(traceback)
        passing = failure.ename in _PASSING
        error = failure.evalue if failure.ename.endswith("InputError") else f"{failure.ename}: {failure.evalue}"
    except Exception as failure:  # a kernel that died, a notebook that cannot be read: named on the page as well
        passing = isinstance(failure, TimeoutError) or not isinstance(failure, OSError | ValueError | SyntaxError)
        died = type(failure).__name__ == "DeadKernelError"
        error = f"{type(failure).__name__}: {failure}".strip()
        if died:
            error = "the notebook's process ended early (out of memory, or stopped)"
    return {
        "state": "failed" if error else "done",
        "seconds": round(time.monotonic() - start, 2),
        "error": error,
        "input_error": input_error,
        "passing": passing,
        "traceback": traceback,
    }


@cache
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
