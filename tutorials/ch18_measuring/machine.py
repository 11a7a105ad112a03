"""A machine with a clock of its own, for chapter 18: what takes how long on it is known exactly.

m = Machine(drift=0.01)          call number j, from 0, takes 1 + 0.01 j times as long
call = m.work(2.0)               call() takes 2 s, times that
m.clock()                        the time now
gpu = m.queued(2.0)              call() takes 1 us; the 2 s pass until m.wait() returns
"""


class Machine:
    """Nothing runs on it; its time only passes.

    Args:
        drift: by how much more every call takes than the one before, as a share of the first.
        compile_seconds: that the first call of each piece of work takes more.
        pauses: numbers of the calls, from 0, during which something else runs for 100 s.
    """

    def __init__(self, drift=0.0, compile_seconds=0.0, pauses=()):
        self.now = self.free = 1000.0
        self.drift, self.compile_seconds, self.pauses = drift, compile_seconds, set(pauses)
        self.calls = 0

    def clock(self):
        """Seconds."""
        return self.now

    def wait(self):
        """Until all that is queued is done."""
        self.now = max(self.now, self.free)

    def _cost(self, seconds, first):
        cost = seconds * (1 + self.drift * self.calls)
        cost += self.compile_seconds * first + 100.0 * (self.calls in self.pauses)
        self.calls += 1
        return cost

    def work(self, seconds):
        """A function that takes so long."""
        state = {"first": True}

        def call():
            self.now += self._cost(seconds, state["first"])
            state["first"] = False

        return call

    def queued(self, seconds):
        """A function that returns at once, and whose work a device does later, in order."""
        state = {"first": True}

        def call():
            self.now += 1e-6
            self.free = max(self.free, self.now) + self._cost(seconds, state["first"])
            state["first"] = False

        return call
