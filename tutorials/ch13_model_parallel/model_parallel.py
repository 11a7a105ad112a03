"""One model on many ranks: your file for chapter 13.

The memory of a rank, a step of ZeRO-1, an MLP shared by ranks, forward and backward, and the order
in which the stages of a pipeline work.
"""

import numpy as np

from minillm.distributed import all_gather, all_reduce, chunk, reduce_scatter

# --- 13.1: memory ---------------------------------------------------------------------------------

# Bytes a parameter: of the weight, its gradient, the optimiser's state.
PRECISIONS = {"mixed": (2, 2, 12), "float32": (4, 4, 8)}


def memory(n, dp=1, tp=1, pp=1, zero=0, precision="mixed"):
    """Bytes of weights, gradients and optimiser state on one rank of dp x tp x pp.

    Each of the tp * pp ranks that share a copy of the model has as many of its n parameters. Among
    the dp copies, ZeRO's stage 1 splits the optimiser's state, stage 2 the gradients as well, stage
    3 the weights as well.

    Returns:
        weights, gradients, state: three numbers.
    """
    # hole 1: three products; what is not split counts whole
    weight, grad, state = (n / (tp * pp) * each for each in PRECISIONS[precision])
    return (
        weight / (dp if zero >= 3 else 1),
        grad / (dp if zero >= 2 else 1),
        state / (dp if zero >= 1 else 1),
    )
    # end of hole


# --- 13.2: ZeRO-1 ---------------------------------------------------------------------------------


def adam(params, grads, m, v, step, lr, beta1=0.9, beta2=0.99, eps=1e-8):
    """A step of Adam, in place; all arrays (k,); `step` counts from 1."""
    m += (1 - beta1) * (grads - m)
    v += (1 - beta2) * (grads**2 - v)
    params -= lr * m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + eps)


def zero1_step(comm, params, grads, m, v, step, lr):
    """A step of Adam on the sum of all ranks' gradients; each rank updates its own chunk.

    Afterwards `params` is the same on all ranks, to the bit. A rank sends 2 (p - 1) / p * n numbers
    and no more. `chunk(comm, array)` is this rank's part of a flat array, a view: of n elements,
    r n // p up to (r + 1) n // p.

    Args:
        params: (n,), the same on all ranks, in place.
        grads: (n,), this rank's; left undefined.
        m, v: Adam's moments, of `chunk(comm, params)` alone, in place.
        step, lr: as `adam` takes them.
    """
    # hole 2: reduce_scatter(comm, array) returns this rank's chunk, summed; all_gather(comm, array)
    own = reduce_scatter(comm, grads)
    adam(chunk(comm, params), own, m, v, step, lr)
    all_gather(comm, params)
    # end of hole


# --- 13.3, 13.4: tensor parallelism ---------------------------------------------------------------


def gelu(x):
    """GELU, the tanh form."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_slope(x):
    """The derivative of `gelu` at x."""
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)


def summed(comm, x):
    """The sum of x over ranks, a new array of its shape and dtype; x stays as it is.

    `all_reduce(comm, array)` works in place, on flat contiguous arrays; x may be transposed or
    sliced.
    """
    # hole 3: a contiguous copy; sum it as a flat array
    y = x.copy(order="C")
    all_reduce(comm, y.reshape(-1))
    return y
    # end of hole


def mlp_forward(comm, x, w1, b1, w2, b2):
    """y = gelu(x W1^T + b1) W2^T + b2, equation (6), of which this rank has some hidden channels.

    Args:
        x: (N, C), the same on all ranks.
        w1, b1: (M_r, C), (M_r,), the rows of this rank's hidden channels.
        w2: (C, M_r), the columns of the same.
        b2: (C,), whole, the same on all ranks.

    Returns:
        y (N, C), the same on all ranks; what `mlp_backward` needs: (x, a, h), where gelu makes
        h (N, M_r) of a (N, M_r).
    """
    # hole 3: one sum over ranks
    a = x @ w1.T + b1
    h = gelu(a)
    return summed(comm, h @ w2.T) + b2, (x, a, h)
    # end of hole


def mlp_backward(comm, dy, saved, w1, w2):
    """Gradients of everything that `mlp_forward` was given, equations (7).

    Args:
        dy: (N, C), the gradient of y, the same on all ranks.
        saved: (x, a, h).

    Returns:
        dx (N, C), the same on all ranks; dw1 (M_r, C), db1 (M_r,), dw2 (C, M_r), this rank's;
        db2 (C,), the same on all ranks.
    """
    # hole 4: one sum over ranks, and the places where there must be none
    x, a, h = saved
    da = dy @ w2 * gelu_slope(a)
    return summed(comm, da @ w1), da.T @ x, da.sum(0), dy.T @ h, dy.sum(0)
    # end of hole


# --- 13.5: pipeline parallelism -------------------------------------------------------------------


def schedule(stage, stages, micro_batches):
    """What a stage does in a step, in order: 1F1B.

    Forward passes until the pipeline is full, as many as there are stages after this one, or
    micro-batches if those are fewer; then one forward, one backward, in turn; then the backward
    passes that are left. Micro-batches go in order, forward and backward.

    Args:
        stage: 0 is the one that has the embeddings, stages - 1 the one that has the loss.

    Returns:
        a list of ("forward", i) and ("backward", i), each once for each i < micro_batches.
    """
    # hole 5: three parts
    ahead = min(stages - 1 - stage, micro_batches)
    order = [("forward", i) for i in range(ahead)]
    for i in range(ahead, micro_batches):
        order += [("forward", i), ("backward", i - ahead)]
    return order + [("backward", i) for i in range(micro_batches - ahead, micro_batches)]
    # end of hole


def clock(schedules, forward=1, backward=2):
    """When each stage works, if messages take no time.

    Args:
        schedules: by stage, what `schedule` returns.
        forward, backward: how long each takes.

    Returns:
        by stage, a list of (start, kind, i); and the time at which all are done.

    Raises:
        RuntimeError: the stages wait for one another.
    """
    stages, done, times = len(schedules), {}, [[] for _ in schedules]
    free, left = [0] * stages, sum(map(len, schedules))
    while left:
        before = left
        for s, order in enumerate(schedules):
            while len(times[s]) < len(order):
                kind, i = order[len(times[s])]
                if kind == "forward":
                    needs = [("forward", i, s - 1)] if s else []
                else:
                    needs = [("forward", i, s)] + [("backward", i, s + 1)] * (s < stages - 1)
                if any(need not in done for need in needs):
                    break
                start = max([free[s]] + [done[need] for need in needs])
                free[s] = done[kind, i, s] = start + (forward if kind == "forward" else backward)
                times[s].append((start, kind, i))
                left -= 1
        if left == before:
            stuck = [f"stage {s}: {order[len(done_)]}" for s, (order, done_) in
                     enumerate(zip(schedules, times)) if len(done_) < len(order)]  # fmt: skip
            raise RuntimeError(f"deadlock: {'; '.join(stuck)}")
    return times, max(free)
