"""What the tests of bench/gpu.py share: the host's clock in the place of a GPU's, small shapes."""

import time


class Clock:
    """The host's clock in the place of a GPU's events."""

    cupy = None

    def __init__(self):
        self.spins = 0

    def event(self):
        return time.perf_counter()

    def elapsed(self, start, stop):
        return stop - start

    def happened(self, event):
        return False

    def spin(self, seconds):
        self.spins += 1

    def wait(self):
        pass

    def l2_bytes(self):
        return 1 << 12


def reduced(value):
    """A shape with the same relations between its sizes, small enough for the host."""
    if isinstance(value, dict):
        return {key: reduced(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return tuple(map(reduced, value))
    return min(value, 8) if isinstance(value, int) and not isinstance(value, bool) else value
