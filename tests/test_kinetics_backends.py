"""One text of Buxton's model on every backend: NumPy, torch, compiled loops in both precisions, the widgets' script."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from aslpinn.estimation import kinetic_kernels
from aslpinn.estimation.networks import compiled_physics
from aslpinn.physics import Constants, delta_m, delta_m_ode, delta_m_rate, sensitivities
from aslpinn.physics.kinetics import factors

WIDGETS = Path(__file__).resolve().parents[1] / "book" / "_static" / "widgets" / "physics.js"

samples = st.tuples(
    st.floats(0.0, 200.0), st.floats(0.05, 3.5), st.floats(0.0, 4.0), st.floats(0.1, 2.5), st.floats(-0.5, 0.9)
)
constant_values = st.builds(
    Constants,
    t1_blood=st.floats(1.2, 2.2),
    t1_tissue=st.floats(0.8, 1.6),
    partition_coefficient=st.floats(0.8, 1.0),
    labeling_efficiency=st.floats(0.5, 1.0),
)


@njit
def double(cases, of, out):
    """Signal and its slopes by CBF and ATT."""
    for i in range(cases.shape[0]):
        cbf, att, pld, tau = cases[i, 0], cases[i, 1], cases[i, 2], cases[i, 3]
        rate = of.tissue_rate + cbf * of.rate_per_cbf
        found = kinetic_kernels.signal_slopes(cbf, kinetic_kernels.inflow(att, of), pld + tau - att, tau, rate, of, 0.0)
        out[i, 0], out[i, 1], out[i, 2] = found


def compiled_double(cases, constants):
    out = np.empty((len(cases), 3))
    double(cases, factors(constants), out)
    return out.T


def compiled_single(cases, constants, width=0.0):
    """The same by the training step's kernels, and the rate and inflow with their slopes: (3, N) each."""
    lane = np.zeros(12 * compiled_physics.LANES, np.float32)
    found = np.empty((3, len(cases), 3))
    rows = (
        compiled_physics.CBF,
        compiled_physics.ATT,
        compiled_physics.PLD,
        compiled_physics.TAU,
        compiled_physics.SLOPE,
    )
    of = compiled_physics.physics_of(constants, 1.0)
    for start in range(0, len(cases), compiled_physics.LANES):
        part = cases[start : start + compiled_physics.LANES]
        for row, values in zip(rows, part.T, strict=True):
            lane[row : row + len(part)] = values
        for which in range(3):
            model = np.zeros(4 * compiled_physics.LANES, np.float32)
            single(lane, of, which, np.float32(width), model)
            found[which, start : start + len(part)] = model.reshape(4, -1)[:3, : len(part)].T
    return found.transpose(0, 2, 1)


@njit
def single(lane, of, which, width, model):
    if which == 0:
        compiled_physics.solution(lane, of, model)
    else:
        compiled_physics.rates(lane, of, which == 2, width, model)


def arrays(drawn):
    """(N, 5) cases away from kinks, where slopes jump."""
    cases = np.array(drawn)
    since = cases[:, 2] + cases[:, 3] - cases[:, 1]
    return cases[np.minimum(np.abs(since), np.abs(since - cases[:, 3])) > 1e-3]


