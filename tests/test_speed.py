"""What is said of time and memory: expectations, progress, imports, compiled code, and the measurements themselves."""

from __future__ import annotations

import ast
import io
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aslpinn
from aslpinn.errors import InputError
from aslpinn.progress import ProgressReport
from aslpinn_book.chapters import speed

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "matplotlib", "nilearn", "SimpleITK", "pandas", "jupytext", "papermill", "scipy.stats"}


def test_an_exponent_is_the_slope_of_the_large_sizes():
    sizes = np.array([1e3, 1e4, 1e5, 1e6])
    assert speed.exponent(sizes, 3e-6 * sizes**1.2) == pytest.approx(1.2)
    assert speed.exponent(sizes, 100 + 1e-2 * sizes) > 0.85  # start-up bends the curve at small sizes only
    assert math.isnan(speed.exponent([5.0], [1.0]))


def test_rows_come_back_from_the_csv_as_they_were(tmp_path):
    common = {"voxels": 1000, "threads": 2}
    rows = [
        {"case": "voxels", "estimator": "field", **common, "delays": 11, "seconds": 1.5, "peak_mb": 200.0},
        {"case": "step pointwise", "estimator": "fused", **common, "levels": 16, "seconds": 0.005},
    ]
    seen: list[Any] = []
    speed.write_rows(tmp_path / "deep" / "speed.csv", rows, seen.append)
    assert seen == rows
    read = speed.read_rows(tmp_path / "deep" / "speed.csv")
    assert [{k: v for k, v in row.items() if v is not None} for row in read] == rows
    (tmp_path / "bad.csv").write_text("case,seconds\nvoxels,1\n")
    with pytest.raises(InputError, match="has no column delays"):
        speed.read_rows(tmp_path / "bad.csv")
    with pytest.raises(InputError, match="no such file"):
        speed.read_rows(tmp_path / "absent.csv")


def phantom(name: str, seconds: float, peak: float = 500.0, threads: int = 2) -> dict[str, Any]:
    return {
        "case": "phantom", "estimator": name, "voxels": 29804, "delays": 11, "threads": threads,
        "seconds": seconds, "peak_mb": peak,
    }  # fmt: skip


def test_limits_are_ratios_of_the_same_run_and_threads():
    rows = [phantom("grid", 9.0, threads=1), phantom("grid", 1.5), phantom("field", 12.3), phantom("pinn-single", 4.5)]
    rows += [
        {"case": "step pointwise", "estimator": name, "threads": 2, "seconds": value}
        for name, value in (("naive", 0.3), ("fused", 0.01))
    ]
    rows += [
        {"case": "voxels", "estimator": "field", "voxels": n, "threads": 2, "seconds": s, "peak_mb": m}
        for n, s, m in ((29804, 6.0, 300.0), (1_000_000, 120.0, 7000.0))
    ]
    found = {limit.what: limit for limit in speed.limits(rows)}
    assert found["field / grid fit"].found == pytest.approx(8.2)
    assert not found["field / grid fit"].kept
    assert found["pinn-single / grid fit"].kept
    assert not found["plain autograd / paper's step"].kept  # 30 times, and at least 35 are promised
    assert found["a million voxels / 29,804"].found == pytest.approx(20)
    assert not found["peak memory of a million voxels (GB)"].kept
    assert speed.limits(rows[:1]) == []


def test_figures_show_exponents_and_ratios():
    sizes = np.array([1e3, 1e4, 1e5])
    found = {"field": (sizes, sizes**0.9), "grid": (sizes, 0.1 * sizes)}
    drawn = speed.scaling({("voxels", "time"): found}, relative_to=("grid", 1e5))
    texts = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert texts == ["field, exponent 0.90", "grid, exponent 1.00"]
    assert drawn.axes[0].lines[1].get_ydata()[-1] == pytest.approx(1)
    bars = speed.step_ratios({"naive": 0.3, "fused": 0.006}, "fused")
    assert [text.get_text() for text in bars.axes[0].texts] == ["50", "1"]


