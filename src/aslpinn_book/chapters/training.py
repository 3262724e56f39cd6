"""A training seen from inside: the maps of a network after some of its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aslpinn.estimation.config import preset_of
from aslpinn.estimation.fitting import Fields, configure, evaluate, train, training_data
from aslpinn.estimation.pinn import MEMBER_SEEDS
from aslpinn.estimation.problem import Request, prepare
from aslpinn.physics import Acquisition


@dataclass(frozen=True)
class Snapshots:
    """Maps of one network while it trains.

    Attributes
    ----------
    epochs : tuple of int
        After which epochs, E of them.
    maps : dict
        "cbf" in ml/100g/min and "att" in s: (E, X, Y, Z) float32, zero outside the mask.
    losses : dict
        Name -> mean loss of every epoch.
    """

    epochs: tuple[int, ...]
    maps: dict[str, NDArray[np.float32]]
    losses: dict[str, list[float]]


def snapshots(
    series: ArrayLike,
    mask: ArrayLike,
    acquisition: Acquisition,
    epochs: Sequence[int],
    seed: int = 0,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **settings: Any,
) -> Snapshots:
    """Train one network of preset "network" for max(epochs) epochs and keep its maps after each of `epochs`.

    The last maps are those of `aslpinn.fit` with one member, the same seed and the same settings.
    """
    problem = prepare(series, mask, acquisition)
    request = Request(preset="network", members=1, epochs=max(epochs), seed=seed, voxel_size=voxel_size)
    config = configure(request, preset_of(request.preset), **settings)
    data = training_data(problem, request, config)
    member = config.seed * MEMBER_SEEDS
    fields = Fields(config, member, request.engine, request.device)
    indices = fields.precompute(data.positions)
    kept: dict[str, list[NDArray[np.float32]]] = {"cbf": [], "att": []}

    def on_epoch(epoch: int, losses: dict[str, float]) -> None:
        if epoch + 1 in epochs:
            for name, values in zip(kept, evaluate(fields, indices), strict=True):
                kept[name].append(problem.volume(values))

    _, history = train(fields, data, config, member, on_epoch)
    maps = {name: np.stack(values) for name, values in kept.items()}
    return Snapshots(tuple(sorted(set(epochs))), maps, history.losses)
