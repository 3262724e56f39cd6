"""Write the goldens anew: python tests/golden/make.py [NAME ...], all of them without a name.

A golden is what the code computed once, stored so that a rewrite shows whether it computes the same: the maps of every
estimator and preset on a small phantom (NAME.npz), and the files and JSON keys that commands write (tree-NAME.txt).
A golden changes only in a commit of its own that says what changed and why.

The tables below are the only place that knows how a golden is computed. Where an estimator, a preset or an option gets
another name, its line here changes, and no golden does.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aslpinn
from aslpinn.cli import main as aslpinn_command
from aslpinn.data import write_phantom

HERE = Path(__file__).resolve().parent
VOXEL_SIZE = (9.0, 9.0, 9.0)  # mm; 2608 voxels, so that a fit takes a second
VOXELS = 50  # whose signals are stored, spread evenly over the mask in C order
MAPS = ("cbf", "att", "cbf_sd", "att_sd", "abv", "flags")

PHANTOMS: dict[str, dict[str, Any]] = {
    "plain": {},
    # with so little noise the field finds all of the lesion and 81 voxels with an artery
    "focal": {"lesion": True, "arterial_voxels": True, "tsnr": 4.0},
    # every slice has delays of its own, and every delay repeats
    "slices": {"protocol": "mpld6", "slice_time": 0.04, "repeats": 2},
}


@dataclass(frozen=True)
class Fit:
    """One call of `aslpinn.fit`: options, phantom, constants other than the defaults, and whether M0 is the guide."""

    options: dict[str, Any]
    phantom: str = "plain"
    constants: dict[str, float] = field(default_factory=dict)
    guided: bool = False


_NETWORK = {"estimator": "pinn", "epochs": 3}
_PAPER = _NETWORK | {"preset": "paper"}
_DISPERSED = {"dispersion_sharpness": 7.4, "dispersion_time_to_peak": 0.15}

FITS: dict[str, Fit] = {
    "field": Fit({}),
    "field-guided": Fit({}, guided=True),
    "field-focal": Fit({}, "focal"),
    "pinn": Fit(_NETWORK | {"members": 2}),
    "pinn-paper": Fit(_PAPER),
    "pinn-derivative": Fit(_PAPER | {"reading": "derivative"}),
    "pinn-increments": Fit(_PAPER | {"objective": "increments"}),
    "pinn-closed-form": Fit(_NETWORK | {"objective": "closed-form", "members": 1}),
    "pinn-torch": Fit(_NETWORK | {"members": 1, "engine": "torch"}),
    "nlls": Fit({"estimator": "nlls"}),
    "nlls-slices": Fit({"estimator": "nlls"}, "slices"),
    "nlls-dispersion": Fit({"estimator": "nlls"}, constants=_DISPERSED),
    "smoothed": Fit({"estimator": "smoothed"}),
    "vb": Fit({"estimator": "vb"}),
    "vb-prior": Fit({"estimator": "vb", "vb_start": "prior"}),
    "svb": Fit({"estimator": "svb"}),
}
#: Estimators without a golden, and why.
LEFT_OUT = {
    "basil": "calls a program of FSL, which is not part of this package",
    "consensus": "a formula for one delay, which the phantoms have not; tests compare it with the formula by hand",
}

#: Commands whose files are compared, by name; {asl} is a series of the plain phantom, {out} an empty folder.
TREES: dict[str, str] = {
    "fit": "fit {asl} --out {out}",
    "fit-pinn": "fit {asl} --out {out} --estimator pinn --epochs 3 --members 2",
    "fit-nlls": "fit {asl} --out {out} --estimator nlls",
    "study": "study --virtual --volunteers 2 --out {out} --no-book --fast -j 1 --estimator nlls",
}


@cache
def phantom(name: str) -> Any:
    """A phantom of PHANTOMS, simulated once."""
    return aslpinn.simulate(voxel_size=VOXEL_SIZE, **PHANTOMS[name])


def some(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices of VOXELS of the mask's voxels, from the first to the last in C order."""
    return np.linspace(0, mask.sum() - 1, VOXELS).astype(int)


def phantom_arrays(name: str) -> dict[str, NDArray[Any]]:
    """Truth and noisy signal of a phantom at some voxels."""
    made = phantom(name)
    maps = {key: getattr(made, key) for key in ("cbf", "att", "m0", "abv", "series")}
    return {key: values[made.mask][some(made.mask)] for key, values in maps.items()}


def fit_arrays(name: str) -> dict[str, NDArray[Any]]:
    """Maps inside the mask, float32 (flags uint8), and the fitted signal at some voxels."""
    call = FITS[name]
    made = phantom(call.phantom)
    timing = made.acquisition
    acquisition = aslpinn.Acquisition(
        timing.labeling_duration,
        timing.post_labeling_delay,
        timing.slice_offset,
        constants=aslpinn.Constants(**call.constants),
    )
    guide = {"guide": made.m0} if call.guided else {}
    estimate = aslpinn.fit(made.series, made.mask, acquisition, voxel_size=VOXEL_SIZE, **guide, **call.options)
    found = {key: getattr(estimate, key) for key in MAPS}
    arrays = {key: values[made.mask] for key, values in found.items() if values is not None}
    return arrays | {"fitted": estimate.fitted[made.mask][some(made.mask)]}


def tree(name: str, scratch: Path) -> list[str]:
    """What a command of TREES writes, sorted: a line for every file, and below a JSON file its keys, indented."""
    out = scratch / "out"
    asl = write_phantom(phantom("plain"), scratch / "data")[0]
    arguments = [word.format(asl=asl, out=out) for word in TREES[name].split()]
    code = aslpinn_command(arguments)
    if code:
        raise RuntimeError(f"aslpinn {' '.join(arguments)}: exit code {code}")
    lines = []
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        lines.append(file.relative_to(out).as_posix())
        if file.suffix == ".json":
            keys = sorted(set(_keys(json.loads(file.read_text()))))
            lines += ["  " * len(key) + key[-1] for key in keys]
    return lines


def _keys(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Keys of nested dicts, each after those above it; of a list those of all items. A name of a file reads FILE."""
    if isinstance(value, list):
        for item in value:
            yield from _keys(item, above)
    elif isinstance(value, dict):
        for key, inner in value.items():
            here = (*above, "FILE" if "." in key or "/" in key else key)
            yield here
            yield from _keys(inner, here)


def main(names: list[str]) -> int:
    """Write the goldens of these names."""
    known = [*(f"phantom-{name}" for name in PHANTOMS), *FITS, *(f"tree-{name}" for name in TREES)]
    if unknown := set(names) - set(known):
        print(f"there is no golden {', '.join(sorted(unknown))}; expected some of {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names or known:
        kind, _, rest = name.partition("-")
        if kind == "tree":
            with tempfile.TemporaryDirectory() as scratch:
                (HERE / f"{name}.txt").write_text("\n".join(tree(rest, Path(scratch))) + "\n")
        elif kind == "phantom":
            np.savez_compressed(HERE / f"{name}.npz", **phantom_arrays(rest))
        else:
            np.savez_compressed(HERE / f"{name}.npz", **fit_arrays(name))
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
