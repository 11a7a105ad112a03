"""Exercises, hints and wrong answers of chapter 10: a ring all-reduce, and what it costs."""

from collections.abc import Callable

from minillm.learn import Exercise, Plug, Wrong
from minillm.tutorials.ch10_ring.checks import (
    check_all_gather,
    check_costs,
    check_exchange,
    check_reduce_scatter,
    check_ring,
)

FILES = ("ring.py",)

EXERCISES = (
    Exercise(
        "Exchange without deadlock",
        check_exchange,
        hints=(
            "What can a rank do before it waits for anything?",
            "irecv and isend both return at once. Call both, keep both requests, then wait.",
            "requests = [comm.irecv(theirs, source, tag), comm.isend(mine, dest, tag)], then"
            " request.wait() for each of the two.",
        ),
        wrong=(
            Wrong(
                "everyone sends first",
                "    requests = [comm.irecv(theirs, source, tag), comm.isend(mine, dest, tag)]\n"
                "    for request in requests:\n        request.wait()",
                "    comm.send(mine, dest, tag)\n    comm.recv(theirs, source, tag)",
                says="deadlock: rank 0 sends to 1",
            ),
            Wrong(
                "everyone receives first",
                "    requests = [comm.irecv(theirs, source, tag), comm.isend(mine, dest, tag)]\n"
                "    for request in requests:\n        request.wait()",
                "    comm.recv(theirs, source, tag)\n    comm.send(mine, dest, tag)",
                says="deadlock: rank 0 receives from 1",
            ),
            Wrong(
                "does not wait for the send",
                "for request in requests:",
                "for request in requests[:1]:",
                says="the send was not done when exchange returned",
            ),
            Wrong(
                "does not wait for the receive",
                "for request in requests:",
                "for request in requests[1:]:",
                says="received[0] is -1, expected",
            ),
            Wrong(
                "the wrong way round",
                "comm.irecv(theirs, source, tag), comm.isend(mine, dest, tag)]",
                "comm.irecv(theirs, dest, tag), comm.isend(mine, source, tag)]",
                says="3 ranks, arrays of 1: what rank 0 received[0] is 1, expected 2",
            ),
        ),
        limit=10,
    ),
    Exercise(
        "Reduce-scatter",
        check_reduce_scatter,
        hints=(
            "In step s each rank passes on the chunk into which it has just added. Which one must"
            " it begin with, so that it ends with chunk r?",
            "Send array[chunk(n, p, r - 1 - s)], receive into a new array as long as chunk"
            " r - 2 - s, combine that with the chunk.",
            "own = array[chunk(n, p, r - 2 - s)]; arrived = np.empty_like(own); exchange(...);"
            " ufunc(own, arrived, out=own)",
        ),
        wrong=(
            Wrong(
                "ends one chunk too far",
                "own = array[chunk(n, p, r - 2 - s)]\n        arrived = np.empty_like(own)\n"
                "        exchange(comm, array[chunk(n, p, r - 1 - s)]",
                "own = array[chunk(n, p, r - 1 - s)]\n        arrived = np.empty_like(own)\n"
                "        exchange(comm, array[chunk(n, p, r - s)]",
                says="n = 12: chunk 0 on rank 0[0] is",
            ),
            Wrong(
                "replaces instead of adding",
                "        ufunc(own, arrived, out=own)",
                "        own[...] = arrived",
                says="n = 12: chunk 0 on rank 0[0] is",
            ),
            Wrong(
                "receives into its own chunk",
                "arrived = np.empty_like(own)",
                "arrived = own",
                says="n = 12: chunk 0 on rank 0[0] is",
            ),
            Wrong(
                "one step too few",
                "for s in range(p - 1):\n        own",
                "for s in range(p - 2):\n        own",
                says="bytes, expected 64",
            ),
            Wrong(
                "always adds",
                "        ufunc(own, arrived, out=own)",
                "        own += arrived",
                says="ufunc=np.maximum",
            ),
            Wrong(
                "forgets the tag",
                "right, arrived, left, tag)",
                "right, arrived, left)",
                says="called with tag=4, sends a message with tag 0",
            ),
        ),
        limit=10,
    ),
    Exercise(
        "All-gather",
        check_all_gather,
        hints=(
            "Which chunk does rank r have at the beginning, and which has just come after step s?",
            "Send chunk r - s; receive chunk r - 1 - s, straight into its place.",
            "exchange(comm, array[chunk(n, p, r - s)], right, array[chunk(n, p, r - 1 - s)], left,"
            " tag)",
        ),
        wrong=(
            Wrong(
                "sends its own chunk every time",
                "exchange(comm, array[chunk(n, p, r - s)]",
                "exchange(comm, array[chunk(n, p, r)]",
                says="n = 12: the array of rank 0[4] is",
            ),
            Wrong(
                "indices of the reduce-scatter",
                "arriving = array[chunk(n, p, r - 1 - s)]\n"
                "        exchange(comm, array[chunk(n, p, r - s)]",
                "arriving = array[chunk(n, p, r - 2 - s)]\n"
                "        exchange(comm, array[chunk(n, p, r - 1 - s)]",
                says="n = 12: the array of rank 0[",
            ),
            Wrong(
                "one step too many",
                "for s in range(p - 1):\n        arriving",
                "for s in range(p):\n        arriving",
                says="has sent 96 bytes, expected 64",
            ),
            Wrong(
                "to the left",
                "exchange(comm, array[chunk(n, p, r - s)], right, arriving, left, tag)",
                "exchange(comm, array[chunk(n, p, r - s)], left, arriving, right, tag)",
                says="sends to 2, expected 1",
            ),
            Wrong(
                "forgets the tag",
                "right, arriving, left, tag)",
                "right, arriving, left)",
                says="called with tag=4, sends a message with tag 0",
            ),
        ),
        limit=10,
    ),
    Exercise(
        "The ring in pieces",
        check_ring,
        hints=(
            "One loop over all messages. In turn m, what must be posted before you may yield the"
            " request of receive m? And what must have left before something arrives in its place?",
            "Post the first receive before the loop. In turn m: send; post receive m + 1; yield the"
            " request of receive m; combine. Message m arrives in buffers[m % 2] if it is to be"
            " combined, else in part(m, 2) itself, from where message m - summed was sent: yield"
            " that send first.",
            "for m in range(total): sends.append(isend of part(m, 1)); current = receive; if m + 1"
            " < total: [yield sends[m + 1 - summed] if m + 1 >= summed]; receive = irecv into(m +"
            " 1); yield current; combine if m < summed. At the end: yield from sends.",
        ),
        wrong=(
            Wrong(
                "one buffer",
                "buffers[m % 2]",
                "buffers[0]",
                says="with an array in use",
            ),
            Wrong(
                "receives where a send is under way",
                "yield sends[m + 1 - summed]",
                "pass",
                says="with an array in use",
            ),
            Wrong(
                "waits itself",
                "        yield current",
                "        current.wait()",
                says="ring waits for a request itself",
            ),
            Wrong(
                "posts a receive when it needs it",
                "        current = receive\n        if m + 1 < total:",
                "        current = receive\n        yield current\n        if m + 1 < total:",
                says="waits for receive 1 before it has posted the next",
            ),
            Wrong(
                "forgets the last sends",
                "    yield from sends",
                "    pass",
                says="of its messages were waited for",
            ),
            Wrong(
                "adds in every step",
                "        if m < summed:\n            ufunc",
                "        if True:\n            ufunc",
                says="the array of rank 0[",
            ),
        ),
        limit=15,
    ),
    Exercise(
        "A model of its cost",
        check_costs,
        hints=(
            "Count messages that follow one another, and the bytes of each.",
            "root: p - 1 arrays come, p - 1 go. tree: ceil(log2 p) levels up and down. doubling:"
            " log2 p exchanges of whole arrays. ring: 2 (p - 1) messages of n / p bytes.",
            "crossover: set log2(p) (alpha + beta n) equal to 2 (p - 1) (alpha + beta n / p) and"
            " solve for n; on 2 ranks both move the same bytes.",
        ),
        wrong=(
            Wrong(
                "whole arrays around the ring",
                "(alpha + beta * nbytes / p)",
                "(alpha + beta * nbytes)",
                says="['ring'] is",
            ),
            Wrong(
                "a tree of too few levels",
                "rounds = ceil(log2(p))",
                "rounds = int(log2(p))",
                says="costs(5, 4, 3e-06, 2e-10)['tree'] is",
            ),
            Wrong(
                "to the root, but not back",
                '"root": 2 * (p - 1) * whole',
                '"root": (p - 1) * whole',
                says="['root'] is",
            ),
            Wrong(
                "divides by zero on 2 ranks",
                "if bytes_saved <= 0:",
                "if bytes_saved < 0:",
                says="ZeroDivisionError",
            ),
            Wrong(
                "beta over alpha",
                "return alpha / beta *",
                "return beta / alpha *",
                says="crossover(4, 3e-06, 2e-10) is",
            ),
        ),
    ),
)


def in_place_of_ours(ring: Callable) -> Callable:
    """What the engine calls, whichever of its algorithms it has chosen."""

    def reduce(comm, array, ufunc, algorithm, tag):
        return ring(comm, array, ufunc, tag)

    return reduce


PLUGS = (Plug("ring", "minillm.distributed.allreduce:_reduce", 4, in_place_of_ours),)
