"""Your file for chapter 19: a step's time, a rank's memory, the best grid, the bill."""


def data_parallel_step(parameters, tokens, p, rate, latency, bandwidth, grad_bytes=4):
    """Time of a step of `p` ranks, each with a copy of the model: (seconds, exposed seconds).

    Computing takes 6 operations a parameter and token, of which the last 4 are backward. Gradients
    are summed around a ring, equation (1) of the text, from the beginning of backward on, without
    slowing it down. What of the ring backward does not hide is exposed, and adds to the step.

    Args:
        tokens: of a step, over all ranks.
        rate: FLOP/s of a rank.
        latency, bandwidth: seconds a message; bytes/s of a rank, sending and receiving at once.
        grad_bytes: of a parameter's gradient.
    """
    # hole 1: return both; computing, the share of it that is backward, the ring, what is exposed
    computing = 6 * parameters * tokens / (p * rate)
    backward = computing * 4 / 6
    ring = 2 * (p - 1) * latency + 2 * (p - 1) / p * grad_bytes * parameters / bandwidth
    exposed = max(0.0, ring - backward)
    return computing + exposed, exposed
    # end of hole


def state_bytes(parameters, dp, tp, pp, zero, weight=2, grad=2, optimizer=12):
    """Bytes of weights, gradients and optimiser state on one rank, without activations: a number.

    tp * pp ranks share a copy of the model evenly. Of its part, the dp ranks that have the same one
    split among them: with zero=0 nothing; 1: the optimiser's state; 2: gradients as well; 3: all.

    Args:
        weight, grad, optimizer: bytes a parameter; the defaults are mixed precision with Adam.
    """
    # hole 2: return the bytes; the part of this rank, and which of its three kinds dp splits
    part = parameters / (tp * pp)
    kept = weight / (dp if zero >= 3 else 1)
    kept += grad / (dp if zero >= 2 else 1)
    kept += optimizer / (dp if zero >= 1 else 1)
    return part * kept
    # end of hole


def fastest_grid(ranks, heads, layers, batch, devices, seconds, memory, limit):
    """The fastest grid that fits: (dp, tp, pp).

    Looks at all with dp * tp * pp == ranks where
    - tp divides the heads, and the `devices` of a node, so that it stays inside one,
    - each of the pp stages has a layer, at least, and each of the dp copies a sample of the batch,
    - memory(dp, tp, pp) is at most `limit`.
    Of equally fast ones, the first in the order of (tp, pp).

    Args:
        seconds, memory: functions of (dp, tp, pp).

    Raises:
        ValueError: none is possible.
    """
    # hole 3: return the grid; look at all tp and pp whose product divides the ranks
    best = None
    for tp in range(1, ranks + 1):
        for pp in range(1, ranks // tp + 1):
            if ranks % (tp * pp):
                continue
            grid = ranks // (tp * pp), tp, pp
            if heads % tp or devices % tp or pp > layers or grid[0] > batch:
                continue
            if memory(*grid) <= limit and (best is None or seconds(*grid) < seconds(*best)):
                best = grid
    if best is None:
        raise ValueError(f"nothing of {ranks} ranks fits")
    return best
    # end of hole


def bill(parameters, tokens, ranks, peak, mfu, goodput, price, watts):
    """What a run takes: (days, money, MWh), equation (5).

    Args:
        tokens: in all, to train on.
        peak: FLOP/s of a device on its data sheet, which `mfu` is a share of.
        goodput: share of the time that is useful (chapter 14).
        price: of a device for an hour.
        watts: of a device.
    """
    # hole 4: return all three; operations over useful operations a second, then device hours
    seconds = 6 * parameters * tokens / (ranks * peak * mfu * goodput)
    hours = ranks * seconds / 3600
    return seconds / 86400, hours * price, hours * watts / 1e6
    # end of hole
