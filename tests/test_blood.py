"""T1 of blood of each person: which value goes first, the formulas, what is refused, what is said."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aslpinn import InputError, load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import write_phantom
from aslpinn.maps.quality import blood_effect
from aslpinn.physics.blood import FORMULAS, t1_blood


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("blood") / "raw"
    return write_phantom(simulate("mpld6", voxel_size=(9.0, 9.0, 10.0)), root)[0]


@pytest.fixture
def table(raw: Path):
    """Write participants.tsv with columns and a row of sub-01."""
    file = raw.parents[2] / "participants.tsv"
    before = file.read_text() if file.is_file() else None

    def write(**values: object) -> None:
        head = "\t".join(["participant_id", *values])
        others = "\t".join(["sub-02", *("9" for _ in values)])
        file.write_text("\n".join([head, others, "\t".join(["sub-01", *map(str, values.values())])]) + "\n")

    yield write
    file.unlink(missing_ok=True)
    if before is not None:
        file.write_text(before)


def t1(asl: Path, **options: object) -> float:
    return load_subject(asl, **options).acquisition.constants.t1_blood


def test_the_formulas_are_those_of_the_papers() -> None:
    # Lu et al. 2004 say 1.664 +- 0.014 s at 0.42, from the fit itself rather than from its rounded coefficients
    assert t1_blood(0.42) == pytest.approx(1.664, abs=0.014)
    assert t1_blood(0.42) - t1_blood(0.30) == pytest.approx(1 / (0.52 * 0.42 + 0.38) - 1 / (0.52 * 0.30 + 0.38))
    for name in FORMULAS:  # less cells, longer T1
        assert t1_blood(0.30, formula=name) > t1_blood(0.42, formula=name) + 0.1
    assert t1_blood(0.42, formula="hales2016") - t1_blood(0.42) == pytest.approx(0.1, abs=0.02)
    assert t1_blood(0.42, 1.5, "hales2016") < t1_blood(0.42, 3.0, "hales2016") < t1_blood(0.42, 7.0, "hales2016")
    # Hales' against measurements in the carotid arteries of men and women (Li et al. 2017)
    assert t1_blood(0.45, formula="hales2016") == pytest.approx(1.785, abs=0.1)
    assert t1_blood(0.39, formula="hales2016") == pytest.approx(1.908, abs=0.12)


@pytest.mark.parametrize("value", [45, 0, 1.2, -0.4, 0.05, float("nan")])
def test_a_hematocrit_that_no_one_has_is_refused(value: float, raw: Path) -> None:
    with pytest.raises(InputError, match=r"hematocrit is .*expected a share"):
        t1_blood(value)
    with pytest.raises(InputError, match="hematocrit"):
        load_subject(raw, hematocrit=value)


def test_percent_is_named_and_fields_without_a_formula_are_refused(raw: Path, table, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in percent"):
        t1_blood(45)
    with pytest.raises(InputError, match=r"1.5 T is not known by formula lu2004; expected formula hales2016"):
        t1_blood(0.42, 1.5)
    with pytest.raises(InputError, match=r"9.4 T is not known"):
        t1_blood(0.42, 9.4, "hales2016")


def test_constant_before_hematocrit_before_the_columns_of_participants(raw: Path, table) -> None:
    assert t1(raw) == 1.65
    table(hematocrit=0.30)
    assert t1(raw) == pytest.approx(t1_blood(0.30))
    table(hematocrit=0.30, t1_blood=1.9)
    assert t1(raw) == 1.9
    assert t1(raw, hematocrit=0.5) == pytest.approx(t1_blood(0.5))
    assert t1(raw, constants={"t1_blood": 1.7}) == 1.7
    table(hematocrit="n/a", t1_blood="n/a")
    assert t1(raw) == 1.65
    with pytest.raises(InputError, match="both given"):
        load_subject(raw, hematocrit=0.5, constants={"t1_blood": 1.7})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"hematocrit": 45}, "percent"),
        ({"hematocrit": "high"}, "expected a number"),
        ({"t1_blood": 1650}, "expected 0.5 to 4 s"),
        ({"t1_blood": 0}, "expected 0.5 to 4 s"),
    ],
)
def test_wrong_values_of_participants_are_refused_by_name(values: dict, told: str, raw: Path, table) -> None:
    table(**values)
    with pytest.raises(InputError, match=r"participants\.tsv") as error:
        load_subject(raw)
    assert told in str(error.value)


def test_every_json_says_where_the_value_came_from_and_cbf_follows(raw: Path, tmp_path: Path, table) -> None:
    table(hematocrit=0.30)
    medians = {}
    for name, options in (
        ("own", []),
        ("given", ["--hematocrit", "0.42"]),
        ("hales", ["--blood-formula", "hales2016"]),
    ):
        out = tmp_path / name
        assert main(["fit", str(raw), "--out", str(out), "--estimator", "nlls", *options]) == 0
        about = json.loads((out / "sub-01" / "perf" / "sub-01_att.json").read_text())
        constant = about["Constants"]["t1_blood"]
        medians[name] = np.median(
            nib.load(out / "sub-01" / "perf" / "sub-01_cbf.nii.gz").get_fdata()[load_subject(raw).mask]
        )
        if name == "own":
            assert constant["Hematocrit"] == 0.30
            assert "participants.tsv" in constant["Source"]
            assert "Lu et al. 2004" in constant["Formula"]
            assert constant["Value"] == pytest.approx(1 / (0.52 * 0.3 + 0.38))
            assert any("participants.tsv" in source for source in about["Sources"])
        if name == "given":
            assert constant["Source"] == "hematocrit given"
    # the longer label lives, the less flow explains the same signal
    assert medians["hales"] < medians["own"] < medians["given"]
    subject = load_subject(raw)
    told = blood_effect(subject)
    assert "hematocrit of sub-01 in participants.tsv" in told
    assert "with 1.65 s CBF would be +" in told
    assert "hales2016" in told


def test_both_options_together_are_refused(raw: Path, tmp_path: Path, capsys) -> None:
    wrong = ["--hematocrit", "0.4", "--constant", "t1_blood=1.7"]
    assert main(["check", str(raw), *wrong]) == 2
    assert "both given" in capsys.readouterr().err
