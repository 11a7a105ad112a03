"""Training on many ranks: messages, collectives on them, data-parallel training on those.

    comm = world()                       first thing in a program: the ranks of mpirun, or just this
    comm.rank, comm.size, comm.barrier()
    comm.bytes_sent                      so far, by this rank

    result = on_root(comm, fn)           fn() on rank 0 only; its result, or its UserError, on all
    broadcast(comm, array, root=0)       flat arrays, in place
    reduce(comm, array, root=0)          rank root's array becomes the sum
    all_reduce(comm, array)              sum, in place, the same bits on every rank
    all_reduce(comm, array, op="max", algorithm="ring")
    mine = reduce_scatter(comm, array)   mine = chunk(comm, array) holds its sum
    all_gather(comm, array)              every rank's chunk to all, in place
    total = global_count(comm, n)        exact sum of an integer

    row = split(comm, color=comm.rank // 4)   some of the ranks, a communicator like any other
    hosts(comm)                          the ranks of each host

    ddp = DistributedDataParallel(comm, flat_groups, bucket_bytes=4 << 20)
    with ddp.no_sync(): loss.backward()  all micro-batches but the last
    loss.backward(); ddp.finish()        the last one; gradients are then summed over ranks
    ddp.exposed_seconds                  in finish() so far: communication not hidden by backward

    sync.STRATEGIES["zero1"](comm, optimizer)    that and other ways to stay in step (sync/)
    Compressed(codecs.make("int8"))      sums in fewer bytes, with error feedback
    Balancer(comm, batch_size, "dynamic")        shares of the batch by measured speed

    with Watchdog(comm, seconds=60):     a rank that hangs, dies or strays is named, the run ended
    check_replicas(comm, arrays, step)   a rank whose parameters differ is named, the run ended

    words = take_gpu(comm)               this rank's GPU is CuPy's current one from then on

    run_threads(n, fn)                   fn(comm) on n threads as ranks, for tests and tutorials

Collectives block when called; `all_reduce.steps(comm, array)` is the same one as a generator of the
requests it waits for (steps.py). Each must be called by all ranks, in the same order.

Once `world()` has been called, errors need no handling: an uncaught UserError prints one line on
rank 0 and exits with 2; any other exception of any rank names the rank and ends all (failure.py).
"""

from minillm.distributed.allreduce import all_reduce
from minillm.distributed.balance import Balancer
from minillm.distributed.checksum import check_replicas
from minillm.distributed.collectives import global_count, on_root
from minillm.distributed.comm import Communicator, SingleProcess, world
from minillm.distributed.compression import Compressed
from minillm.distributed.ddp import DistributedDataParallel
from minillm.distributed.gpus import take_gpu
from minillm.distributed.group import Group, hosts, split
from minillm.distributed.mpi import MPICommunicator
from minillm.distributed.ring import all_gather, chunk, reduce_scatter
from minillm.distributed.threads import ThreadCommunicator, run_threads
from minillm.distributed.tree import broadcast, reduce
from minillm.distributed.watchdog import Watchdog

__all__ = [
    "Balancer",
    "Communicator",
    "Compressed",
    "DistributedDataParallel",
    "Group",
    "MPICommunicator",
    "SingleProcess",
    "ThreadCommunicator",
    "Watchdog",
    "all_gather",
    "all_reduce",
    "broadcast",
    "check_replicas",
    "chunk",
    "global_count",
    "hosts",
    "on_root",
    "reduce",
    "reduce_scatter",
    "run_threads",
    "split",
    "take_gpu",
    "world",
]
