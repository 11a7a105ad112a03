"""Your file for chapter 14: safe saving, exact resuming, diagnosis, how often to save."""

import numpy as np


def save(disk, name, data):
    """Put `data` (bytes) under `name`, so that a power cut at any moment leaves the old or the new.

    There may be an old file of that name. After `save` has returned, a cut must leave the new one.
    No other file may be left when it has returned.

    Args:
        disk: disk.py, beside the text. You may use write(name, data), flush(name), rename(old,
            new), remove(name), flush_names(), read(name), names().
    """
    # hole 1: no return value; write elsewhere, take the old one's place, flush what must be flushed
    temporary = name + ".tmp"
    disk.write(temporary, data)
    disk.flush(temporary)
    disk.rename(temporary, name)
    disk.flush_names()
    # end of hole


class Trainer:
    """A linear model, trained with AdamW, a learning rate that falls, dropout, and samples drawn
    without repetition in an order that is new each epoch.

    Args:
        seed: of everything.
    """

    SAMPLES, FEATURES, BATCH, STEPS = 20, 5, 6, 40

    def __init__(self, seed=0):
        draw = np.random.default_rng(99)
        self.x = draw.standard_normal((self.SAMPLES, self.FEATURES))
        self.y = self.x @ draw.standard_normal(self.FEATURES)
        self.rng = np.random.default_rng(seed)
        self.weights = self.rng.standard_normal(self.FEATURES)
        self.mean = np.zeros(self.FEATURES)  # AdamW's first moment
        self.square = np.zeros(self.FEATURES)  # and second
        self.step_number = 0
        self.order = self.rng.permutation(self.SAMPLES)  # of this epoch
        self.position = 0  # in it

    def step(self):
        """One step; the loss before it."""
        if self.position + self.BATCH > self.SAMPLES:
            self.order, self.position = self.rng.permutation(self.SAMPLES), 0
        batch = self.order[self.position : self.position + self.BATCH]
        self.position += self.BATCH
        kept = self.rng.random(self.FEATURES) > 0.1
        x = self.x[batch] * kept / 0.9
        error = x @ self.weights - self.y[batch]
        gradient = x.T @ error / self.BATCH
        self.step_number += 1
        t, lr = self.step_number, 0.1 * (1 - self.step_number / self.STEPS)
        self.mean *= 0.9
        self.mean += 0.1 * gradient
        self.square *= 0.99
        self.square += 0.01 * gradient**2
        update = (self.mean / (1 - 0.9**t)) / (np.sqrt(self.square / (1 - 0.99**t)) + 1e-8)
        self.weights -= lr * (update + 0.01 * self.weights)
        return float(error @ error) / self.BATCH

    def state(self):
        """All that the next steps depend on, as it is now: a dict that later steps leave alone."""
        # hole 2: return everything that step() both reads and changes
        return {
            "weights": self.weights.copy(),
            "mean": self.mean.copy(),
            "square": self.square.copy(),
            "step_number": self.step_number,
            "order": self.order.copy(),
            "position": self.position,
            "rng": self.rng.bit_generator.state,
        }
        # end of hole

    def load_state(self, state):
        """Go on as the trainer did whose state this is, which may be loaded again later."""
        # hole 2: the same, the other way round
        for name in ("weights", "mean", "square", "order"):
            setattr(self, name, state[name].copy())
        self.step_number = state["step_number"]
        self.position = state["position"]
        self.rng.bit_generator.state = state["rng"]
        # end of hole


def diagnose(records):
    """Which ranks are to blame, from what each has noted of its latest collective: (kind, ranks),
    a str and a list of int in rising order.

    Args:
        records: by rank, (number, what, inside): the number of its latest collective, counted from
            1; what that was, "all_reduce of (4096,) float32"; whether it is still inside. None: a
            rank whose process is gone.

    Returns:
        The first of these that applies:
        ("gone", ranks)      some ranks have no record: those.
        ("mismatch", ranks)  ranks with the same number differ in what it is; of several such
                             numbers, the lowest. Of the groups of ranks with that number, one
                             for each `what`, the smallest; if several are, the ranks of all groups.
        ("late", ranks)      a rank is inside a collective, and others, with lower numbers, have
                             not reached it. Of those, the ones with the lowest number; and of
                             these, if some are outside, only they: one that is inside waits itself.
        ("none", [])         nobody waits for one that is behind.
    """
    # hole 3: return gone, else mismatch, else late, else none
    gone = sorted(rank for rank, record in records.items() if record is None)
    if gone:
        return "gone", gone
    for number in sorted({record[0] for record in records.values()}):
        sides = {}
        for rank, (own, what, _) in sorted(records.items()):
            if own == number:
                sides.setdefault(what, []).append(rank)
        if len(sides) > 1:
            fewest = min(map(len, sides.values()))
            blamed = [ranks for ranks in sides.values() if len(ranks) == fewest]
            if len(blamed) > 1:
                blamed = sides.values()
            return "mismatch", sorted(rank for ranks in blamed for rank in ranks)
    places = {rank: (number, inside) for rank, (number, _, inside) in records.items()}
    reached = max((number for number, inside in places.values() if inside), default=0)
    behind = {rank: place for rank, place in places.items() if place[0] < reached}
    if not behind:
        return "none", []
    lowest = min(behind.values())  # False, outside, is less than True
    return "late", sorted(rank for rank, place in behind.items() if place == lowest)
    # end of hole


def plan(save_seconds, restart_seconds, part_mtbf, parts):
    """How often to save, and what share of the time is then useful: equations (1), (3), (4).

    Args:
        save_seconds: that training stands still for a checkpoint.
        restart_seconds: from a failure to the first new step.
        part_mtbf: seconds between two failures of one part, on average.
        parts: how many there are, any of which ends the run.

    Returns:
        (interval, goodput): seconds between the beginnings of two checkpoints, and the share of
        time that is neither saving, nor lost work, nor restarting; at least 0.
    """
    # hole 4: return both; the mean time between failures of all parts, Young's interval, (4)
    mtbf = part_mtbf / parts
    interval = np.sqrt(2 * save_seconds * mtbf)
    waste = save_seconds / interval + interval / (2 * mtbf) + restart_seconds / mtbf
    return interval, max(0.0, 1 - waste)
    # end of hole
