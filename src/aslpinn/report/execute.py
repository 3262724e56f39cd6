"""Run one notebook with papermill: the unit of a study, in a process of its own.

    python -m aslpinn.report.execute JOB.json

JOB.json names the notebook (md:myst), its parameters, the folder it runs in, and where the executed notebook and the
result go. The result holds what happened: state "done" or "failed", seconds, peak memory, and the error in words.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


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
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def execute(notebook: Path, output: Path, parameters: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a notebook and write it, executed, to output; failing is a result, not an exception.

    Of the parameters only those are passed that the notebook declares in its cell tagged "parameters".
    Returns state, seconds, error (None or one message) and traceback (None or text, for the log only).
    """
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    start = time.monotonic()
    partial = output.with_name(f".{output.stem}.{os.getpid()}.part.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    error = traceback = None
    input_error = False
    try:
        node = jupytext.read(notebook)
        known = declared_parameters(node)
        papermill.execute_notebook(
            node,
            str(partial),
            parameters={name: value for name, value in parameters.items() if name in known},
            kernel_name="python3",
            cwd=str(folder),
            progress_bar=False,
            log_output=False,
        )
        os.replace(partial, output)
    except PapermillExecutionError as failure:
        input_error = failure.ename.endswith(("InputError", "AcquisitionError"))
        error = failure.evalue if input_error else f"{failure.ename}: {failure.evalue}"
        traceback = "\n".join(failure.traceback)
    except Exception as failure:  # a kernel that died, a notebook that cannot be read: named on the page as well
        error = f"{type(failure).__name__}: {failure}".strip()
    finally:
        partial.unlink(missing_ok=True)
    return {
        "state": "failed" if error else "done",
        "seconds": round(time.monotonic() - start, 2),
        "error": error,
        "input_error": input_error,
        "traceback": traceback,
    }


def peak_memory_mb() -> float | None:
    """Largest resident set of the kernel in MB, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def main(job_file: str) -> int:
    """Run the job that a JSON file describes and write its result beside it; 0 where it was done, 1 where it failed."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    result = execute(Path(job["notebook"]), Path(job["output"]), job["parameters"], Path(job["folder"]))
    result["peak_memory_mb"] = peak_memory_mb()
    write_atomic(Path(job["result"]), json.dumps(result, indent=1))
    return 0 if result["state"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
