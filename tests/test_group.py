"""The group: rows from what the subjects measured, outliers by name, tables with links, figures from arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aslpinn import fit, load_subject, simulate
from aslpinn.data import write_phantom
from aslpinn.errors import InputError
from aslpinn_book.chapters import group, subject
from aslpinn_book.chapters.group import Member

ROOT = Path(__file__).resolve().parents[1]


def record(cbf: float, att: float = 1.2, **more) -> dict:
    row = {"voxels": 100, "cbf_median": cbf, "att_median": att, "residual": 4e-4}
    return {"regions": {"mask": row}, "quality": {"spatial_cov": 0.3}} | more


def people(*cbf: float, dataset: str = "a") -> list[Member]:
    return [Member(f"sub-{i:02d}", dataset, "done", measures=record(value)) for i, value in enumerate(cbf, 1)]


@given(
    arrays(np.float64, st.integers(3, 30), elements=st.floats(-1e3, 1e3)),
    st.floats(0.1, 10),
    st.floats(-100, 100),
)
@settings(max_examples=50, deadline=None)
def test_robust_z_has_median_zero_and_does_not_know_units(values, scale, shift):
    values = np.round(values, 3)
    z = group.robust_z(values)
    assert abs(np.median(z)) < 1e-9
    assert np.allclose(group.robust_z(scale * values + shift), z, rtol=1e-6, atol=1e-6)


def test_robust_z_of_normal_values_is_their_z_and_leaves_nan():
    values = np.random.default_rng(0).normal(50, 5, 20_000)
    values[0] = np.nan
    z = group.robust_z(values)
    assert np.isnan(z[0])
    assert np.nanstd(z) == pytest.approx(1, abs=0.02)
    assert np.all(group.robust_z(np.full(9, 3.0)) == 0)


def test_the_one_that_differs_is_named_and_small_groups_are_left_alone():
    members = people(48, 50, 52, 49, 51, 47, 53, 120)
    found = group.outliers(members)
    assert list(found) == ["sub-08"]
    told, value, z = found["sub-08"][0]
    assert (told, value) == ("CBF", 120.0)
    assert z > 15
    assert "[sub-08](/subjects/sub-08): CBF 120" in group.outliers_text(members)
    assert group.outliers(people(50, 51, 52, 200)) == {}
    assert "fewer than 8 subjects: a" in group.outliers_text(people(50, 51, 52, 200))


def test_data_sets_are_not_outliers_of_each_other():
    members = people(*range(46, 55)) + people(*range(96, 105), dataset="b")
    assert group.outliers(members) == {}


def test_the_failed_are_counted_and_linked_and_have_no_numbers():
    members = [*people(50, 51), Member("sub-07", "a", "failed", "no M0")]
    text = group.summary_text(members)
    assert "**3 series** (3 of a); 2 were fitted, **1 failed**: [sub-07](/subjects/sub-07)" in text
    table = group.subjects_table(members).splitlines()
    assert table[-1].startswith("| [sub-07](/subjects/sub-07) | a |")
    assert table[-1].endswith("failed |")
    assert "GM" not in table[0], "a column in which nobody has anything is left out"
    errors = group.errors_table(members).splitlines()
    assert "held-out" not in errors[0]
    assert len(errors) == 4, "who failed has no errors"
    assert len({line.count("|") for line in table}) == 1, "every row has as many cells as the head"
    assert np.isnan(members[-1].value("mask", "cbf_median"))


def test_comparison_states_ratio_and_improved_share():
    other = record(50)
    other["regions"]["mask"] |= {"residual": 8e-4, "improved": 0.75}
    members = [Member(f"sub-{i}", "a", "done", measures=record(50, compare={"vb": other})) for i in range(3)]
    table = group.comparison_table(members, "pinn").replace("\N{NO-BREAK SPACE}", " ")
    assert "| vb | brain mask | 4.00 ± 0.00 | 8.00 ± 0.00 | 0.50 ± 0.00 | 75.00 ± 0.00 % |" in table
    assert group.comparison_table(people(50, 51), "pinn") == ""
    noisier = record(50, compare={"vb": other})
    noisier["regions"]["mask"] |= {"residual": 40e-4}
    table = group.comparison_table([*members, Member("sub-9", "b", "done", measures=noisier)], "pinn")
    table = table.replace("\N{NO-BREAK SPACE}", " ")
    assert "| a | vb | brain mask | 4.00 ± 0.00 |" in table
    assert "| b | vb | brain mask | 40.00 |" in table


def test_what_is_outside_its_usual_range_is_listed_with_whose_it_is():
    members = [*people(50, 51), Member("sub-07", "a", "done", measures=record(50), flags=("qei", "gm_cbf"))]
    assert group.flags_text(members).splitlines() == [
        "- quality index, 1 of 3: [sub-07](/subjects/sub-07)",
        "- CBF of gray matter, 1 of 3: [sub-07](/subjects/sub-07)",
    ]
    assert "quality index, CBF of gray matter |" in group.errors_table(members)
    assert group.flags_text(people(50)) == "Every measure of every subject lies in its usual range."


def test_flags_are_called_by_the_names_that_quality_gives_them():
    from aslpinn.maps import quality as qc

    assert set(group.FLAGS) == set(qc.THRESHOLDS)


def test_group_is_read_from_the_file_of_the_study(tmp_path):
    rows = [
        {
            "key": "sub-01",
            "dataset": "a",
            "state": "done",
            "error": None,
            "seconds": 3.0,
            "measures": "one.json",
            "quality": "qc.json",
        },
        {"key": "sub-02", "dataset": "a", "state": "failed", "error": "no", "seconds": None, "measures": None},
        {"key": "sub-03", "dataset": "a", "state": "done", "error": None, "seconds": 3.0, "measures": "none.json"},
    ]
    (tmp_path / "one.json").write_text(json.dumps(record(44)))
    (tmp_path / "qc.json").write_text(json.dumps({"Flags": ["qei"]}))
    (tmp_path / "subjects.json").write_text(json.dumps({"estimator": "pinn:default", "subjects": rows}))
    estimator, members = group.read_group(tmp_path / "subjects.json")
    assert estimator == "pinn:default"
    assert [member.done for member in members] == [True, False, False]
    assert members[0].value("mask", "cbf_median") == 44
    assert [member.flags for member in members] == [("qei",), (), ()]
    with pytest.raises(InputError, match="expected the list of subjects"):
        group.read_group(tmp_path / "one.json")


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    phantom = simulate("mpld6", tsnr=3.0, voxel_size=(9.0, 9.0, 10.0))
    return load_subject(write_phantom(phantom, tmp_path_factory.mktemp("data"))[0])


def test_measures_are_those_of_the_maps(person):
    options = {"estimator": "nlls"}
    estimate = fit(person.series, person.mask, person.acquisition, **options)
    numbers = subject.measure_subject(person, estimate, options)
    row = numbers["regions"]["mask"]
    assert row["cbf_median"] == pytest.approx(np.median(estimate.cbf[person.mask]))
    assert row["cbf_q1"] < row["cbf_median"] < row["cbf_q3"]
    assert numbers["regions"]["gm"]["cbf_median"] > numbers["regions"]["wm"]["cbf_median"]
    index = person.acquisition.distinct[1]
    difference = (person.series - estimate.fitted[..., index])[person.mask]
    assert row["residual"] == pytest.approx(np.sqrt(np.mean(difference.astype(float) ** 2)), rel=1e-6)
    # Repeats: a model of two numbers averages the noise of six delays, so it predicts better than the half itself does.
    assert len(index) > len(set(index))
    assert numbers["held_out"]["fit"] < numbers["held_out"]["half"]
    # Two numbers fitted to the means of six delays leave four sixths of their variance.
    assert numbers["quality"]["noise_ratio"] == pytest.approx(np.sqrt(4 / 6), abs=0.1)


def test_halves_hold_every_delay_and_share_no_volume(person):
    odd, even = subject.halves(person)
    index = person.acquisition.distinct[1]
    assert not set(odd) & set(even)
    assert len(odd) + len(even) == len(index)
    assert set(index[odd]) == set(index[even]) == set(index)


def test_figures_of_a_group_take_arrays_and_name_only_the_marked():
    values = np.array([40.0, 50.0, np.nan, 60.0])
    names = {"a": ["sub-01", "sub-02", "sub-03", "sub-04"]}
    figure = group.subject_values({"CBF (ml/100g/min)": {"a": values}}, names, ["sub-04"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["sub-04"]
    assert axes.get_ylim()[0] == 0
    figure = group.subject_values({"CBF (ml/100g/min)": {"a": values, "b": np.full(2, np.nan)}})
    assert len(figure.axes[0].get_xticks()) == 1, "a column without numbers is left out"
    figure = group.paired(values, {"vb": values + 1}, "residual", "pinn")
    assert figure.axes[0].get_xlabel() == "residual, other estimator"
    low, high = figure.axes[0].get_xlim()
    assert low < 40.0
    assert high > 61.0


def test_a_subject_without_tissue_maps_keeps_its_numbers_beside_others_that_have_them():
    with_tissue = record(40)
    with_tissue["regions"] |= {"gm": record(60)["regions"]["mask"], "wm": record(20)["regions"]["mask"]}
    members = [Member("sub-01", "a", "done", measures=with_tissue), *people(45.9, dataset="b")]
    assert group.shown_in(members[:1]) == ["gm", "wm"]
    assert group.shown_in(members[1:]) == ["mask"]
    head, _, first, second = group.subjects_table(members).splitlines()
    assert "CBF mask" in head
    assert "60.0" in first
    assert "45.9" in second


def test_points_near_the_largest_value_lie_inside_the_frame():
    figure = group.subject_values({"ATT (s)": {"a": np.array([1.26, 1.28, 1.39])}})
    assert figure.axes[0].get_ylim()[1] > 1.02 * 1.39


@pytest.mark.slow
def test_the_group_notebook_reads_without_a_study(tmp_path):
    from aslpinn_book.study.one_notebook import execute

    state = execute(ROOT / "notebooks" / "group.md", tmp_path / "group.ipynb", {"fast": True}, tmp_path)
    assert state["error"] is None
    text = (tmp_path / "group.ipynb").read_text()
    assert text.count('"image/svg+xml"') >= 2
    assert "none failed" in text


def test_a_damaged_map_is_told_and_does_not_keep_the_others_from_being_drawn(tmp_path, capsys):
    import gzip

    import nibabel as nib

    whole = nib.Nifti1Image(np.ones((4, 4, 3), np.float32), np.eye(4))
    contents = {"whole": gzip.compress(whole.to_bytes()), "text": b"no map", "empty": b""}
    contents["cut"] = contents["whole"][:-20]
    for name, content in contents.items():
        (tmp_path / f"{name}_cbf.nii.gz").write_bytes(content)
    members = [Member(name, "a", "done", maps={"cbf": tmp_path / f"{name}_cbf.nii.gz"}) for name in contents]
    slices, _ = group.middle_slices(members)
    assert list(slices) == ["whole"]
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["text", "empty", "cut"]
