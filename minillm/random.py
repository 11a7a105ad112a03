"""Random numbers that can be replayed: everything follows from a seed and a count of draws.

Weights are drawn on the CPU whatever the device, so that both start alike. Dropout is counter-based
(see kernels/dropout): it takes a 64-bit key from here and stores no mask. A training step seeds
itself by (seed, step, rank), so that any step can be run again as it was.
"""

import numpy as np


class Generator:
    """A seed and the number of keys drawn from it: that pair is the whole state."""

    def __init__(self, seed: int | tuple[int, ...] = 0):
        self.manual_seed(seed)

    def manual_seed(self, seed: int | tuple[int, ...]) -> None:
        """Start again from `seed`, an integer or a tuple such as (seed, step, rank)."""
        self._bits = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))

    def key(self) -> int:
        """A fresh 64-bit key for a counter-based kernel."""
        return int(self._bits.integers(0, 2**63))

    @property
    def numpy(self) -> np.random.Generator:
        """The NumPy generator, for initial weights and sampling."""
        return self._bits


default_generator = Generator()


def manual_seed(seed: int | tuple[int, ...]) -> None:
    """Seed the default generator: initial weights and dropout follow from it."""
    default_generator.manual_seed(seed)
