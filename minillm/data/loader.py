"""Batches that can be drawn again: what step s trains on follows from (seed, s) alone."""

import numpy as np

from minillm.device import Array, to_device
from minillm.errors import UserError


class Loader:
    """Random windows of a long array of tokens.

    Every step draws `batch_size` windows, with replacement. Ranks ask for their own part of that
    global batch, so that what a step trains on does not depend on the number of ranks; a second
    Loader with another seed draws validation batches.

    Args:
        tokens: (n,) integers, may be memory-mapped.
        batch_size: windows a step, over all ranks.
        block_size: T, tokens a window.
        seed: any integer >= 0.
        device: where batches go, "cpu" or "cuda".

    Raises:
        UserError: fewer than block_size + 1 tokens, or a size below 1.
    """

    def __init__(
        self, tokens: np.ndarray, batch_size: int, block_size: int, seed: int, device: str = "cpu"
    ):
        if batch_size < 1 or block_size < 1:
            raise UserError(
                f"batch_size {batch_size} and block_size {block_size} must both be at least 1"
            )
        if len(tokens) < block_size + 1:
            raise UserError(
                f"a split of the text has {len(tokens)} tokens, but block_size {block_size} needs "
                f"{block_size + 1}: pass a longer text with --data, a smaller --block_size, or "
                "another --val_fraction"
            )
        self.tokens = np.asarray(tokens)
        self.batch_size = batch_size
        self.block_size = block_size
        self.seed = seed
        self.device = device

    def starts(self, step: int) -> np.ndarray:
        """Where the windows of `step` begin: (batch_size,) int64.

        Philox (Salmon et al. 2011) is keyed by (seed, step). Its raw bits are promised to stay the
        same in every version of NumPy, those of `Generator.integers` are not.
        """
        bits = np.random.Philox(key=(self.seed, step)).random_raw(self.batch_size)
        uniform = (bits >> np.uint64(11)) * 2.0**-53  # 53 bits, [0, 1)
        return (uniform * (len(self.tokens) - self.block_size)).astype(np.int64)

    def batch(self, step: int, start: int, stop: int) -> tuple[Array, Array]:
        """Samples [start, stop) of the global batch of `step`: x and y, both (n, T) int64, on the
        loader's device.

        y is x moved on by one token: `y[i, t]` follows `x[i, t]`.
        """
        if not 0 <= start <= stop <= self.batch_size:
            raise ValueError(f"samples [{start}, {stop}) of a batch of {self.batch_size}")
        first = self.starts(step)[start:stop, None]  # (n, 1)
        window = self.tokens[first + np.arange(self.block_size + 1)].astype(np.int64)  # (n, T + 1)
        x, y = np.ascontiguousarray(window[:, :-1]), np.ascontiguousarray(window[:, 1:])
        return to_device(x, self.device), to_device(y, self.device)
