"""Motion correction: known rigid motion is found and undone, and the perfusion signal survives it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small import encode_series

from aslpinn.data.encoded import TimeEncoding, decode_series
from aslpinn.data.motion import correct as motion
from aslpinn.data.motion.need import look
from aslpinn.data.motion.rigid import Grid, Registration, register_by_information
from aslpinn.errors import InputError
from aslpinn.physics import hadamard

AFFINE = np.array([[-3.0, 0, 0, 40], [0, 3.0, 0, -45], [0, 0, 5.0, -30], [0, 0, 0, 1]])


def moved(volume: np.ndarray, affine: np.ndarray, parameters, order: int = 3) -> np.ndarray:
    """A head moved by (mm, degrees) about the grid's center, as the scanner would see it."""
    translation, angles = np.asarray(parameters[:3]), parameters[3:]
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix = affine[:3, :3]
    center = (np.array(volume.shape) - 1) / 2
    back = np.linalg.inv(matrix) @ turn.T @ matrix
    offset = center - back @ center - np.linalg.inv(matrix) @ turn.T @ translation
    return ndimage.affine_transform(volume, back, offset, order=order)


def errors(found: np.ndarray, truth: np.ndarray) -> float:
    """Largest error, in mm or in degrees."""
    turns = [Rotation.from_euler("xyz", p[3:], degrees=True) for p in (*found, *truth)]
    n = len(found)
    angle = max(np.rad2deg((turns[k] * turns[k + n].inv()).magnitude()) for k in range(n))
    return max(float(np.abs(found[:, :3] - truth[:, :3]).max()), float(angle))


@pytest.fixture
def head(rng) -> np.ndarray:
    """A smooth head with structure, well inside the field of view."""
    shape = (28, 30, 14)
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt((grid[0] / 0.7) ** 2 + (grid[1] / 0.75) ** 2 + (grid[2] / 0.6) ** 2)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return 1000 / (1 + np.exp((radius - 1) * 12)) * (1 + 1.5 * texture)


def test_known_motion_of_a_head_is_found(head, rng) -> None:
    truth = np.vstack([np.zeros(6), rng.uniform(-3, 3, (5, 6)), [3, 3, 3, 3, 3, 3]])
    series = np.stack([moved(head * (1 - 0.01 * k), AFFINE, p) for k, p in enumerate(truth)], axis=-1)
    series += rng.normal(scale=5, size=series.shape)
    corrected, found = motion.correct(series, AFFINE, ["encoded"] * 7, m0=head)
    assert errors(found.parameters, truth) < 0.1
    inside = (head > 500) & found.covered
    before = np.abs(series - series[..., :1])[inside].mean()
    after = np.abs(corrected - corrected[..., :1] * (1 - 0.01 * np.arange(7)))[inside].mean()
    assert after < 0.15 * before
    assert found.reference == "M0"


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e4, 1e7, 1e12])
def test_motion_is_found_in_any_unit(head, rng, scale: float) -> None:
    truth = np.vstack([np.zeros(6), rng.uniform(-2, 2, (3, 6))])
    series = np.stack([moved(head, AFFINE, p) for p in truth], axis=-1) + rng.normal(scale=5, size=(*head.shape, 4))
    words, blocks = ["encoded"] * 4, [range(4)]
    expected = motion.correct(series, AFFINE, words, m0=head)
    found = motion.correct(scale * series, AFFINE, words, m0=scale * head)
    np.testing.assert_allclose(found[1].parameters, expected[1].parameters, atol=1e-4)
    np.testing.assert_allclose(found[0] / scale, expected[0], rtol=1e-4, atol=0.05)
    seen, again = (look(factor * series, AFFINE, words, blocks) for factor in (1.0, scale))
    assert seen.within > 0.5
    assert (again.within, again.drift) == pytest.approx((seen.within, seen.drift), rel=1e-4)


@pytest.mark.parametrize("noise", [1.0, 20.0])
def test_a_featureless_head_is_not_taken_for_a_turning_one(rng, noise: float) -> None:
    grid = np.indices((14, 14, 8)).reshape(3, -1).T - np.array([6.5, 6.5, 3.5])
    ball = ((grid / np.array([6, 6, 3.5])) ** 2).sum(axis=1).reshape(14, 14, 8) < 1
    series = np.where(ball[..., None], 500 + rng.normal(0, noise, (14, 14, 8, 8)), 0)
    found = look(series, AFFINE, ["a"] * 8, [range(8)])
    assert max(found.within, found.drift) < 0.05


