"""Virtual volunteers: Table 1's numbers are what they say, and a residual cannot see what an error sees."""

from __future__ import annotations

import csv
from dataclasses import asdict

import numpy as np
import pytest

from aslpinn import Estimate, InputError
from aslpinn_book.chapters import volunteers
from aslpinn_book.chapters.benchmark import Method

COARSE = (7.0, 7.0, 8.0)


@pytest.fixture(scope="module")
def rows():
    chosen = {name: volunteers.METHODS[name] for name in (volunteers.REFERENCE, "smoothed", "fine network")}
    return volunteers.study([1, 2], voxel_size=COARSE, methods=chosen)


def as_estimate(cbf, att, fitted):
    return Estimate(cbf=cbf, att=att, cbf_sd=None, att_sd=None, fitted=fitted, estimator="test")


def test_the_truth_has_the_noise_as_residual_and_as_held_out_error():
    case, other = volunteers.first_repeat(volunteers.volunteer_phantom(3, 1.5, COARSE))
    estimates = {
        volunteers.REFERENCE: as_estimate(case.cbf, case.att, case.clean),
        "data": as_estimate(case.cbf + 5 * case.mask, case.att, case.series),
    }
    found = {(row.method, row.region): row for row in volunteers.measure(case, other, estimates)}
    for region in volunteers.REGIONS:
        truth, data = found[volunteers.REFERENCE, region], found["data", region]
        assert truth.residual == pytest.approx(truth.noise, rel=0.06)
        assert truth.held_out == pytest.approx(truth.noise, rel=0.06)
        assert (truth.cbf_rmse, truth.ratio, truth.improved) == (0, 1, 0)
        assert data.residual == 0  # the data themselves fit best
        assert data.held_out == pytest.approx(np.sqrt(2) * data.noise, rel=0.06)  # and predict worst
        assert data.improved == 1
        assert data.improved_cbf == 0
        assert data.cbf_rmse == pytest.approx(5)


def test_a_network_that_follows_noise_wins_the_residual_and_loses_the_truth(rows):
    mean = {
        (method, value): volunteers.across(rows, method, "wm", value).mean()
        for method in ("fine network", "smoothed")
        for value in ("residual", "cbf_rmse", "held_out")
    }
    assert mean["fine network", "residual"] < mean["smoothed", "residual"]
    assert mean["fine network", "held_out"] > mean["smoothed", "held_out"]
    assert mean["fine network", "cbf_rmse"] > 1.3 * mean["smoothed", "cbf_rmse"]


def test_volunteers_differ_and_are_always_the_same(rows):
    first, second = volunteers.across(rows, "smoothed", "gm", "noise")
    assert first != second
    again = volunteers.study([2], voxel_size=COARSE, methods={volunteers.REFERENCE: Method("nlls")})
    assert volunteers.across(again, volunteers.REFERENCE, "gm", "noise")[0] == second
    assert volunteers.across(again, volunteers.REFERENCE, "gm", "ratio")[0] == 1


def test_what_is_missing_is_named(rows):
    with pytest.raises(InputError, match="nobody"):
        volunteers.across(rows, "nobody", "gm", "residual")
    case, other = volunteers.first_repeat(volunteers.volunteer_phantom(3, 1.5, COARSE))
    with pytest.raises(InputError, match=volunteers.REFERENCE):
        volunteers.measure(case, other, {"x": as_estimate(case.cbf, case.att, case.clean)})
    with pytest.raises(InputError, match="2 repeats"):
        volunteers.first_repeat(case)


def test_figures_have_a_symbol_a_volunteer(rows):
    names = (volunteers.REFERENCE, "smoothed")
    panel = {
        name: tuple(volunteers.across(rows, name, "gm", value) for value in ("residual", "cbf_rmse")) for name in names
    }
    drawn = volunteers.residual_against_error({"gray matter": panel}, ("residual", "error"))
    assert [len(line.get_xdata()) for line in drawn.axes[0].lines[:2]] == [2, 2]


def test_rows_of_a_stored_run_are_read_as_they_were_measured(rows, tmp_path):
    file = tmp_path / "volunteers.csv"
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    assert volunteers.read_rows(file) == rows


def test_tables_set_the_published_numbers_above_ours_and_the_smallest_error_in_bold():
    def row(volunteer, method, error):
        return volunteers.Row(volunteer, method, "gm", 0.4, 0.5, 0.45, error, error / 10, 1.1, 0.25, 0.75)

    rows = [row(n, volunteers.REFERENCE, 9.0 + n) for n in (1, 2, 3)] + [row(n, "default", 4.0) for n in (1, 2, 3)]
    told = volunteers.residual_table(rows, "gm").splitlines()
    assert "1.946" not in told[3]
    assert "0.691 ± 0.178 | 1.95 ± 0.81 | over 74" in told[3]
    assert told[4].startswith("| `vb-prior` | 0.400")
    assert "25 ±" in told[5]
    truth = volunteers.truth_table(rows, "gm").splitlines()
    assert truth[3].count("**") == 2 * 2  # CBF and ATT; the second scan is a tie, told once
    assert "**4.0 ±" in truth[3]
    assert "75 ±" in truth[3]
