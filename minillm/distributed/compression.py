"""Sums of gradients in fewer bytes: what compression loses is added to the next gradient.

    sums = Compressed(codecs.make("int8"))       or Plain(): the exact sums, with the same methods
    run(sums.all_reduce(comm, array, tag))       array (n,) becomes nearly the sum over ranks
    mine = run(sums.reduce_scatter(comm, array, tag))
    saved = sums.state_dict(comm)                what Compressed still owes to the sums

With C what a codec makes of an array (codecs.py), step t of rank r of p, for its gradient g_r:

    a_r = g_r + e_r;    e_r <- a_r - C(a_r)        chunk j of C(a_r) goes to rank j
    s_j = sum over r of chunk j of C(a_r)          added in order of rank, in the array's dtype
    b_j = s_j + f_j;    f_j <- b_j - C(b_j)        all_reduce only: C(b_j) goes to all ranks

The result is C(b), the same bits on all ranks; that of reduce_scatter is s_j. All that came out,
and the errors e and f, add up to all that went in: nothing is lost, it only comes later, and SGD
converges as it would without (Seide et al. 2014, "1-bit stochastic gradient descent"; Karimireddy
et al. 2019, "Error feedback fixes SignSGD", arXiv 1901.09847). The two errors are those of 1-bit
Adam's compressed all-reduce (Tang et al. 2021, arXiv 2102.02888).

Cost. A rank sends (p - 1) / p * c bytes for a reduce_scatter, where c is the size of C(a), and as
many again for an all_reduce: the mean over ranks, whose chunks differ by up to 1 element. Every
message goes straight to its rank, p - 1 at once. Memory: n (1 + 1 / p) numbers for the errors; for
the time of a sum 2 c bytes and a chunk. Coding takes time: it pays where links are slow.

A sum that is not finite stays so, on all ranks; the errors take nothing over from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minillm import env
from minillm.device import Array, to_device, xp_of
from minillm.distributed.allreduce import all_reduce
from minillm.distributed.codecs import Codec
from minillm.distributed.comm import Communicator
from minillm.distributed.ring import chunk, chunks, reduce_scatter
from minillm.distributed.steps import Collective, Steps
from minillm.distributed.tree import reduce
from minillm.errors import UserError


class Plain:
    """The exact sums: nothing is compressed, nothing owed."""

    def all_reduce(self, comm: Communicator, array: Array, tag: int = 0) -> Steps[None]:
        """Replace `array` (n,) by its sum over ranks."""
        return all_reduce.steps(comm, array, tag=tag)

    def reduce_scatter(self, comm: Communicator, array: Array, tag: int = 0) -> Steps[Array]:
        """`chunk(comm, array)`, which holds its sum over ranks; the other chunks are lost."""
        return reduce_scatter.steps(comm, array, tag=tag)

    def encode(self, comm: Communicator, array: np.ndarray, tag: int = 0) -> list[np.ndarray]:
        """What to send to each rank in place of its chunk of `array` (n,): the chunk."""
        return chunks(comm, array)

    def room(self, part: np.ndarray) -> np.ndarray:
        """For what another rank sends in place of an array like this."""
        return np.empty_like(part)

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        """`out` becomes what was sent as `data`."""
        out[...] = data


@dataclass
class _Owed:
    """The errors of one array: of what this rank sent, and of the sum of its chunk."""

    own: np.ndarray  # (n,)
    summed: np.ndarray  # (n / p,)


class Compressed:
    """Sums through a codec, with error feedback.

    Arrays are flat, contiguous, float32 or float64; those on a GPU are summed on the host. Their
    errors are kept by tag: each array has its own, and at most one sum under way. One rank alone
    compresses nothing.
    """

    def __init__(self, codec: Codec):
        self.codec = codec
        self._owed: dict[int, _Owed] = {}

    def all_reduce(self, comm: Communicator, array: Array, tag: int = 0) -> Steps[None]:
        """Replace `array` (n,) by its sum over ranks, nearly: the same bits on all.

        Raises:
            RuntimeError: the array of this tag had another length, dtype or number of ranks.
        """
        yield from self._sum(compressed_all_reduce, comm, array, tag)

    def reduce_scatter(self, comm: Communicator, array: Array, tag: int = 0) -> Steps[Array]:
        """`chunk(comm, array)`, which holds nearly its sum over ranks; other chunks stay.

        Raises:
            RuntimeError: as all_reduce.
        """
        yield from self._sum(compressed_reduce_scatter, comm, array, tag)
        return chunk(comm, array)

    def encode(self, comm: Communicator, array: np.ndarray, tag: int = 0) -> list[np.ndarray]:
        """What to send to each rank in place of its chunk of `array` (n,), with what this rank owed
        it before; for this rank itself, the chunk as it is."""
        a = self._owed_to(comm, array, tag).own
        a += array
        parts = Plain().encode(comm, a)
        decoded = np.empty_like(parts[-1])  # the longest
        for j, part in enumerate(parts):
            if j == comm.rank:
                parts[j] = part.copy()
                part[...] = 0
            else:
                parts[j] = _room(self.codec, part)
                _encode(self.codec, part, parts[j], decoded[: part.size])
        return parts

    def room(self, part: np.ndarray) -> np.ndarray:
        """For what another rank sends in place of an array like this."""
        return _room(self.codec, part)

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        """`out` becomes what others make of `data`."""
        self.codec.decode(data, out)

    def state_dict(self, comm: Communicator) -> dict[str, np.ndarray]:
        """What is still owed to the sums, over all ranks: by tag, (n,), on rank 0; {} on others.

        A collective, when no sum is under way; all ranks have summed the same tags.
        """
        state = {}
        for tag, owed in sorted(self._owed.items()):
            total = owed.own.copy()
            chunk(comm, total)[...] += owed.summed
            reduce(comm, total)
            state[str(tag)] = total
        return state if comm.rank == 0 else {}

    def load_state_dict(self, comm: Communicator, state: Mapping[str, np.ndarray]) -> None:
        """Owe what a `state_dict` says, which every rank is given: from now on, each its chunk.

        It may come from another number of ranks or another codec. One rank alone adds it to the
        next array of the tag, and is free of it.
        """
        self._owed.clear()
        for tag, total in state.items():
            own = np.zeros_like(total)
            chunk(comm, own)[...] = chunk(comm, total)
            self._owed[int(tag)] = _Owed(own, np.zeros_like(chunk(comm, own)))

    def _sum(
        self, collective: Collective[None], comm: Communicator, array: Array, tag: int
    ) -> Steps[None]:
        if array.dtype not in (np.float32, np.float64):
            raise UserError(f"sums of {array.dtype} are not compressed: take float32 or float64")
        if array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"collectives take flat contiguous arrays, not one of {array.shape}")
        if array.size == 0 or (comm.size == 1 and tag not in self._owed):
            return
        owed = self._owed_to(comm, array, tag)
        if comm.size == 1:
            array += xp_of(array).asarray(self._owed.pop(tag).own)
            return
        host = to_device(array, "cpu")
        if host is not array and comm.rank == 0:
            env.say_once("compressed sums of arrays on a GPU are made on the host: copied there")
        yield from collective.steps(comm, host, self.codec, owed, tag)
        if host is not array:
            array.set(host)

    def _owed_to(self, comm: Communicator, array: Array, tag: int) -> _Owed:
        n, dtype, part = array.size, array.dtype, chunk(comm, array).size
        owed = self._owed.get(tag)
        if owed is None:
            owed = self._owed[tag] = _Owed(np.zeros(n, dtype), np.zeros(part, dtype))
        if (owed.own.size, owed.own.dtype, owed.summed.size) != (n, dtype, part):
            raise RuntimeError(
                f"tag {tag}: a sum of {n} {dtype} on {comm.size} ranks, but its errors are those of"
                f" {owed.own.size} {owed.own.dtype}, {owed.summed.size} of them this rank's chunk:"
                " each array needs a tag of its own, and the same size and ranks each time"
            )
        return owed


@Collective
def compressed_reduce_scatter(
    comm: Communicator, array: np.ndarray, codec: Codec, owed: _Owed, tag: int = 0
) -> Steps[None]:
    """This rank's chunk of `array` becomes the sum of all C(a)."""
    p, r = comm.size, comm.rank
    mine, a = chunk(comm, array), owed.own
    arrived = [_room(codec, mine) for _ in range(p)]
    receives = {j: comm.irecv(arrived[j], j, tag) for j in range(p) if j != r}
    decoded = np.empty(-(-array.size // p), array.dtype)
    a += array
    sends, parts = [], chunks(comm, a)
    for j in ((r + shift) % p for shift in range(1, p + 1)):  # not all to rank 0 first; r last
        data = _room(codec, parts[j]) if j != r else arrived[r]
        _encode(codec, parts[j], data, decoded[: parts[j].size])
        if j != r:
            sends.append(comm.isend(data, j, tag))
    mine[...] = 0
    for j in range(p):
        if j != r:
            yield receives[j]
        codec.decode(arrived[j], decoded[: mine.size])
        with np.errstate(invalid="ignore"):  # infinities of both signs
            mine += decoded[: mine.size]
    yield from sends


@Collective
def compressed_all_reduce(
    comm: Communicator, array: np.ndarray, codec: Codec, owed: _Owed, tag: int = 0
) -> Steps[None]:
    """All of `array` becomes C(b): each chunk that of its rank."""
    yield from compressed_reduce_scatter.within(comm, array, codec, owed, tag)
    p, r, parts = comm.size, comm.rank, chunks(comm, array)
    others = [(r + shift) % p for shift in range(1, p)]
    arrived = {j: _room(codec, parts[j]) for j in others}
    receives = {j: comm.irecv(arrived[j], j, tag) for j in others}
    b, data = owed.summed, _room(codec, owed.summed)
    b += parts[r]
    _encode(codec, b, data, parts[r])
    sends = [comm.isend(data, j, tag) for j in others]
    for j in reversed(others):  # rank r - 1 sends to this one first
        yield receives[j]
        codec.decode(arrived[j], parts[j])
    yield from sends


def _room(codec: Codec, part: np.ndarray) -> np.ndarray:
    """For the bytes of `part`."""
    return np.empty(codec.nbytes(part.size, part.dtype), np.uint8)


def _encode(codec: Codec, x: np.ndarray, data: np.ndarray, decoded: np.ndarray) -> None:
    """`data` becomes C(x), `decoded` what others make of it, and `x` what was lost."""
    codec.encode(x, data)
    codec.decode(data, decoded)
    with np.errstate(invalid="ignore", over="ignore"):
        x -= decoded
        if not np.isfinite(x.sum()):  # sent as it is: it must not come back for ever
            x[~np.isfinite(x)] = 0
