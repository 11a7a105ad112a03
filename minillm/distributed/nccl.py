"""All-reduce by NVIDIA's NCCL, through CuPy: what ours is compared with on GPUs.

Written from CuPy's and NCCL's documentation, and never run: it takes a GPU for each rank.
"""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from minillm.device import Array, device_of, module
from minillm.distributed.comm import Communicator
from minillm.distributed.steps import Steps
from minillm.distributed.tree import broadcast
from minillm.errors import UserError

_ID_BYTES = 128  # NCCL_UNIQUE_ID_BYTES
_joined: WeakKeyDictionary[Communicator, Any] = WeakKeyDictionary()


def nccl_all_reduce(comm: Communicator, array: Array, op: str, tag: int) -> Steps[None]:
    """Replace `array` (n,) on a GPU by its sum over ranks; a "mean" is left a sum.

    Raises:
        UserError: an array on the CPU; a CuPy without NCCL, or whose NCCL lacks the dtype.
    """
    if device_of(array) == "cpu":
        raise UserError("algorithm 'nccl' takes arrays on a GPU; this one is on the CPU")
    cuda = module("cuda").cuda
    nccl = getattr(cuda, "nccl", None)
    if not getattr(nccl, "available", False):
        raise UserError("algorithm 'nccl': this CuPy comes without NCCL; take another algorithm")
    dtype = getattr(nccl, f"NCCL_{str(array.dtype).upper()}", None)
    if dtype is None:
        raise UserError(f"algorithm 'nccl': CuPy's NCCL has no {array.dtype}")
    joined = _joined.get(comm)
    if joined is None:
        name = np.zeros(_ID_BYTES, np.int64)
        if comm.rank == 0:
            name[:] = nccl.get_unique_id()
        yield from broadcast.within(comm, name, 0, tag)
        joined = nccl.NcclCommunicator(comm.size, tuple(name.tolist()), comm.rank)
        _joined[comm] = joined
    how = getattr(nccl, f"NCCL_{'SUM' if op == 'mean' else op.upper()}")
    pointer, stream = array.data.ptr, cuda.get_current_stream()
    joined.allReduce(pointer, pointer, array.size, dtype, how, stream.ptr)
    stream.synchronize()