def test_a_coarse_look_tells_motion_within_pairs_from_drift(head, rng) -> None:
    noise = 0.01 * head.max()
    shaken = [0.5 * (v % 2) for v in range(6)]  # every label half a millimeter away from its control
    drift = [0.4 * (v // 2) for v in range(6)]  # still within each pair
    found = {}
    for name, shifts in (("shaken", shaken), ("drift", drift)):
        series = np.stack([moved(head, AFFINE, [shift, 0, 0, 0, 0, 0]) for shift in shifts], axis=-1)
        series += rng.normal(0, noise, series.shape)
        found[name] = look(series, AFFINE, ["a"] * 6, [[0, 1], [2, 3], [4, 5]])
    assert found["shaken"].within == pytest.approx(0.5, abs=0.1)
    assert found["shaken"].drift == pytest.approx(0.25, abs=0.05)
    assert found["drift"].within < 0.1
    assert found["drift"].drift == pytest.approx(0.4 * np.sqrt(2 / 3), abs=0.06)


def test_what_belongs_to_the_delay_is_not_motion(head, rng) -> None:
    """Shading along z that differs between delays looks like a shift along z; a slow drift is motion all the same."""
    z = np.linspace(-1, 1, head.shape[2])
    shades = {"early": 1 + 0.5 * z, "middle": 1 + 0.1 * z, "late": 1 - 0.5 * z}
    truth, volumes, groups = [], [], []
    for turn in range(4):
        for name, shade in shades.items():
            truth.append([0.3 * turn, 0, 0, 0, 0, 0.2 * turn])
            volumes.append(moved(head, AFFINE, truth[-1]) * shade)
            groups.append(name)
    series = np.stack(volumes, axis=-1) + rng.normal(0, 5, (*head.shape, 12))
    late, early = (np.array([name == kind for name in groups]) for kind in ("late", "early"))
    _, plain = motion.correct(series, AFFINE, groups, m0=head)
    _, found = motion.correct(series, AFFINE, groups, m0=head, conditions=groups)
    taken, left = (abs(p[late, 2].mean() - p[early, 2].mean()) for p in (plain.parameters, found.parameters))
    assert taken > 0.3
    assert left < 0.05
    steps = found.parameters - found.parameters[0]
    np.testing.assert_allclose(steps[:, 0], np.array(truth)[:, 0], atol=0.12)
    np.testing.assert_allclose(steps[:, 5], np.array(truth)[:, 5], atol=0.12)


def test_motion_at_random_is_no_effect_of_the_condition(head, rng) -> None:
    truth = rng.uniform(-2, 2, (8, 6))
    series = np.stack([moved(head, AFFINE, p) for p in truth], axis=-1) + rng.normal(scale=5, size=(*head.shape, 8))
    words = ["a", "b"] * 4
    _, found = motion.correct(series, AFFINE, words, m0=head, conditions=words)
    assert errors(found.parameters, truth) < 0.15


def test_small_motion_ends_at_the_mean_position_large_motion_at_that_of_m0(head, rng) -> None:
    small = np.array([[0.6, 0, 0, 0, 0, 0], [0.9, 0.3, 0, 0, 0, 0], [0.6, -0.3, 0, 0, 0, 0.0]])
    series = np.stack([moved(head, AFFINE, p) for p in small], axis=-1) + rng.normal(scale=3, size=(*head.shape, 3))
    corrected, found = motion.correct(series, AFFINE, ["a"] * 3, m0=head)
    np.testing.assert_allclose(found.position[:3], small.mean(axis=0)[:3], atol=0.08)
    np.testing.assert_allclose(found.parameters, small, atol=0.15)  # against M0 all the same
    there = moved(head, AFFINE, small.mean(axis=0))
    inside = head > 500
    assert (
        np.abs(corrected - there[..., None])[inside].mean() < 0.5 * np.abs(corrected - head[..., None])[inside].mean()
    )
    assert np.abs(found.m0 - there)[inside].mean() < 0.2 * np.abs(head - there)[inside].mean()
    far = np.stack([moved(head, AFFINE, 4 * p) for p in small], axis=-1)
    _, at_m0 = motion.correct(far, AFFINE, ["a"] * 3, m0=head)
    assert not at_m0.position.any()
    np.testing.assert_array_equal(at_m0.m0, head.astype(np.float32))


def test_without_m0_the_first_volume_is_the_reference_and_runs_agree(head, rng) -> None:
    truth = np.array([[0, 0, 0, 0, 0, 0], [2, -1, 1, 1, -2, 2], [-1, 2, -2, -2, 1, 0], [1, 1, 2, 0, 2, -1.0]])
    series = np.stack([moved(head, AFFINE, p) for p in truth], axis=-1) + rng.normal(scale=5, size=(*head.shape, 4))
    first, found = motion.correct(series, AFFINE, ["control"] * 4)
    again, same = motion.correct(series, AFFINE, ["control"] * 4)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(found.parameters, same.parameters)
    assert errors(found.parameters - found.parameters[0], truth) < 0.2
    assert found.reference == "first volume"


def test_a_still_series_stays_as_it_is(head, rng) -> None:
    series = head[..., None] + rng.normal(scale=5, size=(*head.shape, 6))
    corrected, found = motion.correct(series, AFFINE, ["m0scan"] + ["a", "b"] * 2 + ["a"])
    assert np.abs(found.parameters).max() < 0.1
    assert found.mean_displacement < 0.15
    inside = head > 500
    assert np.abs(corrected - series)[inside].mean() < 3.0
    np.testing.assert_allclose(corrected[inside, 0], series[inside, 0], rtol=0.05)
    assert np.abs(found.position).max() < 0.05


def test_m0_of_another_contrast_is_matched_by_mutual_information(head) -> None:
    grid = Grid(head.shape, AFFINE)
    truth = np.array([[2.0, -1.5, 2, 2, -1, 1.5]])
    inverted = moved(np.where(head > 100, 1500 - head, 0), AFFINE, truth[0])
    found = register_by_information(grid, head, inverted).parameters()[None]
    assert errors(found, truth) < 1.0
    still = Registration(grid, head, head > 200, 3.0)
    assert errors(still.fit(moved(head, AFFINE, truth[0])).parameters()[None], truth) < 0.05


def test_framewise_displacement_and_table() -> None:
    steps = np.zeros((3, 6))
    steps[1] = [1, 0, 0, 0, 0, 0]
    steps[2] = [1, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(motion.framewise_displacement(steps), [0, 1, np.deg2rad(1) * 50])
    covered = np.ones((2, 2, 2), bool)
    found = motion.Motion(steps, motion.framewise_displacement(steps), covered, "M0", "", 3)
    lines = motion.table(found).splitlines()
    assert lines[0].split("\t") == list(motion.COLUMNS)
    assert lines[1].endswith("n/a")
    assert float(lines[3].split("\t")[5]) == 1.0


def test_input_that_cannot_be_registered_is_refused(head) -> None:
    series = np.stack([head, head], axis=-1)
    with pytest.raises(InputError, match="1 groups for 2"):
        motion.correct(series, AFFINE, ["a"])
    with pytest.raises(InputError, match="NaN"):
        motion.correct(np.where(series > 900, np.nan, series), AFFINE, ["a", "a"])
    with pytest.raises(InputError, match="same everywhere"):
        motion.correct(np.stack([head, 0 * head], axis=-1), AFFINE, ["a", "a"])
    with pytest.raises(InputError, match="too thin"):
        motion.correct(series[:, :, :2], AFFINE, ["a", "a"])
    with pytest.raises(InputError, match="M0 has shape"):
        motion.correct(series, AFFINE, ["a", "a"], m0=head[1:])


@pytest.mark.slow
@pytest.mark.parametrize("order", [3, 1])
def test_perfusion_survives_three_millimeters_and_degrees(shared, order: int) -> None:
    """An encoded phantom: parameters within 0.3 mm and 0.3 degrees, CBF error at most 1.2 times the unmoved one's."""
    folder = shared / "reference" / "basil"
    image = nib.load(folder / "m0.nii.gz")
    m0, affine = image.get_fdata(), image.affine
    mask = nib.load(folder / "mask.nii.gz").get_fdata() > 0
    signal = nib.load(folder / "deltam_clean.nii.gz").get_fdata() * m0[..., None] / 0.9
    encoding = TimeEncoding(hadamard.matrix("Hadamard", 12), np.full(11, 0.327), 0.049)
    rng = np.random.default_rng(3)
    volumes = encode_series(signal, 0.97 * m0, encoding.matrix)
    noise = rng.normal(scale=signal[mask].mean() / 1.5 * np.sqrt(12) / 2, size=volumes.shape)
    truth = rng.uniform(-3, 3, (12, 6))
    shaken = np.stack([moved(volumes[..., v], affine, truth[v], order) for v in range(12)], axis=-1) + noise
    corrected, found = motion.correct(shaken, affine, ["encoded"] * 12, m0=m0, mask=mask)
    assert errors(found.parameters, truth) < 0.3
    perfusion = nib.load(folder / "cbf.nii.gz").get_fdata()
    inside = mask & found.covered
    inside[:, :, :2] = inside[:, :, -2:] = False  # slices of which a moved volume saw nothing or a part
    off = {}
    for name, series in (("still", volumes + noise), ("moved", shaken), ("corrected", corrected)):
        decoded = decode_series(series, encoding)
        # At the true ATT and T1' CBF is linear in the series.
        share = (decoded * signal).sum(axis=-1)[inside] / (signal**2).sum(axis=-1)[inside]
        off[name] = float(np.mean(np.abs(share - 1) * perfusion[inside]))
    assert off["moved"] > 5 * off["still"]
    assert off["corrected"] < 1.2 * off["still"], off


def test_a_registration_that_fails_says_what_and_why():
    from aslpinn.data.motion.rigid import run_registration
    from aslpinn.errors import InputError

    sitk = pytest.importorskip("SimpleITK")
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-2, 5)
    method.SetInitialTransform(sitk.Euler3DTransform(), inPlace=True)
    apart = sitk.Image(8, 8, 8, sitk.sitkFloat32), sitk.Image(8, 8, 8, sitk.sitkFloat32)
    apart[1].SetOrigin((1000.0, 0.0, 0.0))
    with pytest.raises(InputError, match=r"M0 cannot be registered \(.+\)"):
        run_registration(method, *apart, "M0 cannot be registered")
