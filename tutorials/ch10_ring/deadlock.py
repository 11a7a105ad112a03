"""A ring in which every rank sends, then receives: it works until messages grow.

    mpirun -n 4 python tutorials/ch10_ring/deadlock.py BYTES [ORDER]

ORDER is how each rank passes BYTES to the right and takes BYTES from the left:

    blocking    Send, then Recv                     hangs once messages are large
    odd-even    even ranks send first, odd receive first
    sendrecv    both in one call
    isend       post the receive and the send, then wait for both
"""

import sys

import numpy as np
from mpi4py import MPI

world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
left, right = (rank - 1) % size, (rank + 1) % size
nbytes, order = int(sys.argv[1]), (sys.argv[2:] or ["blocking"])[0]

mine = np.full(nbytes, rank, np.uint8)
theirs = np.empty_like(mine)
if rank == 0:
    print(f"{size} ranks pass {nbytes:,} bytes to the right, {order}:", flush=True)

if order == "blocking":
    world.Send(mine, right)
    world.Recv(theirs, left)
elif order == "odd-even":
    if rank % 2 == 0:
        world.Send(mine, right)
        world.Recv(theirs, left)
    else:
        world.Recv(theirs, left)
        world.Send(mine, right)
elif order == "sendrecv":
    world.Sendrecv(mine, right, recvbuf=theirs, source=left)
elif order == "isend":
    requests = [world.Irecv(theirs, left), world.Isend(mine, right)]
    MPI.Request.Waitall(requests)
else:
    raise SystemExit(f"no order {order!r}")

assert (theirs == left).all()
world.Barrier()
if rank == 0:
    print("every rank has the bytes of its left neighbour", flush=True)
