"""Motion, outliers, calibration and tissue maps as load_subject and the command line apply them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_motion import moved

from aslpinn import Acquisition, InputError, fit, load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import write_phantom
from aslpinn.data.calibration import reference_region, smooth_m0
from aslpinn.data.outliers import find_outliers
from aslpinn.physics import Constants


def disturb(asl: Path, change) -> None:
    image = nib.load(asl)
    data = change(image.get_fdata(dtype=np.float32))
    nib.save(nib.Nifti1Image(data.astype(np.float32), image.affine, image.header), asl)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    phantom = simulate("te7", tsnr=1.5, seed=2, voxel_size=(4.0, 4.0, 5.0))
    return write_phantom(phantom, tmp_path_factory.mktemp("still"), encoded=True)[0]


def test_a_still_head_is_left_where_it_is(encoded: Path) -> None:
    subject = load_subject(encoded)
    assert subject.motion is None
    assert any(step.startswith("motion: none to correct") for step in subject.provenance["steps"])
    np.testing.assert_array_equal(subject.series, load_subject(encoded, motion="off").series)


@pytest.mark.slow
def test_a_moved_head_is_brought_back_and_its_perfusion_with_it(encoded: Path, tmp_path: Path, capsys) -> None:
    phantom = simulate("te7", tsnr=1.5, seed=2, voxel_size=(4.0, 4.0, 5.0))
    asl = write_phantom(phantom, tmp_path / "moved", encoded=True)[0]
    rng = np.random.default_rng(8)
    truth = rng.uniform(-3, 3, (8, 6))
    disturb(asl, lambda data: np.stack([moved(data[..., v], phantom.affine, truth[v]) for v in range(8)], axis=-1))
    out = tmp_path / "out"
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "smoothed"]) == 0
    perf = out / "sub-01" / "perf"
    rows = np.genfromtxt(perf / "sub-01_desc-motion_timeseries.tsv", names=True)
    found = np.stack([rows[name] for name in rows.dtype.names[:6]], axis=-1)
    assert np.abs(found - truth).max() < 0.3  # mm and degrees
    about = json.loads((perf / "sub-01_cbf.json").read_text())
    assert about["Motion"]["MaxTranslation"] == pytest.approx(np.abs(found[:, :3]).max(), abs=1e-3)
    still = load_subject(encoded)
    unmoved = fit(still.series, still.mask, still.acquisition, estimator="smoothed", voxel_size=still.voxel_size)
    cbf = nib.load(perf / "sub-01_cbf.nii.gz").get_fdata()
    seen = still.mask & (cbf > 0)
    error, usual = (np.sqrt(np.mean((values - phantom.cbf)[seen] ** 2)) for values in (cbf, unmoved.cbf))
    assert error < 1.2 * usual
    capsys.readouterr()
    assert main(["check", str(asl)]) == 0
    said = capsys.readouterr().out
    assert "motion corrected before decoding" in said
    assert "order and sign: as given" in said
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "smoothed", "--motion", "off", "--force"]) == 0
    assert not list(perf.glob("*motion*"))  # of the earlier run


def test_m0_goes_along_where_decoding_moves_the_series(tmp_path: Path) -> None:
    phantom = simulate("te7", tsnr=5.0, seed=2, voxel_size=(6.0, 6.0, 6.0))
    asl = write_phantom(phantom, tmp_path / "raw", encoded=True)[0]
    away = np.array([1.5, 0, 0, 0, 0, 0])  # mm from M0: less than half a voxel, so M0 is brought to the series
    disturb(asl, lambda data: np.stack([moved(data[..., v], phantom.affine, away) for v in range(8)], axis=-1))
    assert main(["decode", str(asl), "--out", str(tmp_path / "out"), "--motion", "on"]) == 0
    raw, decoded = load_subject(asl, motion="on"), load_subject(tmp_path / "out" / asl.relative_to(tmp_path / "raw"))
    assert raw.motion is not None
    assert raw.motion.position[0] == pytest.approx(1.5, abs=0.2)
    both = raw.mask & decoded.mask
    assert both.sum() > 0.95 * raw.mask.sum()
    np.testing.assert_allclose(decoded.m0[both], raw.m0[both], rtol=1e-4)
    np.testing.assert_allclose(decoded.series[both], raw.series[both], atol=1e-4 * raw.series.max())


def test_motion_cannot_be_asked_of_deltam(tmp_path: Path) -> None:
    phantom = simulate("te7", tsnr=3.0, voxel_size=(8.0, 8.0, 8.0))
    asl = write_phantom(phantom, tmp_path)[0]
    assert load_subject(asl).motion is None
    with pytest.raises(InputError, match="deltam volumes hold too little"):
        load_subject(asl, motion="on")


def test_a_spoilt_pair_and_slice_hardly_move_the_mean(tmp_path: Path) -> None:
    phantom = simulate("mpld6", tsnr=1.5, repeats=6, voxel_size=(8.0, 8.0, 8.0))
    asl = write_phantom(phantom, tmp_path)[0]
    clean = load_subject(asl)
    assert clean.provenance["outliers"]["Volumes"] == []
    rng = np.random.default_rng(1)

    def spoil(data: np.ndarray) -> np.ndarray:
        noise = data.std()
        data[..., 8] += 20 * noise * rng.normal(size=data.shape[:3])
        data[..., 15, 20] += 3 * noise * rng.normal(size=data.shape[:2])
        return data

    disturb(asl, spoil)
    kept, used = load_subject(asl, outliers=False), load_subject(asl)
    found = used.provenance["outliers"]
    assert found["Volumes"] == [8]
    assert found["Slices"] == [[20, 15]]
    assert used.series.shape == kept.series.shape
    _, index = clean.acquisition.distinct
    members, inside = index == index[8], clean.mask
    reference = clean.series[inside][:, members].mean(axis=1)
    errors = [np.std(s.series[inside][:, members].mean(axis=1) - reference) for s in (kept, used)]
    assert errors[1] < 0.1 * errors[0]
    assert find_outliers(used.series, used.mask, index).volumes == []


def test_calibration_by_a_reference_region_gives_one_m0_of_blood(tmp_path: Path) -> None:
    phantom = simulate("te7", tsnr=3.0, voxel_size=(4.0, 4.0, 5.0))
    asl = write_phantom(phantom, tmp_path)[0]
    subject = load_subject(asl, calibration="reference")
    inside = subject.m0b[subject.mask]
    assert np.ptp(inside) == 0
    assert inside[0] == pytest.approx(
        np.median(subject.m0[subject.mask & (subject.tissue["wm"] > 0.8)]) / 0.82, rel=0.02
    )
    assert inside[0] == pytest.approx(np.median(load_subject(asl).m0b[subject.mask]), rel=0.1)
    assert any("white matter" in step for step in subject.provenance["steps"])
    with pytest.raises(InputError, match="expected voxelwise or reference"):
        load_subject(asl, calibration="median")


def test_the_reference_region_is_corrected_for_its_own_t1() -> None:
    mask = np.ones((6, 6, 6), dtype=bool)
    m0 = np.full(mask.shape, 100.0, dtype=np.float32)
    wm = {"wm": mask.astype(np.float32)}
    assert reference_region(m0, mask, wm, 2.0, Constants()).m0b == pytest.approx(100 / (1 - np.exp(-2 / 1.0)) / 0.82)
    assert reference_region(m0, mask, None, 2.0, Constants()).m0b == pytest.approx(100 / (1 - np.exp(-2 / 1.3)) / 0.9)


def test_smoothing_m0_keeps_its_level_up_to_the_edge_of_the_mask() -> None:
    mask = np.zeros((20, 20, 10), dtype=bool)
    mask[4:16, 4:16, 2:8] = True
    m0 = np.where(mask, 500.0, 0.0).astype(np.float32)
    noisy = np.where(mask, m0 + np.random.default_rng(0).normal(0, 50, m0.shape), 0).astype(np.float32)
    np.testing.assert_allclose(smooth_m0(m0, mask, 6.0, (3.0, 3.0, 5.0))[mask], 500, rtol=1e-5)
    smooth = smooth_m0(noisy, mask, 6.0, (3.0, 3.0, 5.0))
    assert smooth[mask].std() < 0.5 * noisy[mask].std()
    assert not smooth[~mask].any()


def test_tissue_is_estimated_where_asked_for_and_said_so(shared: Path) -> None:
    asl = shared / "data" / "oxford-mpld" / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    assert load_subject(asl, motion="off").tissue is None
    subject = load_subject(asl, motion="off", tissue="estimate")
    assert subject.provenance["tissue"]["Source"].startswith("estimated: ICBM")
    gm, wm = (subject.mask & (subject.tissue[name] > 0.6) for name in ("gm", "wm"))
    signal = subject.series.mean(axis=3)
    assert signal[gm].mean() > 1.3 * signal[wm].mean()  # gray matter is better perfused


@pytest.mark.slow
def test_slice_timing_moves_att_and_cbf_as_theory_says(shared: Path, tmp_path: Path) -> None:
    """Without slice times a slice read d later looks as if its blood had come d sooner, with less time to decay."""
    asl = shared / "data" / "oxford-mpld" / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    with_times = load_subject(asl, motion="off")
    offsets = with_times.acquisition.slice_offset
    timing = with_times.acquisition
    without = Acquisition(timing.labeling_duration, timing.post_labeling_delay, constants=timing.constants)
    options = {"estimator": "nlls", "voxel_size": with_times.voxel_size}
    timed = fit(with_times.series, with_times.mask, with_times.acquisition, **options)
    ignored = fit(with_times.series, with_times.mask, without, **options)
    for index in (4, 8, 12, 16):
        late = float(offsets[index])
        where = (ignored.cbf[..., index] > 10) & (ignored.att[..., index] > 0.4) & (timed.att[..., index] < 2.5)
        shift = np.median((timed.att - ignored.att)[..., index][where])
        assert shift == pytest.approx(late, abs=0.02)
        # The same label, decayed for d longer before it arrives: CBF grows by exp(d / T1 of blood).
        ratio = np.median(timed.cbf[..., index][where] / ignored.cbf[..., index][where])
        assert ratio == pytest.approx(np.exp(late / 1.65), rel=0.02)


def test_a_look_at_pairs_says_what_would_be_done(tmp_path: Path) -> None:
    phantom = simulate("mpld6", tsnr=1.5, repeats=2, voxel_size=(8.0, 8.0, 8.0))
    asl = write_phantom(phantom, tmp_path, pairs=True)[0]

    def shake(data: np.ndarray) -> np.ndarray:
        data[..., 12:] = np.roll(data[..., 12:], 1, axis=1)
        return data

    disturb(asl, shake)
    subject = load_subject(asl, motion="look")
    assert subject.motion is None
    assert any("will be corrected before subtraction" in step for step in subject.provenance["steps"])
