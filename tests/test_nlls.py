"""Regularized least squares: the compiled fit against SciPy's dogbox, its derivatives, recovery, outliers, bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslpinn import Acquisition, InputError, fit
from aslpinn.estimation.nlls import HIGH, LOW, reference_voxel, start_from_grid
from aslpinn.estimation.problem import prepare
from aslpinn.physics import CBF_PER_FLOW, delta_m

SUB_BOLI = Acquisition(np.full(11, 0.327), 0.049 + 0.327 * np.arange(10, -1, -1))
MULTI_PLD = Acquisition(1.4, np.repeat([0.25, 0.5, 0.75, 1.0, 1.25, 1.5], 2), slice_offset=0.045 * np.arange(4))


def brain(acquisition, rng, shape, noise):
    cbf, att = rng.uniform(10, 90, shape), rng.uniform(0.6, 2.0, shape)
    pld = np.broadcast_to(acquisition.pld_at(np.argwhere(np.ones(shape))), (cbf.size, len(acquisition)))
    series = delta_m(cbf[..., None], att[..., None], pld.reshape((*shape, -1)), acquisition.labeling_duration)
    return cbf, att, np.ones(shape, bool), series + noise * rng.normal(size=series.shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("acquisition", "noise"), [(SUB_BOLI, 4.5e-4), (SUB_BOLI, 1.4e-3), (MULTI_PLD, 1e-3)], ids=["1.5", "0.5", "slices"]
)
def test_compiled_fit_finds_what_scipy_finds(acquisition, noise, rng):
    _, _, mask, series = brain(acquisition, rng, (8, 8, 4), noise)
    estimate = fit(series, mask, acquisition, estimator="nlls")
    problem = prepare(series, mask, acquisition)
    start = start_from_grid(problem)
    tau = acquisition.labeling_duration
    pld = np.broadcast_to(acquisition.pld_at(problem.voxels), problem.volumes.shape)
    same = []
    for i, voxel in enumerate(problem.voxels):
        first = (float(start.cbf[i]), float(start.att[i]))
        found, _ = reference_voxel(problem.volumes[i].astype(float), pld[i], tau, acquisition, first, start.noise_sd)
        cbf, att = estimate.cbf[tuple(voxel)], estimate.att[tuple(voxel)]
        same.append(abs(cbf - found[0]) < 0.1 and abs(att - found[1]) < 0.005)
    assert np.mean(same) >= 0.99


@settings(max_examples=100, deadline=None)
@given(cbf=st.floats(1, 200), att=st.floats(0.1, 3.5), slow=st.booleans())
def test_derivatives_are_those_of_the_signal(cbf, att, slow):
    from aslpinn.estimation.nlls_kernels import residuals

    tau = np.full(11, 1.4 if slow else 0.327)
    pld, c = SUB_BOLI.post_labeling_delay, SUB_BOLI.constants
    kinks = np.concatenate([pld, pld + tau])
    if np.abs(kinks - att).min() < 1e-4:
        return
    physics = (2 * c.efficiency, c.t1_tissue, c.t1_blood, c.partition_coefficient, CBF_PER_FLOW)
    r, jac = np.empty(12), np.empty((12, 2))
    residuals(np.array([cbf, att]), 1.0, 2.0, np.zeros(11), pld, tau, 1.0, physics, r, jac)
    assert r[:11] == pytest.approx(delta_m(cbf, att, pld, tau), rel=1e-9, abs=1e-15)
    assert (r[11], jac[11, 0], jac[11, 1]) == (pytest.approx(2 * (att - 1)), 0, 2)
    by_cbf = (delta_m(cbf + 1e-3, att, pld, tau) - delta_m(cbf - 1e-3, att, pld, tau)) / 2e-3
    by_att = (delta_m(cbf, att + 1e-6, pld, tau) - delta_m(cbf, att - 1e-6, pld, tau)) / 2e-6
    assert jac[:11, 0] == pytest.approx(by_cbf, rel=1e-5, abs=1e-11)
    assert jac[:11, 1] == pytest.approx(by_att, rel=1e-4, abs=1e-7)


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
    from aslpinn.estimation.grid import grid_search

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
