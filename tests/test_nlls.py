"""Regularized least squares: the compiled fit against SciPy's dogbox, its gradient, recovery, outliers, bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslpinn import Acquisition, InputError, fit
from aslpinn.estimation.nlls import HIGH, LOW, reference_voxel, start_from_grid
from aslpinn.estimation.problem import prepare
from aslpinn.physics import delta_m
from aslpinn.physics.kinetics import factors

SUB_BOLI = Acquisition(np.full(11, 0.327), 0.049 + 0.327 * np.arange(10, -1, -1))
MULTI_PLD = Acquisition(1.4, np.repeat([0.25, 0.5, 0.75, 1.0, 1.25, 1.5], 2), slice_offset=0.045 * np.arange(4))


def brain(acquisition, rng, shape, noise):
    cbf, att = rng.uniform(10, 90, shape), rng.uniform(0.6, 2.0, shape)
    pld = np.broadcast_to(acquisition.pld_at(np.argwhere(np.ones(shape))), (cbf.size, len(acquisition)))
    series = delta_m(cbf[..., None], att[..., None], pld.reshape((*shape, -1)), acquisition.labeling_duration)
    return cbf, att, np.ones(shape, bool), series + noise * rng.normal(size=series.shape)


def cost_of(x, volumes, pld, tau, acquisition, start_att, noise_sd):
    misfit = (delta_m(x[0], x[1], pld, tau, acquisition.constants) - volumes) / noise_sd
    return (np.sqrt(1 + np.append(misfit, x[1] - start_att) ** 2) - 1).sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("acquisition", "noise"), [(SUB_BOLI, 4.5e-4), (SUB_BOLI, 1.4e-3), (MULTI_PLD, 1e-3)], ids=["1.5", "0.5", "slices"]
)
def test_the_cost_is_as_low_as_scipys_or_lower(acquisition, noise, rng):
    """SciPy's dogbox may stop where a sample falls on ATT; in at most 1 % of the voxels ours stops higher."""
    _, _, mask, series = brain(acquisition, rng, (8, 8, 4), noise)
    estimate = fit(series, mask, acquisition, estimator="nlls")
    problem = prepare(series, mask, acquisition)
    start = start_from_grid(problem)
    tau = acquisition.labeling_duration
    pld = np.broadcast_to(acquisition.pld_at(problem.voxels), problem.volumes.shape)
    ours, scipys = np.empty(len(problem.voxels)), np.empty(len(problem.voxels))
    for i, voxel in enumerate(problem.voxels):
        first, y = (float(start.cbf[i]), float(start.att[i])), problem.volumes[i].astype(float)
        _, scipys[i] = reference_voxel(y, pld[i], tau, acquisition, first, start.noise_sd)
        found = np.array([estimate.cbf[tuple(voxel)], estimate.att[tuple(voxel)]], float)
        ours[i] = cost_of(found, y, pld[i], tau, acquisition, first[1], start.noise_sd)
    assert np.mean(ours <= scipys * (1 + 1e-5)) >= 0.99
    assert ours.mean() <= scipys.mean()
    assert estimate.info["mean_cost"] == pytest.approx(ours.mean(), rel=1e-5)


@settings(max_examples=100, deadline=None)
@given(cbf=st.floats(1, 200), att=st.floats(0.1, 3.5), slow=st.booleans())
def test_the_gradient_is_that_of_the_cost(cbf, att, slow):
    from aslpinn.estimation.nlls_kernels import evaluate

    tau = np.full(11, 1.4 if slow else 0.327)
    pld = SUB_BOLI.post_labeling_delay
    if np.abs(np.concatenate([pld, pld + tau]) - att).min() < 1e-4:
        return
    y, weight, sums = delta_m(40.0, 1.3, pld, tau), 2000.0, np.empty(5)

    def cost(cbf, att):
        return evaluate(cbf, att, 1.0, 2.0, y, pld, tau, weight, factors(SUB_BOLI.constants), sums)

    misfit = np.append((delta_m(cbf, att, pld, tau) - y) * weight, 2 * (att - 1))
    assert cost(cbf, att) == pytest.approx((np.sqrt(1 + misfit**2) - 1).sum(), rel=1e-9)
    found = sums.copy()
    by_cbf = (cost(cbf + 1e-3, att) - cost(cbf - 1e-3, att)) / 2e-3
    by_att = (cost(cbf, att + 1e-6) - cost(cbf, att - 1e-6)) / 2e-6
    assert found[3:] == pytest.approx([by_cbf, by_att], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("acquisition", [SUB_BOLI, MULTI_PLD], ids=["sub-boli", "slices, repeats"])
def test_truth_is_recovered_and_stays_in_bounds(acquisition, rng):
    cbf, att, mask, series = brain(acquisition, rng, (5, 5, 4), 1e-6)
    estimate = fit(series, mask, acquisition, estimator="nlls")
    assert np.abs(estimate.cbf - cbf).max() < 1.0
    assert np.abs(estimate.att - att).max() < 0.03  # next to a sample time, where the signal has a kink
    assert np.median(np.abs(estimate.att - att)) < 0.001
    noisy = fit(series + 5e-3 * rng.normal(size=series.shape), mask, acquisition, estimator="nlls")
    for values, low, high in zip((noisy.cbf, noisy.att), LOW, HIGH, strict=True):
        assert values.min() >= np.float32(low)
        assert values.max() <= np.float32(high)


def test_one_wild_volume_moves_soft_l1_less_than_least_squares(rng):
    cbf, _, mask, series = brain(MULTI_PLD, rng, (6, 6, 4), 3e-4)
    series[..., 4] += 0.01  # a motion spike of thirty noise SDs in one repeat
    robust = fit(series, mask, MULTI_PLD, estimator="nlls")
    from aslpinn.estimation.voxelwise import grid_search

    p = prepare(series, mask, MULTI_PLD)
    plain, _ = grid_search(p.signal, p.pld, p.tau, p.counts, p.acquisition)
    truth = cbf.ravel()
    assert np.sqrt(np.mean((robust.cbf.ravel() - truth) ** 2)) < 0.8 * np.sqrt(np.mean((plain - truth) ** 2))


def test_a_large_penalty_keeps_att_at_its_start(rng):
    _, _, mask, series = brain(SUB_BOLI, rng, (4, 4, 4), 4.5e-4)
    start = start_from_grid(prepare(series, mask, SUB_BOLI), att_penalty=1e3)
    held = fit(series, mask, SUB_BOLI, estimator="nlls", att_penalty=1e3)
    assert np.abs(held.att.ravel() - start.att).max() < 0.01


def test_wrong_options_are_refused(rng):
    with pytest.raises(InputError, match="att_penalty is -1"):
        fit(rng.normal(0.01, 0.001, (2, 2, 2, 11)), np.ones((2, 2, 2)), SUB_BOLI, estimator="nlls", att_penalty=-1)
