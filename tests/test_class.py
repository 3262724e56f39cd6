"""The teaching notebooks: they run with empty cells, and their solutions give what their text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import torch

from aslpinn import Acquisition
from aslpinn.errors import FitError
from aslpinn.physics import delta_m_ode
from aslpinn_book.chapters import class_kinetics, class_losses, classroom

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("class-kinetics", "class-losses")
EMPTY = re.compile(r"^ *return None$|= \.\.\.", re.MULTILINE)
SOLUTION = re.compile(r"~~~python\n(.*?)~~~", re.DOTALL)
EXPECTED = re.compile(r"^\| `([^`]+)`[^|]*\| *([-\d.]+) *\| *([-\d.]+) *\|$", re.MULTILINE)


def cells(name: str) -> list[Any]:
    return jupytext.read(ROOT / "notebooks" / f"{name}.md").cells


def run(name: str, solve: bool) -> dict[str, Any]:
    """Run the cells of a notebook, short settings with empty tasks, its own settings with the solutions."""
    space: dict[str, Any] = {}
    listed = cells(name)
    tasks = [k for k, cell in enumerate(listed) if cell.cell_type == "code" and EMPTY.search(cell.source)]
    given = {}
    for k, cell in enumerate(listed):
        if cell.cell_type == "markdown" and (found := SOLUTION.search(cell.source)):
            given[max(task for task in tasks if task < k)] = found[1]
    assert sorted(given) == tasks, "every task has one solution below it"
    for k, cell in enumerate(listed):
        if cell.cell_type == "code":
            source = cell.source.replace("fast = False", f"fast = {not solve}")
            exec(compile(source, f"{name}, cell {k}", "exec"), space)
            if solve and k in given:
                exec(compile(given[k], f"{name}, solution in cell {k}", "exec"), space)
    return space


@pytest.mark.slow
def test_a_page_with_empty_cells_runs_and_says_so(capsys):
    run("class-kinetics", solve=False)  # the other one runs like this in the book's own tests
    tasks = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Task")]
    assert len(tasks) >= 7
    assert all("not written yet" in line for line in tasks)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_solutions_are_right_and_give_what_the_text_says(name, capsys):
    space = run(name, solve=True)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Task")]
    assert said
    assert all(line.endswith("right.") and "not" not in line for line in said), said
    checked = 0
    for cell in cells(name):
        if cell.cell_type == "markdown":
            for expression, low, high in EXPECTED.findall(cell.source):
                value = float(eval(expression, space))
                assert float(low) <= value <= float(high), f"{expression} is {value}, the text says {low} to {high}"
                checked += 1
    assert checked >= 5


@pytest.mark.parametrize(
    ("mine", "says"),
    [
        (None, "not written yet"),
        (..., "not written yet"),
        (3.0, "right."),
        (2.9, "not yet right, found 2.9, expected 3"),
        (float("nan"), "not yet right"),
        ([3.0, 3.0], "shape (2,), expected ()"),
        ("three", "stops with ValueError"),
    ],
)
def test_an_answer_is_judged_without_stopping_the_page(mine, says, capsys):
    kept = classroom.solved("Task 9", mine, 3.0)
    assert kept == 3.0
    assert says in capsys.readouterr().out


def test_a_students_function_is_kept_only_where_it_is_right(capsys):
    def right(x):
        return x**2

    def wrong(x):
        return x

    def broken(x):
        raise ZeroDivisionError("oops")

    reference = np.square
    x = (np.arange(5.0),)
    assert classroom.solved("Task 1", right, reference, x) is right
    assert classroom.solved("Task 1", wrong, reference, x) is reference
    assert classroom.solved("Task 1", broken, reference, x) is reference
    assert "ZeroDivisionError: oops" in capsys.readouterr().out


def test_bounds_of_a_plan_scale_with_noise_and_scan_time():
    delays = [0.4, 1.0, 1.6]
    one = np.array(class_kinetics.Budget().bounds(delays))
    np.testing.assert_allclose(class_kinetics.Budget(noise=0.004).bounds(delays), 2 * one)
    np.testing.assert_allclose(class_kinetics.Budget(scan=1200.0).bounds(delays), one / 2)
    assert class_kinetics.Budget().bounds([1.0]) == (np.inf, np.inf)


def lesson_of_noise():
    shape = (6, 6, 2)
    timing = Acquisition([0.6] * 5, [0.1, 0.7, 1.3, 1.9, 2.5])
    series = np.random.default_rng(0).normal(1e-3, 1e-4, (*shape, len(timing)))
    return class_losses.Lesson(series, np.ones(shape), timing, (3.0, 3.0, 7.0))


def test_a_loss_that_is_not_finite_stops_the_training():
    networks = (lesson := lesson_of_noise()).networks()
    with pytest.raises(FitError, match="step 1"):
        class_losses.train(networks, lambda _: networks.encoding.table.sum() * np.nan, lesson.optimizer(networks, 2), 2)


def test_the_residual_and_the_signal_of_the_lesson_are_the_cores():
    lesson = lesson_of_noise()
    cbf, att = torch.tensor([[30.0], [70.0]]), torch.tensor([[0.7], [1.4]])
    _, t = lesson.draw(2)
    fitted, slope = torch.rand(t.shape), torch.rand(t.shape)
    for edge, width in ((class_losses.step, 0.0), (class_losses.soft_step, 0.05)):
        given = (lesson.inflow(cbf, att), lesson.decay(cbf), att, lesson.tau, t, edge)
        found = class_losses.residual(slope, fitted, *given)
        p = delta_m_ode(fitted / lesson.scale, cbf, att, t - lesson.tau, lesson.tau, edge_width=width) * lesson.scale
        assert torch.allclose(found, slope - p, atol=1e-4)
    s = class_losses.slope_of(lambda t: lesson.buxton(cbf, att, t), t)
    off = class_losses.residual(s, lesson.buxton(cbf, att, t), *given[:-1], class_losses.step)
    assert off.detach().abs().median() < 1e-5, "Buxton's solution obeys the equation"


def test_a_derivative_that_cannot_be_differentiated_again_is_not_right(capsys):
    def once(f, t):
        t = t.detach().requires_grad_()
        return torch.autograd.grad(f(t).sum(), t)[0]

    assert class_losses.solved_slope("Task 2", once) is class_losses.slope_of
    assert "Task 2: stops with" in capsys.readouterr().out
    assert class_losses.solved_slope("Task 2", lambda f, t: None) is class_losses.slope_of
    mine = class_losses.slope_of
    assert class_losses.solved_slope("Task 2", mine) is mine
    assert capsys.readouterr().out.endswith("Task 2: right.\n")