def test_progress_is_a_bar_with_time_left_on_a_terminal_and_lines_elsewhere(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, expected in ((Terminal(), "2/4"), (io.StringIO(), "  50 % half")):
        monkeypatch.setattr(sys, "stderr", stream)
        with ProgressReport() as progress:
            progress(0, 4, "begin")
            time.sleep(0.15)
            progress(2, 4, "half")
            time.sleep(0.15)
            progress(4, 4, "done")
        assert expected in stream.getvalue()
        assert ("<00:0" in stream.getvalue()) == stream.isatty()  # tqdm writes passed<left


def test_the_time_left_is_said_once_the_first_step_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressReport() as progress:
        progress(0, 1000, "begin")
        progress.begun -= 12.0
        progress(1, 1000, "first")
        progress(2, 1000, "second")
    first, second = sys.stderr.getvalue().splitlines()
    assert first == "    0 % begin"
    assert second == "    0 % first, about 3.3 h left"


def test_fits_without_autograd_and_check_load_nothing_that_they_do_not_need(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom aslpinn.cli import main\n"
        "assert main(['check', sys.argv[1]]) == 0\nafter_check = set(sys.modules)\n"
        "assert main(['fit', sys.argv[1], '--out', sys.argv[2], '--members', '2']) == 0\n"
        "closed_form = ['--estimator', 'pinn', '--objective', 'closed-form', '--members', '1', '--epochs', '1']\n"
        "assert main(['fit', sys.argv[1], '--out', sys.argv[2], *closed_form]) == 0\n"
        "paper = ['--estimator', 'pinn', '--preset', 'paper', '--epochs', '1']\n"
        "assert main(['fit', sys.argv[1], '--out', sys.argv[2], *paper]) == 0\n"
        f"heavy = {HEAVY!r}\n"
        "print(sorted(heavy & after_check), sorted(heavy & set(sys.modules)), 'numba' in after_check)"
    )
    brain = aslpinn.simulate("te7", voxel_size=(8.0, 8.0, 14.0))
    from aslpinn.data import write_phantom

    series = write_phantom(brain, tmp_path / "raw", subject="01")[0]
    command = [sys.executable, "-c", code, str(series), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("[] []")
    assert "100 %" in done.stderr


def test_compiled_loops_are_kept_on_disk_and_do_not_spin_threads():
    found = 0
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and "njit" in ast.unparse(decorator.func):
                    options = {item.arg: getattr(item.value, "value", None) for item in decorator.keywords}
                    where = f"{path.name}: {getattr(node, 'name', '')}"
                    assert options.get("cache") is True or None in options, where  # None: options of a shared dict
                    assert not options.get("parallel"), where
                    found += 1
    assert found > 20


COMPILED = """
import sys
from importlib import import_module
from numba.core.dispatcher import Dispatcher
from aslpinn_book import compile_loops
sys.argv = ["compile_loops", "networks"]; compile_loops.main()
sys.argv = ["compile_loops", "voxels"]; compile_loops.main()
for name in sys.modules.copy():
    if name.startswith("aslpinn."):
        for key, value in vars(sys.modules[name]).items():
            if isinstance(value, Dispatcher) and value.py_func.__module__ == name and not value.overloads:
                print(name, key)
"""


def test_setup_compiles_every_loop_that_python_calls():
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=True)
    unused = {line.split()[1] for line in done.stdout.splitlines()}
    called = {"gradients", "weights_step", "table_gradient_step", "hash_corners", "gather", "explain_voxels"}
    called |= {"fit_voxels", "sweep", "grid_start", "sigma_point_sums", "shifted_sums", "ball_sums", "linear", "cubic"}
    assert not unused & called


@pytest.mark.slow
def test_the_benchmark_measures_steps_and_draws_them(tmp_path):
    name = ROOT / "benchmarks" / "speed.py"
    command = [sys.executable, str(name), "--quick", "--only", "levels", "--out", str(tmp_path / "speed.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = speed.read_rows(tmp_path / "speed.csv")
    steps = speed.curves(rows, "step by levels", "levels")
    assert set(steps) == {"torch", "fused"}
    assert np.all(steps["fused"][1] < steps["torch"][1])
    assert (tmp_path / "speed-step-by-levels.png").stat().st_size > 10_000
