"""The random numbers of a torch.Generator on a CPU, without PyTorch: the same seed gives the same start and batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Draws:
    """Uniform numbers and permutations, bit for bit those of torch.Generator().manual_seed(seed).

    Both are the Mersenne Twister of Matsumoto and Nishimura (1998, doi:10.1145/272991.272995), seeded alike; importing
    PyTorch takes longer than training a small network.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937()
        start: Any = np.random.RandomState(seed & 0xFFFFFFFF).get_state(legacy=False)
        self._bits.state = start

    def uniform(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
        """Return float32 numbers of a shape, from low to high: the lower 24 bits of a number each."""
        share = (self._bits.random_raw(int(np.prod(shape))) & 0xFFFFFF) * 2.0**-24
        first, last = np.float32(low), np.float32(high)
        return (share * float(last - first) + float(first)).astype(np.float32).reshape(shape)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """Return 0 to n - 1 in random order (n, at least 1): place i swapped with a random one from i on."""
        order = list(range(n))
        steps = self._bits.random_raw(n - 1) % np.arange(n, 1, -1, dtype=np.uint64)
        for i, step in enumerate(steps.tolist()):
            other = i + step
            order[i], order[other] = order[other], order[i]
        return np.array(order)
