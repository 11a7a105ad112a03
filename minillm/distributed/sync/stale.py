"""Parameter servers that wait for nobody, but for one rank too far behind (bounded staleness).

    stale = Stale(comm, optimizer, sums, staleness)      the optimiser is sharded: a part each rank
    stale.push(grad_scale, lr_scale, share)              this rank's gradient, to all servers
    stale.keep_up()                                      parameters for the next step
    stale.settle()                                       all pushed, applied, pulled: a collective

A server applies each rank's gradient when it hears of it, as a step of the optimiser. With
staleness s, a rank begins step t + 1 once every rank has pushed step t - s, and with parameters
that all those pushes are in (stale synchronous parallel: Ho et al. 2013, "More effective
distributed ML via a stale synchronous parallel parameter server").

    p[part j] <- p[part j] - (n_r / n) lr u(g_r[part j])        at server j, for each push of rank r

Learning rate: g_r is the mean over the n_r of the step's n tokens that were rank r's, so that one
step of all ranks moves plain SGD as far as a synchronous step. Adam's moments decay with each push,
p times as fast as in a synchronous run. Each rank clips by the norm of its own gradient.

Cost of a step, per rank: 2 (p - 1) messages of n / p numbers, and as many of two; waiting only at
the bound. Memory: up to s + 1 gradients under way to a slow rank, each of n numbers; with
compression, their codes. Parameters are never compressed.

What it gives up. Gradients are those of parameters that others have changed since, and the order in
which they arrive is by chance: no two runs are alike. There are no threads, so a server works only
while its rank is in `keep_up`, once a step: the part that a slow rank serves changes at its pace,
and from the moment a rank stops, the slowest of the others can take s more steps.

Nobody waits for ever: a rank posts its messages of step t before it leaves step t, and waits for
none but those that others post in a step no later than that. So collectives between steps are safe.
"""

from collections.abc import Sequence

import numpy as np

from minillm.device import Array, device_of, to_device
from minillm.distributed.comm import BARRIER_TAG, Communicator, Request
from minillm.distributed.compression import Compressed, Plain
from minillm.distributed.spans import span
from minillm.distributed.steps import Collective, Steps
from minillm.optim import Optimizer

HEADER_TAG, BODY_TAG = BARRIER_TAG - 1, BARRIER_TAG - 2
PUSH, SKIP, PARAMETERS, END = range(4)  # what a header announces; SKIP, END: nothing follows


