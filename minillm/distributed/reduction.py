"""What all reductions share: the operations, pieces of an array, arrays on a GPU.

Sums are made in the array's own dtype, each addition rounded. In bfloat16, with 8 bits of
precision, a sum over p ranks errs by at most k * 2^-9 of the sum of magnitudes, where k is how many
additions follow one another: p - 1 around a ring, log2(p) in doubling and halving. Adding float32
and rounding once would need messages twice as long. int64 wraps around, as NumPy's.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from minillm import env
from minillm.device import Array, xp_of
from minillm.distributed import staging
from minillm.distributed.comm import Communicator, Request
from minillm.distributed.spans import span
from minillm.distributed.staging import ready
from minillm.distributed.steps import Steps
from minillm.errors import UserError
from minillm.kernels.reduce import accumulate

PIECE_BYTES = 1 << 20  # of 128 KiB to 4 MiB the fastest, shared with 2 MiB: fits a core's L2 cache
DEPTH = 2  # receives posted at once: one arrives while one is added

# A mean is a sum, divided at the end (`finish`).
OPS: dict[str, np.ufunc] = {
    "sum": np.add, "mean": np.add, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


def ufunc_of(op: str, array: Array) -> np.ufunc:
    """How two elements become one.

    Raises:
        UserError: no such operation, or none for this dtype.
        ValueError: `array` is not flat and contiguous.
    """
    if array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(f"collectives take flat contiguous arrays, not one of {array.shape}")
    if op not in OPS:
        raise UserError(f"no reduction {op!r}: choose one of {', '.join(OPS)}")
    if op == "mean" and array.dtype.kind in "iub":
        raise UserError(f"no mean of {array.dtype}, which has no fractions: take the sum")
    return OPS[op]


def combine(ufunc: np.ufunc, own: Array, arrived: Array) -> None:
    """Make `own` the sum, or what it is, of both."""
    if type(own) is staging.Staged:
        own = np.asarray(own)
    if ufunc is np.add:
        accumulate(own, arrived)
    else:
        getattr(xp_of(own), ufunc.__name__)(own, arrived, out=own)


def finish(array: Array, op: str, size: int) -> None:
    """Make a sum over `size` ranks the mean, where `op` says so."""
    if op == "mean":
        for piece in cut(array):  # the quotients of bfloat16 are float32 first
            piece[...] = (piece / xp_of(array).float32(size)).astype(array.dtype)


def cut(array: Array, most: int | None = None) -> list[Array]:
    """Views of equal size, give or take 1 element, of at most `most` bytes: by default, a piece."""
    pieces = -(-array.nbytes // (most or PIECE_BYTES))
    return [array[span(array.size, i, pieces)] for i in range(pieces)]


def on_host(
    comm: Communicator,
    array: Array,
    steps: Callable[[Array], Steps[None]],
    reads: slice | None = None,
    writes: slice | None = None,
) -> Steps[None]:
    """`steps(array)`; for an array on a GPU, on host memory in its place (staging.py).

    With GPU-aware MPI on the array itself, where it is.

    Args:
        reads, writes: the elements that the steps read, and that they leave for the caller; all.
    """
    alone = comm.size == 1 or array.size == 0
    if alone or type(array) is np.ndarray or comm.gpu_aware:
        yield from steps(array)
        return
    if comm.rank == 0:
        env.say_once(
            "arrays on a GPU are summed over ranks in host memory, copied beside the messages"
            " (MINILLM_GPU_AWARE_MPI=1: on the GPU, if MPI can)"
        )
    everything = slice(0, array.size)
    host = staging.stage(comm, array, PIECE_BYTES, reads or everything)
    yield from steps(host)
    yield staging.finish(host, writes or everything)


def combine_arriving(
    comm: Communicator,
    parts: Sequence[tuple[Array, int]],
    ufunc: np.ufunc,
    tag: int,
    sends: Sequence[tuple[Array, int]] = (),
) -> Steps[None]:
    """Receive for each (part, source), in this order, and combine it with the part in place.

    Posts `sends`, each (array, dest), once the first receives are posted, and waits for them last.
    Takes the memory of DEPTH parts.
    """
    longest = max((part.size for part, _ in parts), default=0)
    buffers = [xp_of(part).empty(longest, part.dtype) for part, _ in parts[:DEPTH]]
    arriving: deque[tuple[Array, Request]] = deque()

    def post(i: int) -> None:
        part, source = parts[i]
        into = buffers[i % DEPTH][: part.size]
        arriving.append((into, comm.irecv(into, source, tag)))

    for i in range(len(buffers)):
        post(i)
    under_way = []
    for part, dest in sends:
        yield from ready(part)
        under_way.append(comm.isend(part, dest, tag))
    for i, (part, _) in enumerate(parts):
        into, request = arriving.popleft()
        yield request
        yield from ready(part)
        combine(ufunc, part, into)
        if i + DEPTH < len(parts):
            post(i + DEPTH)
    yield from under_way
