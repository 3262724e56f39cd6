"""One delay: CBF by the consensus formula, its SD, no ATT, and what says so."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from one_delay import one_delay

from aslpinn import Acquisition, InputError, fit, load_subject
from aslpinn.cli import main
from aslpinn.data import describe
from aslpinn.data.check import table
from aslpinn.estimation import ESTIMATORS
from aslpinn.estimation.consensus import error_by_att
from aslpinn.maps import caveats, quality
from aslpinn.physics import Constants, delta_m, single_delay_cbf

MASK = np.ones((8, 8, 4), dtype=bool)


def series(pld: float, att: float, repeats: int, noise: float, rng, offset=None) -> tuple[np.ndarray, Acquisition]:
    timing = Acquisition([1.8] * repeats, [pld] * repeats, offset)
    delays = np.broadcast_to(timing.pld_at(np.argwhere(MASK)), (MASK.sum(), repeats))
    clean = delta_m(60.0, att, delays, 1.8).reshape(*MASK.shape, repeats)
    return clean + noise * rng.standard_normal(clean.shape), timing


def test_one_delay_gives_cbf_by_the_formula_slice_by_slice_and_no_att(rng) -> None:
    data, timing = series(1.8, 0.8, 1, 0.0, rng, offset=[0.0, 0.1, 0.2, 0.3])
    estimate = fit(data, MASK, timing)
    assert estimate.estimator == "consensus"
    assert estimate.att is None
    assert estimate.att_sd is None
    # by hand, in the third slice: Alsop et al. 2015 with M0b = M0 / lambda
    top = 6000 * data[0, 0, 2, 0] * np.exp(2.0 / 1.65) / (2 * 0.85 * 1.65 * (1 - np.exp(-1.8 / 1.65)))
    assert estimate.cbf[0, 0, 2] == pytest.approx(top, rel=1e-5)
    # label that has arrived decays faster in tissue than the formula says: the longer in it, the less CBF
    assert np.all(np.diff(estimate.cbf[0, 0]) < 0)


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name not in ("consensus", "basil")])
def test_the_others_refuse_one_delay_and_consensus_refuses_several(estimator: str, rng) -> None:
    data, timing = series(1.8, 1.2, 3, 1e-4, rng)
    with pytest.raises(InputError, match=r"one distinct .*consensus"):
        fit(data, MASK, timing, estimator=estimator)
    several = Acquisition([1.8] * 3, [1.0, 1.5, 2.0])
    with pytest.raises(InputError, match="takes one delay and the series has 3"):
        fit(data, MASK, several, estimator="consensus")


def test_its_sd_counts_noise_and_the_arrival_that_is_not_known(rng) -> None:
    """Voxels whose ATT is drawn as assumed: the SD of CBF is the root mean square of its error."""
    shape = (30, 30, 20)
    att = np.clip(rng.normal(1.3, 0.4, shape), 0.1, 4)
    noise, repeats = 4e-4, 8
    for pld in (1.5, 2.0):
        clean = delta_m(60.0, att, pld, 1.8)
        data = clean[..., None] + noise * rng.standard_normal((*shape, repeats))
        found = fit(data, np.ones(shape), Acquisition([1.8] * repeats, [pld] * repeats))
        error = np.sqrt(np.mean((found.cbf - 60.0) ** 2))
        assert np.sqrt(np.mean(found.cbf_sd**2)) == pytest.approx(error, rel=0.12)
        assert found.info["noise_sd"] == pytest.approx(noise, rel=0.03)


def test_a_short_delay_is_less_sure_than_a_long_one() -> None:
    short, usual = error_by_att(np.array([0.5, 1.8]), 1.8, Constants())
    assert short > 1.0 > 0.35 > usual > 0.1


def test_one_volume_takes_its_noise_from_neighbors(rng) -> None:
    data, timing = series(1.8, 1.0, 1, 5e-4, rng)
    found = fit(data, MASK, timing)
    assert found.info["noise_from"] == "neighboring voxels"
    assert found.info["noise_sd"] == pytest.approx(5e-4, rel=0.3)


@pytest.fixture
def asl(tmp_path: Path) -> Path:
    """One delay of a small virtual subject, three pairs."""
    from aslpinn import simulate
    from aslpinn.data import write_phantom

    phantom = simulate("mpld6", tsnr=4.0, voxel_size=(8.0, 8.0, 9.0), seed=3)
    return one_delay(write_phantom(phantom, tmp_path / "raw")[0], tmp_path / "one", delay=1.5)


def test_fit_writes_cbf_its_sd_and_why_there_is_no_att(asl: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    perf = out / "sub-01" / "perf"
    (perf).mkdir(parents=True)
    (perf / "sub-01_att.nii.gz").write_bytes(b"left by an earlier run")
    assert main(["fit", str(asl), "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert "no ATT" in told
    names = {file.name for file in perf.glob("*.nii.gz")}
    of_coverage = {f"sub-01_desc-{kind}.nii.gz" for kind in ("effective_pld", "valid_mask", "m0quality_dseg")}
    assert names - of_coverage == {"sub-01_cbf.nii.gz", "sub-01_desc-sd_cbf.nii.gz", "sub-01_desc-fit_deltam.nii.gz"}
    about = json.loads((perf / "sub-01_cbf.json").read_text())
    assert about["Estimator"] == "consensus"
    assert "Alsop" in about["ModelEquation"]
    assert "one delay" in about["Run"]["no_att"]
    assert about["Settings"]["assumed_att"] == 1.3
    subject = load_subject(asl)
    cbf = nib.load(perf / "sub-01_cbf.nii.gz").get_fdata()[subject.mask]
    assert 15 < np.median(cbf) < 80
    for wrong in (["--estimator", "nlls"], ["--members", "4"]):
        assert main(["fit", str(asl), "--out", str(tmp_path / "none"), *wrong]) == 2
        assert "consensus" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_check_says_it_beforehand_and_the_readings_what_it_means(asl: Path) -> None:
    subject = load_subject(asl)
    assert "one delay: CBF by the consensus formula" in table(describe(subject))
    estimate = fit(subject.series, subject.mask, subject.acquisition)
    found = caveats.readings(subject, estimate)
    assert any("ATT: there is one delay" in line for line in found["cannot"])
    measured = quality.quality(subject, estimate)
    assert measured["Measures"]["residual_over_noise"] is None
    assert "residual_over_noise" not in measured["Flags"]


def test_one_delay_of_a_real_series_is_plausible(shared: Path, tmp_path: Path) -> None:
    """The delay of 1.5 s of a brain measured at six: the formula says of it what it says of a fit of all of them."""
    raw = shared / "data" / "oxford-mpld" / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    subject = load_subject(one_delay(raw, tmp_path / "one"))
    estimate = fit(subject.series, subject.mask, subject.acquisition)
    median = float(np.median(estimate.cbf[subject.mask]))
    whole = load_subject(raw)
    fitted = fit(whole.series, whole.mask, whole.acquisition, estimator="nlls")
    distinct = whole.acquisition.distinct[0]
    last = int(np.argmax(distinct.post_labeling_delay))
    delay = distinct.pld_at(np.argwhere(whole.mask))[:, last]
    signal = fitted.fitted[whole.mask][:, last]
    predicted = single_delay_cbf(signal, delay, distinct.labeling_duration[last], distinct.constants)
    assert 20 < median < 70
    assert median == pytest.approx(float(np.median(predicted)), rel=0.15)
