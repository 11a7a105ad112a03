"""A network that works by itself: a message of b bytes arrives alpha + beta b seconds after it was
asked for, and takes no core meanwhile, as with a network card.

    run_threads(2, lambda comm: train(SlowLink(comm, alpha=1e-3, beta=1 / 50e6)))

The link into a rank carries one message at a time. Between threads of one process, data are there
at once; it is the receiver that is not told before their time. All-reduces on it take a ring.
"""

import time
from math import inf

from minillm.distributed import Communicator


class SlowLink(Communicator):
    """`parent`, a rank of run_threads, on a link with this latency and these seconds a byte."""

    def __init__(self, parent, alpha, beta):
        super().__init__(parent.rank, parent.size)
        self.parent, self.alpha, self.beta = parent, alpha, beta
        self.tables = {self.layout: [(inf, "ring")]}
        self.free = 0.0  # when the link into this rank has delivered all it was asked for

    def _isend(self, data, dest, tag):
        return self.parent._isend(data, dest, tag)

    def _irecv(self, data, source, tag):
        seconds = self.alpha + self.beta * data.nbytes
        self.free = max(self.free, time.perf_counter()) + seconds
        return _Arriving(self.parent._irecv(data, source, tag), self.free)

    def abort(self, code=1):
        self.parent.abort(code)


class _Arriving:
    """A receive that is not done before its time."""

    def __init__(self, request, due):
        self.request, self.due = request, due

    def test(self):
        return time.perf_counter() >= self.due and self.request.test()

    def wait(self):
        self.request.wait()
        time.sleep(max(0.0, self.due - time.perf_counter()))
