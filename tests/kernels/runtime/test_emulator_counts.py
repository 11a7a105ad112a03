"""The emulator's counts of sectors and wavefronts, against what can be worked out by hand."""

import ml_dtypes  # noqa: F401  (registers bfloat16)
import numpy as np
import pytest

from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import Program
from minillm.kernels.runtime.emulator import report

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")


def counted(folder, body, threads=32, grid=1, dtype="float32", order="forward"):
    """Totals by access of a kernel `k(T* y, const T* x)` on 4096 elements."""
    path = folder / "counted.cu"
    path.write_text(
        '#include "pack.cuh"\nconstexpr int THREADS = 32;\n'
        f"template <typename T> __global__ void k(T* y, const T* x) {{\n{body}\n}}\n"
    )
    x = np.ones(4096, np.dtype(dtype))
    with emulator.options(order), emulator.profiled() as log:
        Program(path).launch("k", x.dtype, grid, x.copy(), x, block=threads)
    (kernel,) = report.rows(log).values()
    return {row.what: row for row in report.totals(kernel)}, report.table(log)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("index", "sectors", "best"),
    [
        ("t", 4, 4),  # 32 adjacent floats
        ("t + 1", 5, 4),  # the same, off its alignment
        ("2 * t", 8, 4),
        ("32 * t", 32, 4),  # a sector each
        ("0", 1, 1),  # one float for all
        ("t / 2", 2, 2),
    ],
)
def test_sectors_of_a_load(tmp_path, order, index, sectors, best):
    total, _ = counted(tmp_path, f"int t = threadIdx.x; y[t] = x[{index}];", order=order)
    load = total["global load"]
    assert (load.requests, load.threads, load.bytes) == (1, 32, 128)
    assert (load.units, load.best) == (sectors, best)
    assert total["global store"].units == 4


def test_a_warp_of_bfloat16_moves_half_the_sectors(tmp_path):
    total, _ = counted(tmp_path, "int t = threadIdx.x; y[t] = x[t];", dtype="bfloat16")
    assert total["global load"].units == 2


def test_a_pack_is_one_request_of_sixteen_sectors(tmp_path):
    body = "int t = 4 * threadIdx.x; store_pack(y + t, load_pack(x + t));"
    total, _ = counted(tmp_path, body)
    assert (total["global load"].requests, total["global load"].units) == (1, 16)
    assert (total["global store"].requests, total["global store"].units) == (1, 16)


@pytest.mark.parametrize(
    ("index", "waves"),
    [("t", 1), ("2 * t", 2), ("32 * t", 32), ("33 * t", 1), ("0", 1), ("t % 2 * 32", 2)],
)
def test_bank_conflicts(tmp_path, index, waves):
    body = f"""__shared__ T s[33 * 32];
int t = threadIdx.x;
for (int i = t; i < 33 * 32; i += 32) s[i] = x[i];
__syncthreads();
y[t] = s[{index}];"""
    total, table = counted(tmp_path, body)
    load = total["shared load"]
    assert (load.requests, load.units, load.best) == (1, waves, 1)
    assert total["shared store"].units == total["shared store"].requests == 33
    assert "counted.cu:8" in table


def test_lanes_that_part_are_requests_of_their_own(tmp_path):
    body = "int t = threadIdx.x; if (t < 8) y[t] = x[t]; else y[t] = 2.0f * x[t];"
    total, _ = counted(tmp_path, body.replace("2.0f", "T(2)"))
    assert total["global load"].threads == 32 and total["global load"].requests == 2


def test_loops_of_different_lengths(tmp_path):
    total, _ = counted(
        tmp_path,
        "T s = 0; int t = threadIdx.x; for (int i = 0; i <= t; i++) s += x[32 * i + t]; y[t] = s;",
    )
    load = total["global load"]
    assert (load.requests, load.threads) == (32, 32 * 33 // 2)


def test_counts_add_up_over_blocks_and_launches(tmp_path):
    total, _ = counted(tmp_path, "int t = threadIdx.x; y[t + 64 * blockIdx.x] = x[t];", 64, 3)
    assert total["global load"].requests == 6 and total["global store"].units == 24
