"""Which rank reads which samples, and in what order.

In: n samples, numbered from 0; a seed; a rank of p ranks, which together draw a global batch of B
samples a step. Out: the samples of any part of any step, from these numbers alone, so that a run
can go on from any step.

    "permutation"   every epoch all samples in a new order, dealt to the global batch in turn. What
                    a step trains on does not depend on p; each sample comes once an epoch.
    "block"         rank r has samples [r n / p, (r + 1) n / p) and draws from those alone, every
                    epoch in a new order: each node needs, and caches, only its part of the file.
    "hash"          rank r has the samples i with mix(i ^ key) mod p = r: about n / p each, from all
                    over the text. Text that is added at the end moves no sample to another rank.

"block" and "hash" give up two things: with another number of ranks, a step trains on other samples;
and a batch has a fixed number from each part, which "block" makes felt if the parts differ.

What rank r draws. Its equal share of a step is w = B (r + 1) // p - B r // p samples, number
b = B r // p of the batch and after. Of its m samples, in the order of this epoch, number j of the
batch of step s is that at

    position (s w + (j - b) mod w + lane m // lanes) mod m,   lane = floor((j - b) / w) mod lanes

Equal shares are lane 0: one sample after another, so each once an epoch. A rank whose share grows
or moves (distributed/balance.py) reads also from other lanes, further on in the same epoch. Lanes
are m // lanes apart: no sample comes twice within m // lanes // w steps of an epoch. More cannot be
had without counting what was drawn, which a run that goes on from a step would have to be told.

Cost: O(1) memory, but for 8 bytes a sample of its own in "hash", and one pass over all n numbers.
"""

from math import isqrt

import numpy as np

from minillm.errors import UserError

SHARDINGS = ("permutation", "block", "hash")

_ROUNDS = 8  # of Permutation
_PIECE = 1 << 20  # samples hashed at once


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 after which similar numbers have nothing in common: the finalizer of
    SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators")."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Permutation:
    """A random order of 0 ... n - 1 without an array of n: each element is computed when asked for.

    With a = ceil(sqrt(n)), write i = a x + y and repeat, each time with another key,

        x, y = y, (x + mix(y ^ key)) mod a

    Each round can be undone, so all together are a bijection of the a^2 numbers below a^2 >= n (a
    Feistel network, Luby & Rackoff 1988). What comes out at n or above goes in again until it is
    below n, which is still a bijection: "cycle walking" (Black & Rogaway 2002, "Ciphers with
    arbitrary finite domains").

    Args:
        n: at least 1, at most 2^62.
        keys: (rounds,) uint64.
    """

    def __init__(self, n: int, keys: np.ndarray):
        self.n, self.keys = n, keys
        self.root = np.uint64(max(4, isqrt(n - 1) + 1))  # with 3, some orders never come out

    def __call__(self, i: np.ndarray) -> np.ndarray:
        """What stands at positions i, integers below n of any shape: int64."""
        out = self._rounds(i.astype(np.uint64))
        while (over := out >= np.uint64(self.n)).any():
            out[over] = self._rounds(out[over])
        return out.astype(np.int64)

    def _rounds(self, i: np.ndarray) -> np.ndarray:
        x, y = i // self.root, i % self.root
        for key in self.keys:
            x, y = y, (x + mix(y ^ key) % self.root) % self.root
        return x * self.root + y


class Shard:
    """The samples of one rank, and the order in which it draws them.

    Args:
        sharding: "permutation", "block" or "hash".
        n: samples in all.
        batch_size: samples a step, over all ranks.

    Attributes:
        size: how many of the samples are this rank's; of "permutation", all.

    Raises:
        UserError: some rank would have no sample, or none in a batch; raised on every rank.
    """

    def __init__(self, sharding: str, n: int, batch_size: int, seed: int, rank: int, ranks: int):
        if sharding not in SHARDINGS:
            names = ", ".join(SHARDINGS)
            raise UserError(f"no sharding {sharding!r}: choose random, {names}")
        if sharding == "permutation":  # what a single rank would draw
            rank, ranks = 0, 1
        if batch_size < ranks:
            raise UserError(
                f"batch_size {batch_size} over {ranks} ranks leaves some without a sample: raise"
                " it, or start fewer ranks"
            )
        self.seed, self.rank = seed, rank
        self.first = batch_size * rank // ranks
        self.share = batch_size * (rank + 1) // ranks - self.first
        before, after = -(-self.first // self.share), -(-(batch_size - self.first) // self.share)
        self.lanes = before + after
        if sharding == "hash":
            self.own, fewest = _hashed(n, seed, rank, ranks)
            self.size = len(self.own)
        else:
            self.own, fewest = None, n // ranks
            self.start = n * rank // ranks
            self.size = n * (rank + 1) // ranks - self.start
        if not fewest:
            raise UserError(
                f"sharding {sharding!r} of {n} samples leaves some of {ranks} ranks without one:"
                " pass a longer text with --data, a smaller --block_size, or start fewer ranks"
            )

    def draw(self, step: int, start: int, stop: int) -> np.ndarray:
        """The samples that this rank has as numbers [start, stop) of the batch of `step`: int64."""
        lane, within = np.divmod(np.arange(start, stop) - self.first, self.share)
        epoch, position = divmod(step * self.share, self.size)  # of any size: Python's integers
        later, position = np.divmod(position + within, self.size)
        position = (position + lane % self.lanes * self.size // self.lanes) % self.size
        drawn = np.empty_like(position)
        for epochs in np.unique(later):
            now = later == epochs
            drawn[now] = self._order(epoch + int(epochs))(position[now])
        return self.start + drawn if self.own is None else self.own[drawn]

    def _order(self, epoch: int) -> Permutation:
        """Of an epoch: Philox (Salmon et al. 2011) keyed by (seed, epoch), another part a rank."""
        bits = np.random.Philox(key=(self.seed, epoch), counter=(0, 0, 0, self.rank))
        return Permutation(self.size, bits.random_raw(_ROUNDS))


def _hashed(n: int, seed: int, rank: int, ranks: int) -> tuple[np.ndarray, int]:
    """The samples of `rank` in ascending order, and how many the rank with the fewest has."""
    key = np.random.Philox(key=(seed, 0), counter=(0, 0, 1, 0)).random_raw(1)  # no order has it
    own, counts = [], np.zeros(ranks, np.int64)
    for first in range(0, n, _PIECE):
        i = np.arange(first, min(first + _PIECE, n), dtype=np.uint64)
        owner = mix(i ^ key) % np.uint64(ranks)
        counts += np.bincount(owner.astype(np.int64), minlength=ranks)
        own.append(first + np.flatnonzero(owner == rank))
    return np.concatenate(own), int(counts.min())
