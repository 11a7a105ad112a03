"""parameter-server: ranks push gradients to servers, servers update, ranks pull parameters.

Every rank is a worker and a server: rank r serves the r-th of p parts of the parameters, and keeps
the optimiser's state for that part alone (Li et al. 2014, "Scaling distributed machine learning
with the parameter server", OSDI).

    push    part j of g_r, rank r's gradient, to server j
    update  g[part j] = sum over ranks of g_r[part j]; then part j of p and its state, by server j
    pull    part j of p, from server j to every rank

This is the synchronous one, staleness = 0: exact, and the same bits at every run, since a server
adds the others' gradients to its own in order of rank. Cost of a step with n numbers, per rank,

    2 (p - 1) messages of n / p numbers:  2 latency + 2 (p - 1) / p * n bytes / bandwidth

The bytes are those of a ring, in which no link ever carries two messages at once; here p - 1 arrive
at each server together, after one latency instead of p - 1. Nothing hides behind backward. Memory:
the optimiser's state shrinks to 1 / p; two parts of n / p arrive at a time.

With staleness = s > 0 nobody waits for the sum: see stale.py.
"""

from typing import Any

from minillm.device import Array
from minillm.distributed.comm import Communicator
from minillm.distributed.compression import Plain
from minillm.distributed.reduction import OPS, combine_arriving, on_host
from minillm.distributed.ring import chunks
from minillm.distributed.steps import Collective, Steps, run
from minillm.distributed.sync.sharded import Sharded
from minillm.distributed.sync.stale import Stale
from minillm.errors import UserError
from minillm.kernels.reduce import sum_of_squares


class ParameterServer(Sharded):
    """Every rank serves its part of the parameters to all.

    Args:
        staleness: by how many steps a rank may be ahead of the slowest; 0 is synchronous.
        **options: as Strategy takes them.

    Raises:
        UserError: a staleness below 0, or a model that is split over ranks.
    """

    def __init__(self, *args: Any, staleness: int = 0, **options: Any):
        if staleness < 0:
            raise UserError(f"staleness is {staleness}: it must not be negative")
        super().__init__(*args, **options)
        if self.model.size > 1:
            raise UserError(
                "a parameter server needs the whole model on every rank: choose another --sync, or"
                " --tp 1 --pp 1"
            )
        for group in self.optimizer.groups:
            group.shard([self.own(slice(0, group.flat.data.size))])
        self.exact = self.replicas = staleness == 0
        if staleness:
            self.owed = "owed_means"  # gradients of each rank's own mean, clipped
        self.stale = Stale(self.comm, self.optimizer, self.sums, staleness)
        self._share = 0.0  # of this rank in the tokens of the step

    def divisor(self, own: int, everyone: int) -> int:
        self._share = own / everyone
        return super().divisor(own, everyone)

    def finish(self) -> None:
        groups = self.optimizer.groups
        for group in groups:
            group.flat.fill_missing_grads()
        with self.exposed():
            self.sum_late()
        self.own_squares = sum(float(sum_of_squares(group.flat.grad)) for group in groups)
        if self.exact:
            with self.exposed():
                for i, group in enumerate(groups):
                    self._push(group.flat.grad, i)

    def _push(self, grad: Array, tag: int) -> None:
        if isinstance(self.sums, Plain):
            push(self.comm, grad, tag)
        else:  # a compressed reduce-scatter is the same, with its messages encoded
            run(self.sums.reduce_scatter(self.comm, grad, tag))

    def total(self, squares: float) -> float:
        return super().total(squares) if self.exact else self.own_squares

    def step(self, grad_scale: float = 1.0, lr_scale: float = 1.0) -> None:
        """Update this server's part, and pull the others'."""
        if self.exact:
            self.optimizer.step(grad_scale, lr_scale)
            with self.exposed():
                for i, group in enumerate(self.optimizer.groups):
                    pull(self.comm, group.flat.data, i)
        else:
            self.stale.push(grad_scale, lr_scale, self._share)
            with self.exposed():
                self.stale.keep_up()
        self._share = 0.0
        self.optimizer.zero_grad()

    def settle(self) -> None:
        """Apply all gradients everywhere; afterwards no message is under way."""
        if not self.exact:
            with self.exposed():
                self.stale.settle()
            self.optimizer.zero_grad()


@Collective
def push(comm: Communicator, grad: Array, tag: int = 0) -> Steps[None]:
    """Add up part r of `grad` (n,) at rank r. Other parts stay as they are."""
    p, r = comm.size, comm.rank

    def steps(host: Array) -> Steps[None]:
        parts = chunks(comm, host)
        arriving = [(parts[r], j) for j in range(p) if j != r]
        sends = [(parts[j % p], j % p) for j in range(r + 1, r + p)]  # not all to rank 0 first
        yield from combine_arriving(comm, arriving, OPS["sum"], tag, sends)

    yield from on_host(comm, grad, steps)


@Collective
def pull(comm: Communicator, data: Array, tag: int = 0) -> Steps[None]:
    """Give every rank part r of `data` (n,) of rank r, in place."""
    p, r, parts = comm.size, comm.rank, chunks(comm, data)
    others = [j % p for j in range(r + 1, r + p)]
    receives = [comm.irecv(parts[j], j, tag) for j in reversed(others)]  # r - 1 sends here first
    sends = [comm.isend(parts[r], j, tag) for j in others]
    yield from receives
    yield from sends
