"""What messages cost: latency + bytes / bandwidth, and the collectives made of them.

In: a Link, a number of ranks, bytes. Out: seconds. The formulas are those of the collectives in
minillm/distributed/ (ring.py, doubling.py, tree.py), which name their sources; `adding` is what
they leave out: a rank also reads, adds and writes what it receives.

Two levels: a Group has `local` members on each of `nodes` nodes. It reduces inside the nodes, then
members with the same place in each node reduce their share between them, each through a network
port of its own; and back (Cho et al. 2019, "BlueConnect").
"""

from dataclasses import dataclass
from math import ceil, log2


@dataclass(frozen=True)
class Link:
    """Between any two ranks, in each direction at once.

    Attributes:
        latency: seconds before the first byte arrives.
        bandwidth: bytes/s.
        adding: seconds a byte to add what was received; 0 where that hides behind the next message.
    """

    latency: float
    bandwidth: float
    adding: float = 0.0

    def send(self, nbytes: float) -> float:
        """A message from rank to rank."""
        return self.latency + nbytes / self.bandwidth

    def reduce_scatter(self, p: int, nbytes: float) -> float:
        """Around a ring of `p` ranks, of an array of `nbytes`."""
        return self.all_gather(p, nbytes) + (p - 1) / p * nbytes * self.adding

    def all_gather(self, p: int, nbytes: float) -> float:
        """Around a ring of `p` ranks, of an array that has `nbytes` in the end."""
        return (p - 1) * self.latency + (p - 1) / p * nbytes / self.bandwidth

    def ring(self, p: int, nbytes: float) -> float:
        """All-reduce around a ring: the fewest bytes."""
        return self.reduce_scatter(p, nbytes) + self.all_gather(p, nbytes)

    def doubling(self, p: int, nbytes: float) -> float:
        """All-reduce by recursive doubling: the fewest messages."""
        rounds = p.bit_length() - 1
        return rounds * (self.send(nbytes) + nbytes * self.adding) + self._fold(p, nbytes)

    def halving(self, p: int, nbytes: float) -> float:
        """All-reduce by recursive halving and doubling: the ring's bytes in few messages."""
        core = 1 << p.bit_length() - 1
        moved = (core - 1) / core * nbytes
        rounds = 2 * (core.bit_length() - 1) * self.latency
        return rounds + moved * (2 / self.bandwidth + self.adding) + self._fold(p, nbytes)

    def all_reduce(self, p: int, nbytes: float) -> float:
        """The fastest of the three."""
        return min(self.ring(p, nbytes), self.doubling(p, nbytes), self.halving(p, nbytes))

    def broadcast(self, p: int, nbytes: float) -> float:
        """Along a binomial tree."""
        return ceil(log2(p)) * self.send(nbytes)

    def _fold(self, p: int, nbytes: float) -> float:
        """What ranks beyond the last power of two add: their array to another, the result back."""
        return 0.0 if p & (p - 1) == 0 else 2 * self.send(nbytes) + nbytes * self.adding


@dataclass(frozen=True)
class Group:
    """Ranks that communicate: `local` of them on each of `nodes` nodes."""

    local: int
    nodes: int
    inside: Link
    between: Link

    def all_reduce(self, nbytes: float) -> float:
        """Seconds to sum an array of `nbytes`."""
        return (
            self.inside.reduce_scatter(self.local, nbytes)
            + self.between.all_reduce(self.nodes, nbytes / self.local)
            + self.inside.all_gather(self.local, nbytes)
            if self.nodes > 1
            else self.inside.all_reduce(self.local, nbytes)
        )

    def reduce_scatter(self, nbytes: float) -> float:
        """Seconds until each has the sum of its part of `nbytes`."""
        return self.inside.reduce_scatter(self.local, nbytes) + self.between.reduce_scatter(
            self.nodes, nbytes / self.local
        )

    def all_gather(self, nbytes: float) -> float:
        """Seconds until each has all `nbytes`."""
        return self.between.all_gather(self.nodes, nbytes / self.local) + self.inside.all_gather(
            self.local, nbytes
        )

    def broadcast(self, nbytes: float) -> float:
        """Seconds until what one has, all have."""
        return self.between.broadcast(self.nodes, nbytes) + self.inside.broadcast(
            self.local, nbytes
        )

    def send(self, nbytes: float) -> float:
        """Seconds of a message to the next member, which is on another node if there are any."""
        return (self.between if self.nodes > 1 else self.inside).send(nbytes)
