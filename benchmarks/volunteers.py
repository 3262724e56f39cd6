"""The paper's Table 1 on virtual volunteers at the paper's voxel size, with the paper's own method: a stored run.

    python benchmarks/volunteers.py [--volunteers N] [--out FILE]
    python benchmarks/volunteers.py --maps       # a slice of the first two, benchmarks/volunteers-maps.npz

Each volunteer is scanned twice (`aslpinn_book.chapters.volunteers`); every method is given the first scan. The paper's
method is preset paper, Table 2 to the letter, with its learning rate of the first epochs, stopped at the epoch that a
tenth of the samples, kept from the loss, predict best. A row is written as a volunteer ends; a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from resumable import append, begin

from aslpinn_book.chapters import volunteers
from aslpinn_book.chapters.benchmark import Method
from aslpinn_book.chapters.shared import axial_slices

SHOWN = (1, 2)  # volunteers of whom a slice is stored
EPOCHS = 40  # the held-out samples choose an epoch near 10
METHODS = {
    "VB, one start": volunteers.METHODS["VB, one start"],
    "VB, grid start": volunteers.METHODS["VB, grid start"],
    "SVB, one start": Method("svb", {"vb_start": "prior"}),
    "paper's network": Method("pinn", {"preset": "paper", "epochs": EPOCHS, "t_max": 5000, "held_out": 0.1}),
    "default": volunteers.METHODS["default"],
}


def maps(out: Path) -> None:
    """Fit the volunteers of SHOWN by METHODS and NLLS; a middle slice of CBF and ATT, (2, X, Y), in half precision."""
    stored: dict[str, Any] = {}
    for number in SHOWN:
        case, _ = volunteers.first_repeat(volunteers.volunteer_phantom(number, 1.5, (3.0, 3.0, 7.0)))
        level = axial_slices(case.mask, 3)[1]
        fits: dict[str, Any] = {"truth": case}
        for name, method in ({"NLLS": Method("nlls")} | METHODS).items():
            fits[name] = volunteers.fit_once(case, method)
            print(f"volunteer {number}, {name}", flush=True)
        stored[f"{number} mask"] = case.mask[..., level]
        for name, found in fits.items():
            both = np.stack([found.cbf[..., level], found.att[..., level]])
            stored[f"{number} {name}"] = both.astype(np.float16)
    np.savez_compressed(out, **stored)


def main() -> None:
    """Fit every volunteer that the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volunteers", type=int, default=volunteers.VOLUNTEERS, help="how many, from number 1 on")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"), help="the CSV file")
    parser.add_argument("--maps", action="store_true", help="store the slices and stop")
    arguments = parser.parse_args()
    if arguments.maps:
        maps(arguments.out.with_name(f"{arguments.out.stem}-maps.npz"))
        return
    names = list(volunteers.Row.__dataclass_fields__)
    there = begin(arguments.out, names, ["volunteer"])
    for number in range(1, arguments.volunteers + 1):
        if (str(number),) in there:
            continue
        rows = volunteers.study([number], methods=METHODS)
        append(arguments.out, names, map(asdict, rows), 5)
        print(f"volunteer {number} of {arguments.volunteers}", flush=True)


if __name__ == "__main__":
    main()
