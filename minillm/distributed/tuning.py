"""Which all-reduce is the fastest here: measured when asked for, kept in the cache, read at start.

    mpirun -n 4 python bench/allreduce.py --tune

In: the ranks of a run. Out: a table (up to how many bytes, algorithm), by layout of the ranks, in
allreduce.json in the cache; rank 0 reads it at the start of each run and tells all.
"""

import json
import platform
import time
from math import inf
from pathlib import Path
from statistics import median

import numpy as np

from minillm import env
from minillm.distributed.allreduce import ALGORITHMS, all_reduce
from minillm.distributed.comm import Communicator

Table = list[tuple[float, str]]

_SIZES = [1 << k for k in range(10, 25, 2)]  # bytes: 1 KiB to 16 MiB
_REPEATS = 11


def load() -> dict[str, Table]:
    """The tables of this machine by layout; none where nothing, or nothing legible, was kept."""
    try:
        kept = json.loads(_path().read_text()).get(platform.node(), {})
        tables = {
            layout: [(float(most), name) for most, name in table] for layout, table in kept.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        env.say_once(f"{_path()} is not legible ({error}): built-in table of all-reduces instead")
        return {}
    for layout, table in list(tables.items()):
        if not table or table[-1][0] != inf or not {name for _, name in table} <= set(ALGORITHMS):
            env.say_once(f"{_path()}: no such table of all-reduces, {layout}: built-in one instead")
            del tables[layout]
    return tables


def _path() -> Path:
    return env.CACHE / "allreduce.json"


def measure(comm: Communicator) -> Table:
    """Time the algorithms on these ranks for about a second; all get the same table, and use it."""
    names = ["doubling", "halving", "ring"]
    if 1 < len(set(comm.host_of)) < comm.size:
        names.append("hierarchical")
    table: Table = []
    for nbytes in _SIZES:
        array = np.zeros(nbytes // 4, np.float32)
        times = np.array([[_seconds(comm, array, n) for n in names] for _ in range(_REPEATS)])
        slowest = times.reshape(-1)
        all_reduce(comm, slowest, "max", "ring")  # a view: the same numbers on all ranks
        medians = [median(column) for column in times.T.tolist()]
        best = names[int(np.argmin(medians))]
        if table and table[-1][1] == best:
            table.pop()
        table.append((2.0 * nbytes, best))
        # From small arrays to large: one that the next has left behind will not come back.
        if names.index(best) > 0 and medians[0] > 3 * min(medians):
            names.pop(0)
    table[-1] = inf, table[-1][1]
    comm.tables[comm.layout] = table
    return table


def _seconds(comm: Communicator, array: np.ndarray, name: str) -> float:
    comm.barrier()
    began = time.perf_counter()
    all_reduce(comm, array, "sum", name)
    return time.perf_counter() - began


def save(layout: str, table: Table) -> None:
    """Keep a table for later runs on this machine."""
    try:
        everything = json.loads(_path().read_text())
    except (OSError, ValueError):
        everything = {}
    everything.setdefault(platform.node(), {})[layout] = table
    _path().parent.mkdir(parents=True, exist_ok=True)
    _path().write_text(json.dumps(everything, indent=1))
