"""One GPU a rank, or as many ranks a GPU as it takes: which, and how they share its memory.

In: the ranks. Out: CuPy's current device is this rank's own, and words that say so.
"""

import hashlib
import socket

import numpy as np

from minillm.device import module
from minillm.distributed.comm import Communicator
from minillm.distributed.ring import all_gather


def take_gpu(comm: Communicator) -> str:
    """Give this rank the next GPU of its machine, in turn; call it before any array is made.

    Ranks that end up on one GPU each take at most their part of its memory: CuPy keeps what it has
    freed, and would otherwise keep it from the others.

    Returns:
        For the user: the GPU's name, and the number of each rank's GPU if there are several ranks.

    Raises:
        UserError: CuPy is missing, or finds no GPU.
    """
    cupy = module("cuda")
    machines = _of_all(comm, _number(socket.gethostname()))
    neighbours = np.flatnonzero(machines == machines[comm.rank])  # ranks of this machine
    count = cupy.cuda.runtime.getDeviceCount()
    device = cupy.cuda.Device(int(np.searchsorted(neighbours, comm.rank)) % count)
    device.use()
    devices = _of_all(comm, device.id)
    # By its bus: each rank may have been shown another GPU as its only one.
    buses = _of_all(comm, _number(f"{socket.gethostname()} {device.pci_bus_id}"))
    sharing = int((buses == buses[comm.rank]).sum())
    if sharing > 1:
        cupy.get_default_memory_pool().set_limit(fraction=1 / sharing)
    name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
    if comm.size == 1:
        return name
    words = f"{name}; of ranks 0 to {comm.size - 1}: {', '.join(map(str, devices))}"
    if sharing > 1:
        words += f"; {sharing} ranks share one and take at most 1/{sharing} of its memory each"
    return words


def _number(text: str) -> int:
    """A number that stands for `text`: other texts have others, but for one chance in 2^56."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def _of_all(comm: Communicator, value: int) -> np.ndarray:
    """Every rank's `value`, by rank."""
    values = np.zeros(comm.size, np.int64)
    values[comm.rank] = value
    all_gather(comm, values)
    return values
