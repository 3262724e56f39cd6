"""The phantom obeys its own physics, its noise is what it says, its variants change what they should."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslpinn import InputError
from aslpinn.data.phantom.anatomy import TERRITORIES, build_anatomy, get_volunteer, smooth_field
from aslpinn.data.phantom.bids import SCANNER_UNITS, write_phantom
from aslpinn.data.phantom.protocols import PROTOCOLS, get_protocol, time_encoded
from aslpinn.data.phantom.simulate import LESION_ATT, LESION_CBF, TUMOR_CBF, simulate
from aslpinn.physics import arterial, delta_m, hadamard

COARSE = (6.0, 6.0, 14.0)


@pytest.fixture(scope="module")
def phantom():
    return simulate(voxel_size=COARSE)


def test_full_size_brain_has_the_expected_volume_and_values():
    phantom = simulate()
    mask = phantom.mask
    gray, white = mask & (phantom.gm > 0.7), mask & (phantom.wm > 0.7)
    # A brain of 1.88 l in voxels of 63 mm3; perfusion and arrival as in healthy adults.
    assert mask.sum() == pytest.approx(29_800, rel=0.02)
    assert 1.7e6 < mask.sum() * np.prod(phantom.voxel_size) < 2.0e6
    assert phantom.cbf[gray].mean() == pytest.approx(52, abs=3)
    assert phantom.cbf[white].mean() == pytest.approx(26, abs=3)
    assert phantom.att[gray].mean() < phantom.att[white].mean() < 1.4
    assert 0.4 <= phantom.att[mask].min() < 0.8
    assert 1.5 < phantom.att[mask].max() <= 2.2
    assert phantom.m0[gray].mean() > phantom.m0[white].mean() > 0.6
    for values in (phantom.cbf, phantom.att, phantom.m0, phantom.series, phantom.clean):
        assert values.dtype == np.float32
        assert np.all(values[~mask] == 0)


def test_series_without_noise_is_the_kinetic_model(phantom):
    mask, acquisition = phantom.mask, phantom.acquisition
    expected = delta_m(
        phantom.cbf[mask].astype(float)[:, None],
        phantom.att[mask].astype(float)[:, None],
        acquisition.post_labeling_delay,
        acquisition.labeling_duration,
        acquisition.constants,
    )
    np.testing.assert_allclose(phantom.clean[mask], expected, rtol=1e-5, atol=1e-9)
    without = simulate(voxel_size=COARSE, tsnr=None)
    np.testing.assert_array_equal(without.series, without.clean)
    assert without.noise_sd == 0


@pytest.mark.parametrize("tsnr", [1.5, 0.5])
def test_noise_level_follows_from_the_temporal_snr(tsnr):
    phantom = simulate(voxel_size=COARSE, tsnr=tsnr)
    gray = phantom.mask & (phantom.gm > 0.5)
    assert phantom.noise_sd == pytest.approx(phantom.clean[gray].mean() / tsnr, rel=1e-5)
    noise = (phantom.series - phantom.clean)[phantom.mask]
    assert noise.std() == pytest.approx(phantom.noise_sd, rel=0.02)
    assert abs(noise.mean()) < 4 * phantom.noise_sd / np.sqrt(noise.size)
    neighbors = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert abs(neighbors) < 0.03  # white in space
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.08  # and in time


def test_noise_seed_changes_the_noise_and_nothing_else(phantom):
    again, other = simulate(voxel_size=COARSE), simulate(voxel_size=COARSE, seed=1)
    np.testing.assert_array_equal(again.series, phantom.series)
    np.testing.assert_array_equal(other.clean, phantom.clean)
    assert np.corrcoef((other.series - other.clean).ravel(), (phantom.series - phantom.clean).ravel())[0, 1] < 0.02


def test_correlated_noise_keeps_its_sd_and_is_correlated_in_space_only():
    phantom = simulate(voxel_size=COARSE, noise_fwhm=12.0)
    noise = np.where(phantom.mask[..., None], phantom.series - phantom.clean, np.nan)
    pairs = noise[1:] * noise[:-1]
    assert np.nanstd(noise) == pytest.approx(phantom.noise_sd, rel=0.1)
    # Gaussian smoothing of white noise: correlation exp(-d^2 / (4 sigma^2)) at distance d, sigma = FWHM / 2.3548.
    expected = np.exp(-(6.0**2) / (4 * (12.0 / 2.3548) ** 2))
    assert np.nanmean(pairs) / np.nanvar(noise) == pytest.approx(expected, abs=0.08)
    inside = noise[phantom.mask]
    assert abs(np.corrcoef(inside[:, 0], inside[:, 5])[0, 1]) < 0.2


def test_lesion_tumor_and_stenosis_change_what_they_say():
    voxels = (4.0, 4.0, 7.0)
    healthy = simulate(voxel_size=voxels, tsnr=None)
    changed = simulate(voxel_size=voxels, tsnr=None, lesion=True, tumor=True)
    inside = changed.lesion
    assert 4 / 3 * np.pi * 17**3 == pytest.approx(inside.sum() * np.prod(voxels), rel=0.15)
    np.testing.assert_allclose(changed.cbf[inside], LESION_CBF * healthy.cbf[inside], rtol=1e-6)
    np.testing.assert_allclose(changed.att[inside], healthy.att[inside] + LESION_ATT, rtol=1e-6)
    assert changed.tumor.any()
    assert np.all(changed.cbf[changed.tumor] == TUMOR_CBF)
    elsewhere = ~(changed.lesion | changed.tumor)
    np.testing.assert_array_equal(changed.cbf[elsewhere], healthy.cbf[elsewhere])

    delayed = simulate(voxel_size=voxels, tsnr=None, delayed=True)
    left = np.zeros_like(healthy.mask)
    left[: left.shape[0] // 2] = True  # x grows to the right
    later = delayed.att - healthy.att
    assert 2.7 < delayed.att.max() <= 3.0
    assert later[left & healthy.mask].mean() > 0.3
    assert later[~left & healthy.mask].mean() < 0.05


def test_arterial_voxels_add_the_arterial_signal_and_no_noise():
    phantom = simulate(voxel_size=COARSE, arterial_voxels=True)
    plain = simulate(voxel_size=COARSE)
    assert phantom.noise_sd == plain.noise_sd
    vessel = phantom.abv > 0
    assert 0.005 < vessel.sum() / phantom.mask.sum() < 0.15
    added = (phantom.clean - plain.clean)[vessel]
    expected = arterial(
        phantom.abv[vessel].astype(float)[:, None],
        phantom.arterial_arrival[vessel].astype(float)[:, None],
        phantom.acquisition.post_labeling_delay,
        phantom.acquisition.labeling_duration,
        phantom.acquisition.constants,
    )
    np.testing.assert_allclose(added, expected, atol=1e-7)
    assert np.all(phantom.arterial_arrival[vessel] <= np.maximum(plain.att[vessel] - 0.35, 0.3) + 1e-6)


def test_volunteers_differ_in_anatomy_level_and_noise():
    template, one, two = (simulate(voxel_size=COARSE, volunteer=n) for n in (None, 1, 2))
    for a, b in ((template, one), (one, two)):
        overlap = (a.mask & b.mask).sum() * 2 / (a.mask.sum() + b.mask.sum())
        assert 0.85 < overlap < 0.995  # a brain still, and another one
        both = a.mask & b.mask
        assert 0.5 < np.corrcoef(a.cbf[both], b.cbf[both])[0, 1] < 0.98
    gray = one.mask & (one.gm > 0.7)
    person = get_volunteer(1)
    assert one.cbf[gray].mean() == pytest.approx(
        person.cbf_gm * template.cbf[gray & template.mask].mean() / 62, rel=0.12
    )
    levels = [get_volunteer(n).cbf_gm for n in range(1, 19)]
    assert 0.08 < np.std(levels) / np.mean(levels) < 0.25
    np.testing.assert_array_equal(simulate(voxel_size=COARSE, volunteer=2).series, two.series)


def test_averaging_conserves_tissue_across_voxel_sizes():
    volumes = []
    for size in ((3.0, 3.0, 7.0), COARSE):
        anatomy = build_anatomy(size)
        volumes.append(
            [float(values.sum()) * np.prod(size) / 1000 for values in (anatomy.gm, anatomy.wm, anatomy.brain)]
        )
        assert anatomy.gm.min() >= 0
        assert (anatomy.gm + anatomy.wm).max() < 1.01
    np.testing.assert_allclose(volumes[0], volumes[1], rtol=0.01)  # ml


def test_territories_add_up_and_lie_on_their_side():
    anatomy = build_anatomy(COARSE)
    np.testing.assert_allclose(anatomy.territory.sum(axis=0), 1, rtol=1e-5)
    x = anatomy.points[..., 0]
    middle_left = anatomy.territory[TERRITORIES.index("MCA-L")]
    assert np.average(x[anatomy.mask], weights=middle_left[anatomy.mask]) < -30
    assert anatomy.watershed.min() >= 0
    assert anatomy.watershed.max() <= 1


def test_smooth_field_is_standard_and_independent_of_the_grid():
    points = np.stack(np.meshgrid(*[np.arange(-60, 60, 4.0)] * 3, indexing="ij"), axis=-1).astype(np.float32)
    field = smooth_field(points, 30.0, np.random.default_rng(1))
    coarse = smooth_field(points[::2, ::2, ::2], 30.0, np.random.default_rng(1))
    np.testing.assert_array_equal(field[::2, ::2, ::2], coarse)
    assert 0.5 < field.std() < 1.3
    assert np.corrcoef(field[1:].ravel(), field[:-1].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if protocol.encoded])
def test_sub_boli_follow_each_other_without_a_gap(name):
    protocol = get_protocol(name)
    tau, pld = np.array(protocol.labeling_duration), np.array(protocol.post_labeling_delay)
    # Block k ends where block k + 1 begins: its delay is the next one's delay plus duration.
    np.testing.assert_allclose(pld[:-1], pld[1:] + tau[1:], atol=1e-8)
    np.testing.assert_allclose(pld, hadamard.effective_delays(tau, protocol.final_delay), atol=1e-8)
    total = 3.5 if name == "te7" else 3.6
    assert tau.sum() == pytest.approx(total, abs=0.0011)


def test_protocols_of_the_paper_and_of_the_public_data():
    adjusted = get_protocol("te11-t1adjusted")
    assert adjusted.labeling_duration[0] == 0.89
    assert adjusted.post_labeling_delay[-1] == 0.049
    np.testing.assert_allclose(get_protocol("te7").post_labeling_delay, [1.87, 1.07, 0.67, 0.52, 0.37, 0.27, 0.17])
    assert len(get_protocol("mpld6").acquisition()) == 48
    assert len(get_protocol("mpld6").acquisition(repeats=2).distinct[0]) == 6


@given(st.lists(st.floats(0.05, 2.0), min_size=1, max_size=12), st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_time_encoded_first_block_waits_for_all_others(blocks, delay):
    protocol = time_encoded("any", "", blocks, delay)
    assert protocol.labeling_duration[0] + protocol.post_labeling_delay[0] == pytest.approx(sum(blocks) + delay)
    assert protocol.final_delay == pytest.approx(delay, abs=1e-8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "te12"}, "te11-t1adjusted"),
        ({"tsnr": 0.0}, "tsnr is 0"),
        ({"tsnr": float("nan")}, "tsnr is nan"),
        ({"volunteer": -1}, "volunteer is -1"),
        ({"voxel_size": (0.1, 3, 7)}, "voxel_size"),
        ({"noise_fwhm": -2.0}, "noise_fwhm"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_impossible_requests_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        simulate(**({"voxel_size": COARSE} | options))


def test_deltam_subject_holds_signal_times_m0(tmp_path, phantom):
    files = write_phantom(phantom, tmp_path, "01")
    data = nib.load(files[0]).get_fdata()
    m0 = nib.load(tmp_path / "sub-01/perf/sub-01_m0scan.nii.gz").get_fdata()
    mask = phantom.mask
    ratio = data[mask] / (m0[mask] / phantom.acquisition.constants.partition_coefficient)[:, None]
    np.testing.assert_allclose(ratio, phantom.series[mask], rtol=1e-5, atol=1e-9)
    assert m0.max() <= 1.2 * SCANNER_UNITS
    sidecar = json.loads((tmp_path / "sub-01/perf/sub-01_asl.json").read_text())
    assert len(sidecar["LabelingDuration"]) == len(sidecar["PostLabelingDelay"]) == data.shape[3] == 11
    truth = nib.load(tmp_path / "derivatives/truth/sub-01/perf/sub-01_cbf.nii.gz")
    np.testing.assert_array_equal(truth.get_fdata(dtype=np.float32), phantom.cbf)
    np.testing.assert_array_equal(truth.affine, phantom.affine)


def test_encoded_and_paired_volumes_give_the_series_back(tmp_path, phantom):
    scale = SCANNER_UNITS * phantom.m0[phantom.mask][:, None] / phantom.acquisition.constants.partition_coefficient
    encoded = nib.load(write_phantom(phantom, tmp_path, "01", encoded=True)[0]).get_fdata()
    assert encoded.shape[3] == 12
    decoded = hadamard.decode(encoded, hadamard.matrix("Hadamard", 12))[phantom.mask] / scale
    np.testing.assert_allclose(decoded, phantom.series[phantom.mask], atol=3e-4 * phantom.noise_sd)

    repeated = simulate("mpld6", voxel_size=COARSE, repeats=2)
    pairs = nib.load(write_phantom(repeated, tmp_path, "02", pairs=True)[0]).get_fdata()
    assert pairs.shape[3] == 24
    difference = (pairs[..., ::2] - pairs[..., 1::2])[phantom.mask] / scale
    np.testing.assert_allclose(difference, repeated.series[phantom.mask], atol=3e-4 * repeated.noise_sd)
    table = (tmp_path / "participants.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in table] == ["participant_id", "sub-01", "sub-02"]


def test_labels_and_encodings_that_do_not_exist_are_refused(tmp_path, phantom):
    with pytest.raises(InputError, match="letters and digits"):
        write_phantom(phantom, tmp_path, "../01")
    with pytest.raises(InputError, match="no Hadamard encoding"):
        write_phantom(simulate("mpld6", voxel_size=COARSE, repeats=1), tmp_path, "01", encoded=True)
    assert not list(tmp_path.iterdir())


def test_a_data_set_of_another_origin_is_not_written_over(tmp_path, phantom):
    description = tmp_path / "dataset_description.json"
    description.write_text('{"Name": "Our patients", "BIDSVersion": "1.10.0"}')
    with pytest.raises(InputError, match=r"dataset_description.json: Name is 'Our patients'"):
        write_phantom(phantom, tmp_path, "01")
    assert [file.name for file in tmp_path.iterdir()] == ["dataset_description.json"]
    assert "Our patients" in description.read_text()


def test_an_interrupted_subject_is_not_there(tmp_path, phantom, monkeypatch):
    write_phantom(phantom, tmp_path / "out", "01")
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    save, calls = nib.save, []

    def interrupt(image, path):
        calls.append(path)
        save(image, path)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(nib, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(phantom, tmp_path / "out", "02")
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == before


def test_like_the_reference_phantom(shared):
    """Maps of the same kind as those behind the reference fits: tissue means, spread and noise level agree."""
    folder = shared / "reference" / "basil"
    ref = {name: nib.load(folder / f"{name}.nii.gz").get_fdata() for name in ("cbf", "att", "m0", "gm", "wm", "mask")}
    phantom = simulate()
    inside = ref["mask"] > 0
    for tissue, other in ((phantom.gm, ref["gm"]), (phantom.wm, ref["wm"])):
        a, b = phantom.mask & (tissue > 0.7), inside & (other > 0.7)
        assert a.sum() == pytest.approx(b.sum(), rel=0.05)
        assert phantom.cbf[a].mean() == pytest.approx(ref["cbf"][b].mean(), rel=0.05)
        assert phantom.att[a].mean() == pytest.approx(ref["att"][b].mean(), abs=0.1)
        assert phantom.m0[a].mean() == pytest.approx(ref["m0"][b].mean(), rel=0.05)
    assert phantom.cbf[phantom.mask].std() == pytest.approx(ref["cbf"][inside].std(), rel=0.1)
    assert phantom.att[phantom.mask].std() == pytest.approx(ref["att"][inside].std(), rel=0.1)
    noise = json.loads((folder / "params.json").read_text())["noise_sd"]["1.5"]
    assert phantom.noise_sd == pytest.approx(noise, rel=0.05)
