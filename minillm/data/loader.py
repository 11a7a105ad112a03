"""Batches that can be drawn again: what step s trains on follows from (seed, s) alone; with some
shardings, also from the rank."""

import numpy as np

from minillm.data.sharding import Shard
from minillm.device import Array, to_device
from minillm.errors import UserError


class Loader:
    """Windows of a long array of tokens, in an order that follows from a seed.

    "random" draws `batch_size` windows a step from anywhere, with replacement. The other shardings
    cut the tokens into samples, windows that begin `block_size` apart, and draw those without
    replacement (sharding.py). With "random" and "permutation", ranks ask for their own part of one
    global batch, so that what a step trains on does not depend on the number of ranks; with "block"
    and "hash", each rank has samples of its own. A second Loader with another seed draws validation
    batches.

    Args:
        tokens: (n,) integers, may be memory-mapped.
        batch_size: windows a step, over all ranks.
        block_size: T, tokens a window.
        seed: any integer >= 0.
        device: where batches go, "cpu" or "cuda".
        sharding: "random", "permutation", "block" or "hash".
        rank, ranks: of "block" and "hash": whose part this is, of how many.

    Raises:
        UserError: fewer than block_size + 1 tokens, a size below 1, no such sharding, or a rank
            without a sample.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        batch_size: int,
        block_size: int,
        seed: int,
        device: str = "cpu",
        sharding: str = "random",
        rank: int = 0,
        ranks: int = 1,
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
        self.shard = None
        if sharding != "random":
            samples = (len(tokens) - 1) // block_size
            self.shard = Shard(sharding, samples, batch_size, seed, rank, ranks)

    def starts(self, step: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Where the windows of samples [start, stop) of `step` begin: (n,) int64; by default, of
        the whole batch. With "block" and "hash" they are what this rank draws for them.

        Philox (Salmon et al. 2011) is keyed by (seed, step). Its raw bits are promised to stay the
        same in every version of NumPy, those of `Generator.integers` are not.
        """
        stop = self.batch_size if stop is None else stop
        if not 0 <= start <= stop <= self.batch_size:
            raise ValueError(f"samples [{start}, {stop}) of a batch of {self.batch_size}")
        if self.shard:
            return self.shard.draw(step, start, stop) * self.block_size
        bits = np.random.Philox(key=(self.seed, step)).random_raw(self.batch_size)[start:stop]
        uniform = (bits >> np.uint64(11)) * 2.0**-53  # 53 bits, [0, 1)
        return (uniform * (len(self.tokens) - self.block_size)).astype(np.int64)

    def batch(self, step: int, start: int, stop: int) -> tuple[Array, Array]:
        """Samples [start, stop) of the global batch of `step`: x and y, both (n, T) int64, on the
        loader's device.

        y is x moved on by one token: `y[i, t]` follows `x[i, t]`.
        """
        first = self.starts(step, start, stop)[:, None]  # (n, 1)
        window = self.tokens[first + np.arange(self.block_size + 1)].astype(np.int64)  # (n, T + 1)
        x, y = np.ascontiguousarray(window[:, :-1]), np.ascontiguousarray(window[:, 1:])
        return to_device(x, self.device), to_device(y, self.device)
