"""Ranks that do not wait for one another: your file for chapter 12.

A server of parameters, a round of local SGD, top-k with error feedback, shares by speed. `race`,
which lets workers run against a server in simulated time, is given.
"""

import heapq

import numpy as np

# --- 12.1: a parameter server ---------------------------------------------------------------------


class Server:
    """The parameters of all workers, and how far each of them has come.

    Args:
        params: (n,), copied.
        workers: how many there are.
        lr: learning rate of plain SGD.
        staleness: by how many steps a worker may be ahead of the slowest.

    Attributes:
        params: (n,), this server's own memory.
        pushed: (workers,) integers, how many gradients of each worker have been applied.
    """

    def __init__(self, params, workers, lr, staleness):
        self.params = np.array(params, np.float64)
        self.workers, self.lr, self.staleness = workers, lr, staleness
        self.pushed = np.zeros(workers, np.int64)

    def push(self, worker, grad):
        """Apply the gradient (n,) of one worker at once, and count it.

        Equation (4): each worker has 1 / workers of the data, so that one push of every worker
        moves as far as one synchronous step with the mean of their gradients.
        """
        # hole 1: equation (4), in place, and the count
        self.params -= self.lr / self.workers * grad
        self.pushed[worker] += 1
        # end of hole

    def may_begin(self, worker):
        """Whether a worker may begin its next step: it has pushed at most `staleness` gradients
        more than the worker that has pushed the fewest."""
        # hole 1: a bool, from self.pushed and self.staleness
        return bool(self.pushed[worker] - self.pushed.min() <= self.staleness)
        # end of hole

    def pull(self):
        """The parameters (n,) as they are now, for a worker to keep: they stay so, whatever is
        pushed afterwards, and what the worker does to them changes nothing here."""
        # hole 1: what a worker computes with
        return self.params.copy()
        # end of hole


def race(server, gradient, seconds):
    """Let workers pull, compute and push until each has done all its steps; messages take no time.

    Args:
        server: a Server.
        gradient: gradient(worker, params) -> (n,).
        seconds: (workers, steps), how long each step of each worker takes.

    Returns:
        the time at which the last worker is done; for each push, in order, how many pushes of
        others there were since its parameters were pulled: its delay.
    """
    workers, steps = seconds.shape
    idle, running, delays, now = list(range(workers)), [], [], 0.0
    pulled = [None] * workers  # parameters, and the number of pushes before them
    while idle or running:
        for worker in [w for w in idle if server.may_begin(w)]:
            idle.remove(worker)
            pulled[worker] = server.pull(), len(delays)
            heapq.heappush(running, (now + seconds[worker, server.pushed[worker]], worker))
        now, worker = heapq.heappop(running)
        params, before = pulled[worker]
        delays.append(len(delays) - before)
        server.push(worker, gradient(worker, params))
        if server.pushed[worker] < steps:
            idle.append(worker)
    return now, delays


# --- 12.2: local SGD ------------------------------------------------------------------------------


def average(params, start, share, all_reduce):
    """End a round, in place: params (n,) <- start + sum over ranks of share_r (params_r - start).

    Args:
        params: (n,), this rank's after its own steps.
        start: (n,), what all ranks began the round with; it stays as it is.
        share: of all ranks' tokens in the round, this rank's; they add up to 1.
        all_reduce: all_reduce(array) replaces an array (n,) by its sum over ranks, in place, or
            by something near it: it may compress. So give it changes, not parameters.
    """
    # hole 2: equation (7)
    change = share * (params - start)
    all_reduce(change)
    params[...] = start + change
    # end of hole


def local_round(params, gradient, lr, steps, share, all_reduce):
    """A round of local SGD, in place: `steps` steps on this rank alone, then the average.

    Args:
        params: (n,), the same on all ranks; and the same again afterwards.
        gradient: gradient(params) -> (n,), this rank's.
        lr, steps: of params <- params - lr gradient(params).
        share, all_reduce: as `average` takes them.
    """
    # hole 2: remember where the round began, take the steps, call `average`
    start = params.copy()
    for _ in range(steps):
        params -= lr * gradient(params)
    average(params, start, share, all_reduce)
    # end of hole


# --- 12.3: compression ----------------------------------------------------------------------------


def top_k(x, k):
    """The k elements of x (n,) of the largest magnitude, 0 < k <= n, in any order.

    Returns:
        values (k,), with their signs; places (k,), integers: values = x[places].
    """
    # hole 3: sort by magnitude, take the last k
    places = np.argsort(np.abs(x), kind="stable")[len(x) - k :]
    return x[places], places
    # end of hole


def compress(grad, error, k):
    """What to send of a gradient: the top k of what is owed, equation (9).

    Args:
        grad: (n,), stays as it is.
        error: (n,), what earlier steps have left unsent; becomes what this one leaves, in place.
        k: how many elements to send.

    Returns:
        values (k,), places (k,).
    """
    # hole 3: add to the error, choose, and take what is sent from the error
    error += grad
    values, places = top_k(error, k)
    error[places] = 0
    return values, places
    # end of hole


# --- 12.4: stragglers -----------------------------------------------------------------------------


def shares(batch_size, speeds):
    """How many samples of a batch each rank takes: in proportion to its speed, at least 1.

    By largest remainder: each gets the whole part of its quota batch_size * v_r / sum(v), and those
    with the largest fractions one more, the lower rank of two equal ones, until the sum is
    batch_size. A rank whose quota is below 1 gets 1, and the others divide what is left, by the
    same rule: their quotas shrink, and one of them may fall below 1 in turn.

    Args:
        batch_size: at least one sample a rank.
        speeds: v_r > 0, samples a second of each rank.

    Returns:
        a list of integers, by rank.
    """
    # hole 4: set aside ranks whose quota is below 1 until there are none; whole parts; remainders
    speeds, result = np.asarray(speeds, np.float64), np.ones(len(speeds), np.int64)
    ranks, left = np.arange(len(speeds)), batch_size
    while True:
        quota = left * speeds[ranks] / speeds[ranks].sum()
        if (quota >= 1).all():
            break
        left -= int((quota < 1).sum())
        ranks = ranks[quota >= 1]
    result[ranks] = np.floor(quota)
    most = np.argsort(np.floor(quota) - quota, kind="stable")
    result[ranks[most[: batch_size - result.sum()]]] += 1
    return [int(n) for n in result]
    # end of hole
