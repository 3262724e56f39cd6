"""Partial volume: gray and white matter apart, the bias by tissue share with and without, SDs, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aslpinn import Acquisition, Constants, InputError, fit, load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import write_phantom
from aslpinn.data.phantom.simulate import Phantom
from aslpinn.data.phantom.unkind import T1_WHITE, unkind
from aslpinn.maps.choices import check_choice
from aslpinn.maps.partial_volume import Window, corrected
from aslpinn.maps.regions import bias_of_mean, sd_of_mean
from aslpinn_book.study.plan import Study, check

SHAPE = (24, 24, 4)
ONE_T1 = Constants(t1_white=Constants.t1_tissue)  # as the phantom has it


@pytest.fixture
def shares(rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:-2, 2:-2] = True
    gm = rng.uniform(0, 1, SHAPE)
    return gm, (1 - gm) * rng.uniform(0.5, 1.0, SHAPE), mask


def test_tissues_of_constant_flow_are_found_exactly_whatever_their_shares(shares) -> None:
    gm, wm, mask = shares
    window = Window(gm, wm, mask)
    of_gm, of_wm = window.solve(60.0 * gm + 20.0 * wm)
    np.testing.assert_allclose(of_gm[window.given(0)], 60.0, rtol=1e-9)
    np.testing.assert_allclose(of_wm[window.given(1)], 20.0, rtol=1e-9)
    assert window.given(0).sum() > 0.8 * (mask & (gm > 0.1)).sum()
    assert not of_gm[~mask].any()
    # one tissue alone cannot be told apart from the other
    assert not Window(np.ones(SHAPE), np.zeros(SHAPE), mask).given(0).any()


def test_its_sd_is_the_scatter_over_noise(shares, rng) -> None:
    gm, wm, mask = shares
    window = Window(gm, wm, mask)
    sd = np.where(mask, 3.0 + 4.0 * gm, 0.0)
    draws = np.array([window.solve(sd * rng.standard_normal(SHAPE)) for _ in range(300)])
    for k, told in enumerate(window.sd(sd)):
        ratio = draws[:, k].std(axis=0)[window.given(k)] / told[window.given(k)]
        assert ratio.mean() == pytest.approx(1.0, abs=0.02)


def test_on_the_phantom_gray_matter_loses_its_bias_by_share() -> None:
    made = simulate("te7", voxel_size=(5.0, 5.0, 6.0), tsnr=8.0, seed=1)
    estimate = fit(made.series, made.mask, made.acquisition, estimator="nlls")
    window = Window(made.gm, made.wm, made.mask)
    of_gm, _ = window.solve(estimate.cbf)
    # The phantom's CBF is a mixture by shares, so that its own voxels of pure gray matter say what gray matter has.
    pure = np.median(made.cbf[made.mask & (made.gm > 0.9)])
    for low, high in ((0.3, 0.5), (0.5, 0.7)):
        part = window.given(0) & (made.gm >= low) & (made.gm < high)
        before, after = np.median(estimate.cbf[part]) / pure - 1, np.median(of_gm[part]) / pure - 1
        assert before < -0.15
        assert abs(after) < 0.5 * abs(before)


def test_linear_gives_two_maps_and_their_sds_and_is_refused_without_tissue(tmp_path: Path, capsys) -> None:
    asl = write_phantom(simulate("te7", voxel_size=(8.0, 8.0, 9.0), tsnr=3.0), tmp_path / "raw")[0]
    out = tmp_path / "out"
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "nlls", "--pvc", "linear"]) == 0
    perf = out / "sub-01" / "perf"
    subject = load_subject(asl)
    maps = {}
    for kind in (
        "label-GM_desc-pvc_cbf",
        "label-WM_desc-pvc_cbf",
        "label-GM_desc-pvcsd_cbf",
        "label-WM_desc-pvcsd_cbf",
    ):
        image = nib.load(perf / f"sub-01_{kind}.nii.gz")
        maps[kind] = image.get_fdata()
        assert image.shape == subject.mask.shape
        assert json.loads((perf / f"sub-01_{kind}.json").read_text())["Units"] == "ml/100g/min"
    gray, white = (maps[f"label-{name}_desc-pvc_cbf"] for name in ("GM", "WM"))
    assert np.median(gray[gray != 0]) > 1.5 * np.median(white[white != 0])
    assert "Asllani" in (perf / "sub-01_label-GM_desc-pvc_cbf.json").read_text()
    # a run without it takes the maps away
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "nlls"]) == 0
    assert not list(perf.glob("*pvc*"))
    capsys.readouterr()
    for wrong, told in (("field", "needs estimator field"), ("magic", "expected one of off, linear, field")):
        assert main(["fit", str(asl), "--out", str(tmp_path / "no"), "--estimator", "nlls", "--pvc", wrong]) == 2
        assert told in capsys.readouterr().err
    for file in (tmp_path / "raw").rglob("*probseg*"):
        file.unlink()
    assert main(["fit", str(asl), "--out", str(tmp_path / "no"), "--pvc", "linear"]) == 2
    assert "needs tissue maps" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_the_whole_model_of_two_tissues_runs_where_it_is_asked_for(tmp_path: Path) -> None:
    asl = write_phantom(simulate("te7", voxel_size=(9.0, 9.0, 10.0), tsnr=3.0), tmp_path / "raw")[0]
    perf = tmp_path / "out" / "sub-01" / "perf"
    for pvc, told in (("field", "apart"), ("off", "bias of means"), ("linear", "bias of means")):
        assert main(["fit", str(asl), "--out", str(tmp_path / "out"), "--pvc", pvc]) == 0
        assert json.loads((perf / "sub-01_cbf.json").read_text())["Settings"]["tissue"] == told
        assert (perf / "sub-01_label-WM_desc-pvcsd_cbf.nii.gz").is_file() == (pvc != "off")
        header, *lines = (perf / "sub-01_atlas-tissue_cbf.tsv").read_text().splitlines()
        assert all(float(line.split("\t")[header.split("\t").index("bias")]) != 0 for line in lines)


def test_draws_of_the_posterior_go_through_the_same_regression() -> None:
    made = simulate("te7", voxel_size=(9.0, 9.0, 10.0), tsnr=2.0, seed=2)
    estimate = fit(made.series, made.mask, made.acquisition, voxel_size=(9.0, 9.0, 10.0), members=4)

    class Person:
        tissue, mask, relative = {"gm": made.gm, "wm": made.wm}, made.mask, False

    found = corrected(Person(), estimate, "linear")
    window = Window(made.gm, made.wm, made.mask)
    volume = np.zeros((4, *made.mask.shape))
    volume[:, made.mask] = estimate.member_errors[:, 0]
    expected = np.sqrt(np.mean([window.solve(error)[0] ** 2 for error in volume], axis=0))
    np.testing.assert_allclose(found["label-GM_desc-pvcsd_cbf"][0], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def two_fields():
    """A phantom and its fit with the shares of its tissues."""
    made = simulate("te11", voxel_size=(7.0, 7.0, 8.0), tsnr=1.5, seed=0, constants=ONE_T1)
    tissue = {"gm": made.gm, "wm": made.wm}
    return made, fit(made.series, made.mask, made.acquisition, voxel_size=(7.0, 7.0, 8.0), guide=made.m0, tissue=tissue)


def true_of_tissue(made: Phantom) -> np.ndarray:
    """CBF of gray and of white matter (2, X, Y, Z) of a phantom.

    Its CBF is (f_GM p_GM + f_WM p_WM) times a smooth level, with one ratio of the two for the whole brain.
    """
    known = made.mask & (made.gm + made.wm > 0.5)
    design = np.stack([made.gm[known], made.wm[known]], axis=1)
    ratio = np.linalg.lstsq(design, made.cbf[known], rcond=None)[0]
    level = made.cbf / np.maximum(ratio[0] * made.gm + ratio[1] * made.wm, 1e-3)
    return ratio[:, None, None, None] * level


def test_two_fields_free_gray_matter_of_its_bias_by_share_and_tell_how_sure_they_are(two_fields) -> None:
    made, estimate = two_fields
    for k, share in enumerate((made.gm, made.wm)):
        part = made.mask & (share > 0.4) & (share < 0.7)
        truth = true_of_tissue(made)[k][part]
        error, sd = estimate.by_tissue[k][part] - truth, estimate.by_tissue[2 + k][part]
        assert abs(error.mean() / truth.mean()) < 0.06
        assert abs((estimate.cbf[part] - truth).mean() / truth.mean()) > 0.15  # of the whole voxel
        assert np.mean(np.abs(error) < 1.96 * sd) > 0.85


def test_white_matter_is_read_with_its_own_t1() -> None:
    """White matter of T1 0.85 s read as if it had 1.3 s seems to have too little flow; what else is said stays."""
    size = (7.0, 7.0, 8.0)
    made = unkind("tissue-t1", 4.0, voxel_size=size, protocol="te11", repeats=1)
    white = made.mask & (made.wm > 0.8)
    gray = made.mask & (made.gm > 0.6)
    true_gray, true_white = true_of_tissue(made)
    bias, off, found = {}, {}, {}
    for t1 in (Constants.t1_tissue, T1_WHITE):
        timing = made.acquisition
        own = Acquisition(timing.labeling_duration, timing.post_labeling_delay, constants=Constants(t1_white=t1))
        tissue = {"gm": made.gm, "wm": made.wm}
        found[t1] = fit(made.series, made.mask, own, voxel_size=size, guide=made.m0, tissue=tissue)
        gm, wm, _, sd = found[t1].by_tissue
        bias[t1] = wm[white].mean() / true_white[white].mean() - 1
        off[t1] = np.mean(np.abs(wm - true_white)[white] > 1.96 * sd[white])
        assert abs(gm[gray].mean() / true_gray[gray].mean() - 1) < 0.04
    one, own_t1 = found[Constants.t1_tissue], found[T1_WHITE]
    assert bias[Constants.t1_tissue] < -0.2
    assert abs(bias[T1_WHITE]) < 0.07
    assert off[T1_WHITE] < 0.1 < 0.5 < off[Constants.t1_tissue]
    # the map of a voxel and what is said of means, which have one T1 for all tissue, are not changed
    np.testing.assert_array_equal(one.cbf, own_t1.cbf)
    np.testing.assert_array_equal(one.offset, own_t1.offset)


def test_the_t1_of_white_matter_is_told_where_it_is_used_and_refused_elsewhere(tmp_path: Path, capsys) -> None:
    asl = write_phantom(simulate("te7", voxel_size=(12.0, 12.0, 12.0), tsnr=3.0), tmp_path / "raw")[0]
    given = ["--constant", "t1_white=0.9"]
    for method in ("off", "linear"):
        assert main(["fit", str(asl), "--out", str(tmp_path / "no"), "--pvc", method, *given]) == 2
        assert f"t1_white is given and --pvc is {method}; expected --pvc field" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert main(["fit", str(asl), "--out", str(tmp_path / "out"), "--pvc", "field", *given]) == 0
    perf = tmp_path / "out" / "sub-01" / "perf"
    told = json.loads((perf / "sub-01_label-WM_desc-pvc_cbf.json").read_text())["T1OfTissue"]
    assert (told["GM"]["Value"], told["WM"]["Value"], told["WM"]["Units"]) == (1.3, 0.9, "s")
    plain = json.loads((perf / "sub-01_cbf.json").read_text())  # of a voxel, which has one T1 for all tissue
    assert "T1OfTissue" not in plain
    assert "t1_white" not in plain["Constants"]
    with pytest.raises(InputError, match="t1_white is given and pvc is linear"):
        check(Study(constants={"t1_white": 0.9}, pvc="linear"))


@pytest.fixture(scope="module")
def one_step():
    """The same with one step of the two fields."""
    made = simulate("te11", voxel_size=(7.0, 7.0, 8.0), tsnr=1.5, seed=0, constants=ONE_T1)
    sizes, tissue = (7.0, 7.0, 8.0), {"gm": made.gm, "wm": made.wm}
    found = fit(made.series, made.mask, made.acquisition, voxel_size=sizes, guide=made.m0, tissue=tissue, apart=False)
    return made, found


@pytest.mark.parametrize("way", ["two_fields", "one_step"])
def test_the_model_of_two_tissues_says_by_how_much_the_map_s_means_are_off(way, request) -> None:
    made, estimate = request.getfixturevalue(way)
    for quantity, name in enumerate(("cbf", "att")):
        error = (getattr(estimate, name) - getattr(made, name))[made.mask]
        for region in (made.gm > 0.6, made.wm > 0.7):
            inside = region[made.mask]
            told = bias_of_mean(estimate, made.mask, region & made.mask)[quantity]
            assert abs(error[inside].mean()) < 2.5 * sd_of_mean(estimate, made.mask, region & made.mask)[quantity]
            if name == "cbf":
                spread = np.sqrt((estimate.member_errors[:, quantity][:, inside].mean(axis=1) ** 2).mean())
                assert abs(error[inside].mean() - told) < 3 * spread


def test_one_step_changes_no_map_and_its_bias_is_that_of_the_whole_model(two_fields, one_step) -> None:
    (made, whole), (_, once) = two_fields, one_step
    np.testing.assert_array_equal(once.cbf, whole.cbf)
    np.testing.assert_array_equal(once.att, whole.att)
    assert once.by_tissue is None
    for region in (made.mask, made.gm > 0.6, made.wm > 0.7, (made.gm > 0.3) & (made.wm > 0.3)):
        inside = region & made.mask
        (cbf, att), (cbf_once, att_once) = (bias_of_mean(e, made.mask, inside) for e in (whole, once))
        assert abs(cbf_once - cbf) < 0.5 * sd_of_mean(whole, made.mask, inside)[0]
        assert abs(att_once - att) < 0.01


def test_the_two_are_refused_where_they_cannot_be() -> None:
    made = simulate("te7", voxel_size=(12.0, 12.0, 12.0), tsnr=2.0)
    with pytest.raises(InputError, match="does not use tissue"):
        fit(made.series, made.mask, made.acquisition, estimator="nlls", tissue={"gm": made.gm, "wm": made.wm})
    with pytest.raises(InputError, match="expected gm and wm"):
        fit(made.series, made.mask, made.acquisition, voxel_size=(12.0, 12.0, 12.0), tissue={"gm": made.gm})
    with pytest.raises(InputError, match="needs estimator field"):
        check_choice("field", {}, "vb")
    with pytest.raises(InputError, match="needs tissue maps"):
        check_choice("field", None, "field")