@settings(max_examples=60, deadline=None)
@given(st.lists(samples, min_size=1, max_size=80), constant_values, st.sampled_from([0.0, 0.01, 0.05, 0.2]))
def test_every_backend_gives_the_same_signal_rate_and_slopes(drawn, constants, width):
    """With sharp edges and with soft ones, which the signal of the compiled loops does not have."""
    cases = arrays(drawn)
    if not len(cases):
        return
    cbf, att, pld, tau, slope = cases.T
    soft = {"constants": constants, "edge_width": width}
    signal, soft_signal = delta_m(cbf, att, pld, tau, constants), delta_m(cbf, att, pld, tau, **soft)
    rate = delta_m_rate(cbf, att, pld, tau, slope, **soft)
    inflow = delta_m_ode(0.0, cbf, att, pld, tau, slope, **soft)
    by_cbf, by_att = sensitivities(cbf, att, pld, tau, constants)

    values = [torch.tensor(column) for column in cases.T]
    for value in values[:2]:
        value.requires_grad_()
    for function, expected in ((delta_m, soft_signal), (delta_m_rate, rate)):
        with_slope = values[4:] if function is delta_m_rate else []
        found = function(*values[:4], *with_slope, **soft)
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-12, atol=1e-17)
    ode = delta_m_ode(0.0 * values[0], *values, **soft)
    np.testing.assert_allclose(ode.detach(), inflow, rtol=1e-12, atol=1e-17)
    gradient = torch.autograd.grad(delta_m(*values[:4], constants).sum(), values[:2])
    np.testing.assert_allclose(gradient[0], by_cbf, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(gradient[1], by_att, rtol=1e-9, atol=1e-13)

    found = compiled_double(cases, constants)
    for values_found, expected, tiny in zip(found, (signal, by_cbf, by_att), (1e-16, 1e-18, 1e-15), strict=True):
        np.testing.assert_allclose(values_found, expected, rtol=1e-10, atol=tiny)

    # Single precision: to a few of its roundings of the largest term, K.
    K = np.maximum(2 * constants.efficiency * cbf / 6000 * 1.7, 1e-6)
    found = compiled_single(cases, constants, width)
    assert np.all(np.abs(found[0][0] - signal) < 2e-6 * K)
    assert np.all(np.abs(found[0][1] - by_cbf) < 4e-6 * K / np.maximum(cbf, 1e-3) + 1e-9)
    assert np.all(np.abs(found[0][2] - by_att) < 4e-6 * K)
    for values_found, function in ((found[1], delta_m_rate), (found[2], None)):
        tensors = [torch.tensor(column) for column in cases.T]
        for value in tensors[:2]:
            value.requires_grad_()
        if function is None:
            expected = delta_m_ode(0.0 * tensors[0].detach(), *tensors, **soft)
        else:
            expected = function(*tensors, **soft)
        slopes = torch.autograd.grad(expected.sum(), tensors[:2], allow_unused=True)
        assert np.all(np.abs(values_found[0] - expected.detach().numpy()) < 4e-6 * K)
        assert np.all(np.abs(values_found[1] - slopes[0].numpy()) < 1e-5 * K / np.maximum(cbf, 1e-3) + 1e-8)
        assert np.all(np.abs(values_found[2] - slopes[1].numpy()) < 2e-5 * K)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine: the widgets' script is not run")
def test_the_widgets_script_gives_the_cores_signal(rng):
    cases = np.stack([rng.uniform(*span, 400) for span in ((0, 150), (0.1, 3.5), (-1, 4), (0.1, 4))], axis=1)
    constants = Constants(t1_blood=1.9, t1_tissue=1.1)
    script = """
    globalThis.window = globalThis; (0, eval)(require("fs").readFileSync(process.argv[1], "utf8"));
    const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const found = given.cases.map((c) => window.aslpinn.physics.deltaM(...c, given.constants));
    console.log(JSON.stringify(found));
    """
    given = json.dumps({"cases": cases.tolist(), "constants": constants.as_dict()})
    ran = subprocess.run(["node", "-e", script, str(WIDGETS)], input=given, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(ran.stdout), delta_m(*cases.T, constants), rtol=1e-9, atol=1e-15)


def test_the_hand_calculation_of_asldro():
    """Buxton's solution as asldro's authors worked it out by hand, independent of any code of ours.

    Expected values for CASL of `test_gkm_filter.py` in asldro 2.2.0 (Gold Standard Phantoms, MIT license; from its
    gkm_validation_calculations.xlsx): CBF 60 ml/100g/min, ATT 0.5 s, tau 1 s, alpha 1, lambda 0.9 ml/g, T1b 1.6 s,
    T1t 1.4 s, t from 0 to 2.5 s by 0.1 s. They give fractions of the tissue's M0, lambda times that of blood.
    """
    published = [0.0] * 6 + [
        1.56824489938627e-03, 3.02675788403236e-03, 4.38321702329929e-03, 5.64476314312850e-03, 6.81803741758707e-03,
        7.90921633008904e-03, 8.92404418833934e-03, 9.86786336416952e-03, 1.07456424174571e-02, 1.15620022521814e-02,
        1.07529955429241e-02, 1.00005959715437e-02, 9.30084267094010e-03, 8.65005192047837e-03, 8.04479775372961e-03,
        7.48189392311000e-03, 6.95837712647509e-03, 6.47149140736887e-03, 6.01867364680540e-03, 5.59754007020735e-03,
    ]  # fmt: skip
    constants = Constants(t1_blood=1.6, t1_tissue=1.4, partition_coefficient=0.9, labeling_efficiency=1.0)
    time = np.arange(0, 2.6, 0.1)
    found = delta_m(60.0, 0.5, time - 1.0, 1.0, constants) / constants.partition_coefficient
    np.testing.assert_allclose(found, published, rtol=1e-12, atol=1e-16)