class Stale:
    """This rank as a worker and as a server.

    Messages between two ranks come in the order they were sent: a header of two numbers, what
    follows and one more, then an array for each group of the optimiser.

    Attributes:
        pushed: (p,) by rank, how many of its steps this server has heard of and applied.
        pulled: (p,) by server, how many steps of every rank are in its part of the parameters here.
    """

    def __init__(
        self, comm: Communicator, optimizer: Optimizer, sums: Plain | Compressed, staleness: int
    ):
        self.comm, self.optimizer, self.sums = comm, optimizer, sums
        self.staleness = staleness
        self.others = [j % comm.size for j in range(comm.rank + 1, comm.rank + comm.size)]
        self.pushed, self.pulled = np.zeros((2, comm.size), np.int64)
        self._headers: dict[int, tuple[np.ndarray, Request]] = {}  # the next one of each rank
        self._sends: list[Request] = []
        self._settled = True  # since the last step

    def push(self, grad_scale: float, lr_scale: float, share: float) -> None:
        """Send its part of this rank's gradient to each server; apply this server's.

        Args:
            grad_scale, lr_scale: as Optimizer.step takes them.
            share: n_r / n; 0 without data, when there is no gradient to apply.
        """
        self._settled = False
        self._sends = [request for request in self._sends if not request.test()]
        lr_scale *= share
        for rank in self.others:
            if rank not in self._headers:
                self._listen(rank)
            self._announce(rank, PUSH if share else SKIP, lr_scale)
        if share:
            own = []
            for i, group in enumerate(self.optimizer.groups):
                grad = to_device(group.flat.grad, "cpu") * grad_scale  # (n,), ours to keep
                parts = self.sums.encode(self.comm, grad, i)
                self._sends += [self.comm.isend(parts[j], j, BODY_TAG) for j in self.others]
                own.append(parts[self.comm.rank])
            self._apply(own, lr_scale)
        self.pushed[self.comm.rank] += 1

    def keep_up(self) -> None:
        """Apply the gradients that have come, tell all what came of it, and pull what they tell;
        wait until no rank is more than `staleness` steps behind this one."""
        keep_up(self.comm, self.pushed, self)

    def settle(self) -> None:
        """Leave all ranks with the same parameters, and no message under way: a collective of ranks
        that have taken as many steps."""
        if not self._settled:
            settle(self.comm, self.pushed, self)
            self._settled = True

    # --- the messages of one rank -----------------------------------------------------------------

    def hear(self, rank: int) -> Steps[None]:
        """Wait for the next message of a rank, and do what it says. What follows a header was sent
        with it: it is only the network that takes time."""
        header, request = self._headers[rank]
        yield request
        kind, number = header
        if kind == PUSH:
            grads = []
            for group in self.optimizer.groups:
                grads.append(np.empty(group.shards[0].data.size, group.flat.data.dtype))
                data = self.sums.room(grads[-1])
                yield self.comm.irecv(data, rank, BODY_TAG)
                self.sums.decode(data, grads[-1])
            self._apply(grads, number)
        if kind in (PUSH, SKIP):
            self.pushed[rank] += 1
        elif kind == PARAMETERS:
            for group in self.optimizer.groups:
                part = span(group.flat.data.size, rank, self.comm.size)
                yield self.comm.irecv(group.flat.data[part], rank, BODY_TAG)
                group.flat.changed()
            self.pulled[rank] = number
        if kind == END:
            del self._headers[rank]
        else:
            self._listen(rank)

    def hear_what_came(self) -> Steps[None]:
        """All messages that are here already."""
        for rank in self.others:
            while rank in self._headers and self._headers[rank][1].test():
                yield from self.hear(rank)

    def hear_until(self, counts: np.ndarray, least: int) -> Steps[None]:
        """Until each rank's count, one of those above, is at least that."""
        for rank in self.others:
            while counts[rank] < least:
                yield from self.hear(rank)

    def publish(self) -> None:
        """Send this server's part to all."""
        complete = self.pushed.min()
        self.pulled[self.comm.rank] = complete
        parts = [group.shards[0].data.copy() for group in self.optimizer.groups]
        for rank in self.others:
            self._announce(rank, PARAMETERS, complete)
            self._sends += [self.comm.isend(part, rank, BODY_TAG) for part in parts]

    def end(self) -> Steps[None]:
        """Part from all ranks: hear all that they still say."""
        for rank in self.others:
            self._announce(rank, END)
        for rank in self.others:
            while rank in self._headers:
                yield from self.hear(rank)
        yield from self._sends
        self._sends = []

    def _announce(self, rank: int, kind: int, number: float = 0.0) -> None:
        header = np.array([kind, number], np.float64)
        self._sends.append(self.comm.isend(header, rank, HEADER_TAG))

    def _listen(self, rank: int) -> None:
        header = np.empty(2, np.float64)
        self._headers[rank] = header, self.comm.irecv(header, rank, HEADER_TAG)

    def _apply(self, grads: Sequence[Array], lr_scale: float) -> None:
        """A step of the optimiser on this server's part, by its gradient for each group."""
        for group, grad in zip(self.optimizer.groups, grads):
            group.shards[0].grad = to_device(grad, device_of(group.flat.grad))
        self.optimizer.step(1.0, lr_scale)
        for group in self.optimizer.groups:
            group.shards[0].grad = group.flat.grad[group.shards[0].part]


@Collective
def keep_up(comm: Communicator, pushed: np.ndarray, stale: Stale) -> Steps[None]:
    """`Stale.keep_up`. First, the own part must be one that no rank need wait for any longer."""
    least = int(pushed[comm.rank]) - stale.staleness
    yield from stale.hear_until(pushed, least)
    yield from stale.hear_what_came()
    stale.publish()
    yield from stale.hear_until(stale.pulled, least)


@Collective
def settle(comm: Communicator, pushed: np.ndarray, stale: Stale) -> Steps[None]:
    """`Stale.settle`."""
    yield from stale.hear_until(pushed, int(pushed[comm.rank]))
    stale.publish()
    yield from stale.end()
