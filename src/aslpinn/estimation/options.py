"""Options of the estimators: what each means, its default, and the values that it may have.

One frozen dataclass an estimator; that of pinn stands with the networks. `fit` takes one, or its fields as keywords.
Only the standard library is imported, since `aslpinn --help` reads all of them.
"""

from __future__ import annotations

import math
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

from ..errors import InputError


def option(
    default: Any,
    meaning: str,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    table2: str = "",
) -> Any:
    """A field with its meaning and limits: one of `choices`, or a number from `low`, or `above` a value, to `high`.

    table2: name of its row in the paper's Table 2.
    """
    limits = {"choices": choices, "low": low, "above": above, "high": high}
    return field(default=default, metadata={"meaning": meaning, "table2": table2, **limits})


@dataclass(frozen=True)
class Options:
    """Options of an estimator; InputError where a value is of another kind, or outside its limits.

    Every estimator has a seed, and gives the same maps for the same one; nlls, vb, svb and basil draw no random number.
    """

    seed: int = option(0, "seed of every random draw", low=0, high=2**32 - 1)

    uses_guide: ClassVar[bool] = False
    uses_tissue: ClassVar[bool] = False
    uses_voxel_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not _allowed(item, value):
                raise InputError(f"{item.name} is {value!r}; expected {expected(item)}")

    @property
    def needs_voxel_size(self) -> bool:
        """Whether a fit with these options cannot do without the voxel size."""
        return self.uses_voxel_size

    @property
    def takes_guide(self) -> bool:
        """Whether a fit with these options uses an anatomical image."""
        return self.uses_guide

    @classmethod
    def names(cls) -> list[str]:
        """Names of the options, in order."""
        return [item.name for item in fields(cls)]

    def changed(self, **settings: Any) -> Self:
        """A copy with some options changed."""
        return replace(self, **settings)

    def as_dict(self) -> dict[str, Any]:
        """The options, ready for JSON."""
        return asdict(self)


def _allowed(item: Field[Any], value: Any) -> bool:
    """Whether an option may have a value. Types are read as they are written: str, bool, int, float, float | None."""
    kind, limits = str(item.type), item.metadata
    if value is None:
        return kind.endswith("None")
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str) and (not limits["choices"] or value in limits["choices"])
    if not isinstance(value, int if kind == "int" else (int, float)) or not math.isfinite(value):
        return False
    low, above, high = limits["low"], limits["above"], limits["high"]
    return (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)


def expected(item: Field[Any]) -> str:
    """What an option may be, in words."""
    kind, limits = str(item.type), item.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    words = {"str": "a name", "bool": "True or False", "int": "a whole number"}.get(kind, "a finite number")
    low, above, high = limits["low"], limits["above"], limits["high"]
    if above is not None:
        words += f" above {above:g}"
    if low is not None:
        words += f", {low:g} or more" if high is None else f", {low:g} to {high:g}"
    elif high is not None:
        words += f", at most {high:g}"
    return words + (", or None" if kind.endswith("None") else "")


@dataclass(frozen=True)
class FieldOptions(Options):
    """Estimator field: a Gaussian-process field of several levels, and a mixture that finds arteries."""

    members: int = option(8, "draws from the posterior, which give the SDs", low=1, high=1000)
    arterial: str = option(
        "auto",
        "macrovascular component: auto is by evidence, and off after vascular crushing",
        choices=("auto", "on", "off"),
    )
    regions: str = option(
        "auto", "levels of its own for a focal region that is fed late: auto is by evidence", choices=("auto", "off")
    )
    gaussian_levels: int = option(6, "levels of the field, each smooth at its own width", low=1, high=12)
    iterations: int = option(7, "Gauss-Newton iterations", low=2, high=100)

    uses_guide = True
    uses_tissue = True
    uses_voxel_size = True


@dataclass(frozen=True)
class NllsOptions(Options):
    """Estimator nlls: regularized robust least squares in every voxel by itself."""

    att_penalty: float = option(
        1.0, "noise SDs that a departure of ATT from its start by 1 s costs; 0 for none", low=0, high=1e6
    )
    grid_step: float = option(
        0.097,  # at a round delay, where the signal has a kink, a fit would stick
        "spacing in s of the ATT grid that gives the start",
        low=1e-3,
        high=1,
    )


@dataclass(frozen=True)
class SmoothedOptions(Options):
    """Estimator smoothed: the series smoothed inside the mask, then an ATT grid in every voxel."""

    kernel: float | None = option(
        None, "SD in mm of the Gaussian (not FWHM, which is 2.355 times as wide); None: by leave-one-delay-out", low=0
    )

    uses_voxel_size = True

    @property
    def needs_voxel_size(self) -> bool:
        """Not with a kernel of 0, which smooths nothing."""
        return self.kernel != 0


@dataclass(frozen=True)
class VbOptions(Options):
    """Estimator vb: analytic variational Bayes as BASIL does it, in every voxel by itself."""

    vb_start: str = option(
        "grid", "start from an ATT grid, or from the mean of the ATT prior as BASIL does", choices=("grid", "prior")
    )
    att_prior: float = option(1.0, "mean of the ATT prior in s", above=0, high=10)
    att_prior_sd: float = option(1.0, "SD of the ATT prior in s", above=0, high=1e3)
    trials: int = option(10, "passes without a gain in free energy after which a voxel is done", low=1)


@dataclass(frozen=True)
class SvbOptions(VbOptions):
    """Estimator svb: vb, continued with a spatial prior."""

    prior_on: str = option(
        "cbf", "Markov random field on perfusion, or on perfusion and on ATT, times its prior", choices=("cbf", "both")
    )
    sweeps: int = option(20, "sweeps over all voxels, in order of x, then y, then z", low=1)


@dataclass(frozen=True)
class BasilOptions(Options):
    """Estimator basil: the installed fabber_asl, with its own single start."""

    spatial: bool = option(False, "fabber's spatial step after the voxelwise one")
    att_prior: float = option(1.0, "mean of the ATT prior in s", above=0, high=10)
    att_prior_sd: float = option(1.0, "SD of the ATT prior in s", above=0, high=1e3)

    uses_voxel_size = True


@dataclass(frozen=True)
class ConsensusOptions(Options):
    """Estimator consensus: CBF from one delay, by the formula of the ASL consensus paper. It has no options."""
