"""What the estimators and their presets are called; standard library only, since `aslpinn --help` reads it."""

from __future__ import annotations

from ..errors import InputError

ESTIMATORS = ("field", "pinn", "nlls", "vb", "svb", "smoothed", "basil", "consensus")
#: Estimator -> its presets, the first is the one without a name; the others have none.
PRESETS = {"pinn": ("default", "paper")}

#: What not every estimator uses -> those that do.
USERS = {
    "members": ("field", "pinn"),
    "epochs": ("pinn",),
    "device": ("pinn",),
    "engine": ("pinn",),
    "guide": ("field",),
}

#: Names of version 0.1 -> what they are now.
_FORMER_ESTIMATOR = {"closed-form": "estimator 'pinn' with objective closed-form and members 1"}
_FORMER_PRESET = {"network": "preset 'default' of estimator 'pinn'"}


def check_names(estimator: str, preset: str | None) -> None:
    """InputError unless there is such an estimator, and it has such a preset (None: no preset was asked for)."""
    if estimator in _FORMER_ESTIMATOR:
        raise InputError(f"estimator {estimator!r} is now {_FORMER_ESTIMATOR[estimator]}")
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator is {estimator!r}; expected one of {', '.join(ESTIMATORS)}")
    if preset is None:
        return
    if preset in _FORMER_PRESET:
        raise InputError(f"preset {preset!r} is now {_FORMER_PRESET[preset]}")
    known = PRESETS.get(estimator, ())
    if preset in known:
        return
    if known:
        raise InputError(f"preset is {preset!r}; expected one of {', '.join(known)} of estimator {estimator!r}")
    raise InputError(f"preset is {preset!r}, and estimator {estimator!r} has no presets; {', '.join(PRESETS)} has")


def estimator_for(delays: int, named: str | None = None) -> str:
    """The estimator that fits a series of so many distinct (labeling duration, delay) pairs: the one named, if any.

    InputError where the one named cannot: consensus takes one delay, the others take two or more.
    """
    chosen = named or ("consensus" if delays == 1 else "field")
    if delays == 1 and chosen != "consensus":
        raise InputError(
            f"the series has one distinct (labeling duration, delay) pair, and estimator {chosen!r} needs at least 2 "
            "for CBF and ATT; expected estimator 'consensus' (CBF alone), or more delays: check LabelingDuration and "
            "PostLabelingDelay"
        )
    if delays > 1 and chosen == "consensus":
        raise InputError(
            f"estimator 'consensus' takes one delay and the series has {delays} distinct (labeling duration, delay) "
            "pairs; expected another estimator, which finds ATT too"
        )
    return chosen


def uses(estimator: str, name: str) -> bool:
    """Whether an estimator uses an argument of `fit` (all of them use what is not in USERS)."""
    return name not in USERS or estimator in USERS[name]


def former_default(estimator: str | None) -> str | None:
    """A line to say where an estimator is asked for by name alone that meant something else in version 0.1."""
    if estimator == "pinn":
        return "pinn trains networks; what it fitted by default in version 0.1 is now the estimator field"
    return None
