"""Timing: t = tau + PLD, slice offsets, repeats, the duration spline, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from aslpinn import Acquisition, InputError

ADJUSTED = np.array([0.890, 0.575, 0.426, 0.338, 0.280, 0.240, 0.209, 0.186, 0.167, 0.151, 0.139])


def adjusted() -> Acquisition:
    """Eleven sub-boli that shorten towards the readout, so that all arrive with the same magnetization."""
    return Acquisition(ADJUSTED, 0.049 + ADJUSTED.sum() - np.cumsum(ADJUSTED))


def test_first_sub_bolus_starts_the_labeling() -> None:
    acquisition = adjusted()
    assert acquisition.time[0] == pytest.approx(ADJUSTED.sum() + 0.049)
    assert acquisition.time[-1] == pytest.approx(0.139 + 0.049)


def test_scalars_serve_all_volumes() -> None:
    acquisition = Acquisition(1.8, [0.5, 1.0, 1.5])
    np.testing.assert_array_equal(acquisition.labeling_duration, [1.8] * 3)


def test_the_arrays_of_a_caller_stay_their_own() -> None:
    tau, pld, offset = np.full(3, 1.8), np.array([0.5, 1.0, 1.5]), np.array([0.0, 0.1])
    acquisition = Acquisition(tau, pld, offset)
    for array in (tau, pld, offset):
        array[0] = 0.7
    assert acquisition.labeling_duration[0] == 1.8
    assert acquisition.post_labeling_delay[0] == 0.5
    assert acquisition.slice_offset is not None
    assert acquisition.slice_offset[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        acquisition.post_labeling_delay[0] = 0.7


def test_later_slices_wait_longer() -> None:
    acquisition = Acquisition(1.4, [0.25, 0.5], slice_offset=[0.0, 0.05, 0.1])
    pld = acquisition.pld_at(np.array([[4, 4, 0], [1, 2, 2]]))
    np.testing.assert_allclose(pld, [[0.25, 0.5], [0.35, 0.6]])
    with pytest.raises(InputError, match="3 slices"):
        acquisition.pld_at(np.array([[0, 0, 3]]))


def test_distinct_pairs_keep_the_order_of_first_appearance() -> None:
    distinct, index = Acquisition(1.4, [1.0, 0.5, 1.0, 0.5, 2.0]).distinct
    np.testing.assert_array_equal(distinct.post_labeling_delay, [1.0, 0.5, 2.0])
    np.testing.assert_array_equal(index, [0, 1, 0, 1, 2])


def test_duration_spline_meets_the_samples_and_its_slope_is_its_derivative() -> None:
    acquisition = adjusted()
    tau, _ = acquisition.duration_at(acquisition.post_labeling_delay)
    np.testing.assert_allclose(tau, ADJUSTED, atol=1e-9)
    pld, step = np.linspace(0.1, 3.0, 7), 1e-6
    ends = [acquisition.duration_at(pld + sign * step)[0] for sign in (-1, 1)]
    change_of_tau = ends[1] - ends[0]
    np.testing.assert_allclose(acquisition.duration_at(pld)[1], change_of_tau / (2 * step + change_of_tau), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_duration_spline_serves_any_number_of_delays(count: int) -> None:
    tau = ADJUSTED[:count]
    pld = np.linspace(2.0, 0.1, count)
    value, slope = Acquisition(tau, pld).duration_at(pld)
    np.testing.assert_allclose(value, tau, atol=1e-9)
    assert np.all(np.isfinite(slope))


def test_constant_duration_has_no_slope() -> None:
    tau, slope = Acquisition(1.4, [0.25, 0.5, 0.75]).duration_at([0.3, 0.6])
    np.testing.assert_array_equal(tau, [1.4, 1.4])
    np.testing.assert_array_equal(slope, [0, 0])


@pytest.mark.parametrize(
    ("tau", "pld", "words"),
    [
        ([1.8, 1.8], [0.5], None),
        ([1.8, 1.8, 1.8], [0.5, 1.0], "3 entries"),
        ([1800.0], [500.0, 1000.0], "milliseconds"),
        ([1.8], [-0.5, 1.0], "0 or more"),
        ([1.8], [float("nan"), 1.0], "finite"),
        ([0.0], [0.5, 1.0], "positive"),
        ([], [], "no volume"),
        ([[1.8]], [[0.5]], "lists of numbers"),
    ],
)
def test_impossible_timing_is_refused(tau: list[float], pld: list[float], words: str | None) -> None:
    if words is None:
        assert len(Acquisition(tau, pld)) == 2  # a single delay serves all durations
        return
    with pytest.raises(InputError, match=words):
        Acquisition(tau, pld)


def test_repeats_are_averaged_in_the_order_of_first_appearance(rng):
    timing = Acquisition(1.4, [0.5, 0.25, 0.5, 0.75, 0.25, 0.5])
    assert timing.repeats.tolist() == [3, 2, 1]
    values = rng.normal(size=(4, 5, 6)).astype(np.float32)
    expected = np.stack([values[..., [0, 2, 5]].mean(-1), values[..., [1, 4]].mean(-1), values[..., 3]], axis=-1)
    found = timing.mean_over_repeats(values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    some = np.array([5, 4, 3])  # the order of the pairs stays that of the whole series
    np.testing.assert_allclose(timing.mean_over_repeats(values[..., some], among=some), values[..., some])
    with pytest.raises(InputError, match=r"5 volumes .* expected 6"):
        timing.mean_over_repeats(values[..., :5])
