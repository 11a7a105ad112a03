"""Checks, hints and wrong answers of chapter 4."""

import numpy as np

from minillm.kernels.runtime.cuda import blocks
from minillm.learn import Exercise, Wrong, expect, same
from minillm.learn.gpu import launch
from minillm.learn.roofline import place

FILES = ("add.cu", "transpose.cu", "row_sums.cu", "roofline.py")


def check_add(work):
    file, rng = work.folder / "add.cu", np.random.default_rng(0)
    for n, grid in [(1, 1), (127, 1), (300, 5), (1000, 2), (1000, 8), (1024, 3)]:
        a, b = (rng.normal(size=n).astype(np.float32) for _ in range(2))
        y, case = np.full(n, np.nan, np.float32), f"n = {n}, {grid} blocks"
        moved = launch(file, "add", grid, y, a, b, n)
        same(f"{case}: y", y, a + b)
    _least_sectors(case, moved, "load", 2 * n)
    _least_sectors(case, moved, "store", n)
    n = 1 << 26
    y, a, b = (np.zeros(n, np.float32) for _ in range(3))
    return place(file, "add", blocks(n, 128), y, a, b, n, flops=n)


def check_transpose(work):
    file, rng = work.folder / "transpose.cu", np.random.default_rng(1)
    for N, C in [(1, 1), (32, 32), (33, 70), (5, 100), (64, 31), (96, 64)]:
        x = rng.normal(size=(N, C)).astype(np.float32)
        y, case = np.full((C, N), np.nan, np.float32), f"x of shape {N, C}"
        grid = blocks(C, 32), blocks(N, 32)
        moved = launch(file, "transpose", grid, y, x, N, C, block=(32, 8))
        same(f"{case}: y", y, x.T)
    _least_sectors(case, moved, "load", x.size)
    _least_sectors(case, moved, "store", x.size)
    for kind in ("load", "store"):
        row = moved.get(f"shared {kind}")
        expect(row is not None, f"{case}: no shared {kind}s: let the tile turn in shared memory")
        expect(
            row.units == row.requests,
            f"{case}: bank conflicts: {row.requests:,} shared {kind}s take {row.units:,} turns:"
            " in which banks do the 32 lanes of a warp fall?",
        )
    N = 8192
    y, x = (np.zeros((N, N), np.float32) for _ in range(2))
    return place(file, "transpose", (N // 32, N // 32), y, x, N, N, block=(32, 8))


def check_row_sums(work):
    file, rng = work.folder / "row_sums.cu", np.random.default_rng(2)
    for N, C in [(1, 1), (3, 128), (4, 100), (2, 129), (2, 0), (3, 1000)]:
        x = rng.normal(size=(N, C)).astype(np.float32)
        sums, case = np.full(N, np.nan, np.float32), f"x of shape {N, C}"
        moved = launch(file, "row_sums", N, sums, x, C)
        same(f"{case}: sums", sums, x.sum(-1, dtype=np.float64), rtol=1e-5, atol=1e-5)
    _least_sectors(case, moved, "load", x.size)
    reads = moved["shared load"].requests // len(x) if "shared load" in moved else 0
    expect(
        reads < 64,
        f"{case}: the warps of a block read shared memory {reads} times: a tree, in which half of"
        " the threads add, then a quarter, ..., needs 17",
    )
    N, C = 1 << 16, 1 << 10
    sums, x = np.zeros(N, np.float32), np.zeros((N, C), np.float32)
    return place(file, "row_sums", N, sums, x, C, flops=N * C)


def check_roofline(work):
    same("ridge(67e12, 4.8e12)", work.ridge(67e12, 4.8e12), 67 / 4.8)
    for peak, rate in [(60.0, 5.0), (7.0, 14.0)]:
        case = f"peak {peak:g}, rate {rate:g}"
        same(f"ridge, {case}", work.ridge(peak, rate), peak / rate)
        for intensity in (0.0, 0.25, 3.0, 12.0, 100.0):
            wanted = peak if intensity * rate > peak else intensity * rate
            same(
                f"attainable({intensity:g}), {case}", work.attainable(intensity, peak, rate), wanted
            )
        several = np.array([0.125, 4.0, 1000.0])
        wanted = np.array([min(peak, i * rate) for i in several])
        same(f"attainable of an array, {case}", work.attainable(several, peak, rate), wanted)
        for flops, nbytes in [(120.0, 5.0), (1.0, 50.0), (0.0, 20.0), (30.0, 0.0)]:
            wanted = flops / peak if flops / peak > nbytes / rate else nbytes / rate
            what = f"least_seconds({flops:g}, {nbytes:g}), {case}"
            same(what, work.least_seconds(flops, nbytes, peak, rate), wanted)
        flops, nbytes = np.array([120.0, 1.0]), np.array([5.0, 50.0])
        got, wanted = work.least_seconds(flops, nbytes, peak, rate), [120 / peak, 50 / rate]
        same(f"least_seconds of arrays, {case}", got, np.array(wanted))


def _least_sectors(case, moved, kind, floats):
    """Each of `floats` numbers is moved once, in whole sectors of 8."""
    row = moved.get(f"global {kind}")
    units = row.units if row else 0
    expect(
        units == blocks(floats, 8),
        f"{case}: global {kind}s move {units:,} sectors of 32 bytes for {floats:,} floats, where"
        f" {blocks(floats, 8):,} suffice: at any moment a warp's lanes should be at neighbours",
    )


EXERCISES = (
    Exercise(
        "Addition by a grid of any size",
        check_add,
        hints=(
            "How many threads are there in all the blocks together? That is how far a thread goes"
            " from one of its elements to the next.",
            "The thread's number is blockIdx.x * blockDim.x + threadIdx.x, the number of threads"
            " gridDim.x * blockDim.x. The loop ends at n: that is the guard, too.",
            "for (int i = ITS NUMBER; i < n; i += ALL THREADS) y[i] = a[i] + b[i];",
        ),
        needs=("g++",),
        wrong=(
            Wrong("one too far", "i < n", "i <= n", file="add.cu",
                  says="out of bounds: global read of 4 bytes at a[1]"),
            Wrong("no guard, one element a thread",
                  "for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)",
                  "int i = blockIdx.x * blockDim.x + threadIdx.x;", file="add.cu",
                  says="out of bounds"),
            Wrong("one element a thread",
                  "for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)",
                  "int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n)", file="add.cu",
                  says="n = 1000, 2 blocks: y[256] is nan"),
            Wrong("stride of one block", "gridDim.x * blockDim.x", "blockDim.x", file="add.cu",
                  says="race on global y"),
            Wrong("a piece of neighbours for each thread",
                  "for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)",
                  "int each = (n + stride - 1) / stride,"
                  " first = (blockIdx.x * blockDim.x + threadIdx.x) * each;\n"
                  "    for (int i = first; i < n && i < first + each; i++)", file="add.cu",
                  says="sectors of 32 bytes"),
        ),
    ),
    Exercise(
        "A transpose through a padded tile",
        check_transpose,
        hints=(
            "Lanes of a warp differ in threadIdx.x. It must count columns of x while loading and"
            " columns of y while storing; what differs is where in the tile they look.",
            "Load tile[r][lane] from x, wait at a barrier, store tile[lane][r] to y, for r ="
            " threadIdx.y, threadIdx.y + 8, ... Guard both against the edges of their matrix. A"
            " column of the tile lies in one bank if its rows are 32 floats apart.",
            "__shared__ float tile[TILE][TILE + 1]; the store goes to"
            " y[(first_c + r) * N + first_n + lane], if first_c + r < C and first_n + lane < N.",
        ),
        needs=("g++",),
        wrong=(
            Wrong("no padding", "[TILE + 1]", "[TILE]", file="transpose.cu", says="bank conflicts"),
            Wrong("missing barrier", "    __syncthreads();\n", "", file="transpose.cu",
                  says="read of shared tile at byte"),
            Wrong("guards of the other matrix", "first_c + r < C && first_n + lane < N",
                  "first_n + r < N && first_c + lane < C", file="transpose.cu",
                  says="read of shared tile at byte"),
            Wrong("the tile does not turn", "= tile[lane][r]", "= tile[r][lane]",
                  file="transpose.cu", says="x of shape (32, 32): y[0, 1] is"),
            Wrong("no tile: the text's kernel",
                  "tile[r][lane] = x[(first_n + r) * C + first_c + lane];\n    __syncthreads();",
                  "y[(first_c + lane) * N + first_n + r] = x[(first_n + r) * C + first_c + lane];\n"
                  "    return;", file="transpose.cu",
                  says="global stores move 6,144 sectors of 32 bytes for 6,144 floats"),
        ),
    ),
    Exercise(
        "The sum of each row, one block a row",
        check_row_sums,
        hints=(
            "First every thread adds what is its own, with no one else; only then do they meet.",
            "The tree is that of `tree_sums` in the text. A thread without elements still has a"
            " place in it, with 0.",
            "partial[threadIdx.x] = sum; then for half = THREADS / 2, ..., 1: a barrier that all"
            " threads meet, and the lower half adds the upper half. Thread 0 stores partial[0].",
        ),
        needs=("g++",),
        wrong=(
            Wrong("no barrier", "        __syncthreads();\n", "", file="row_sums.cu",
                  says="read of shared partial at byte"),
            Wrong("one barrier, before the tree",
                  "for (int half = THREADS / 2; half > 0; half /= 2) {\n        __syncthreads();",
                  "__syncthreads();\n    for (int half = THREADS / 2; half > 0; half /= 2) {",
                  file="row_sums.cu", says="race on shared partial"),
            Wrong("a barrier for those at work",
                  "__syncthreads();\n        if (threadIdx.x < half) partial",
                  "if (threadIdx.x >= half) break;\n        __syncthreads();\n        partial",
                  file="row_sums.cu", says="divergent barrier"),
            Wrong("the last level forgotten", "half > 0", "half > 1", file="row_sums.cu",
                  says="x of shape (3, 128): sums[0] is"),
            Wrong("thread 0 adds the threads' sums",
                  "for (int half = THREADS / 2; half > 0; half /= 2) {\n        __syncthreads();\n"
                  "        if (threadIdx.x < half) partial[threadIdx.x] +="
                  " partial[threadIdx.x + half];\n    }",
                  "__syncthreads();\n    if (threadIdx.x == 0)\n"
                  "        for (int t = 1; t < THREADS; t++) partial[0] += partial[t];",
                  file="row_sums.cu", says="read shared memory"),
            Wrong("each warp adds to the row's sum when it comes",
                  "if (threadIdx.x == 0) sums[blockIdx.x] = partial[0];",
                  "if (threadIdx.x == 0) sums[blockIdx.x] = 0;\n    __syncthreads();\n"
                  "    atomicAdd(sums + blockIdx.x, sum);",
                  file="row_sums.cu", says="depends on the order in which the threads run"),
            Wrong("a short row is not guarded", "c < C", "c < max(C, THREADS)", file="row_sums.cu",
                  says="out of bounds"),
            Wrong("a piece of the row for each thread",
                  "for (int c = threadIdx.x; c < C; c += THREADS) sum += row[c];",
                  "int each = (C + THREADS - 1) / THREADS, first = threadIdx.x * each;\n"
                  "    for (int c = first; c < C && c < first + each; c++) sum += row[c];",
                  file="row_sums.cu", says="sectors of 32 bytes"),
        ),
    ),
    Exercise(
        "The roofline",
        check_roofline,
        hints=(
            "A kernel of F operations and B bytes is done when both are: the slower one decides.",
            "Time is max(F / peak, B / rate). F over that time is the lower of two roofs, and they"
            " meet where peak = intensity * rate.",
            "np.minimum(peak, intensity * rate) works for numbers and for arrays; np.maximum does"
            " so for the two times.",
        ),
        wrong=(
            Wrong("the higher roof", "np.minimum(", "np.maximum(", file="roofline.py",
                  says="attainable(0), peak 60, rate 5 is 60, expected 0"),
            Wrong("one after the other", "np.maximum(flops / peak, nbytes / rate)",
                  "flops / peak + nbytes / rate", file="roofline.py",
                  says="least_seconds(120, 5), peak 60, rate 5 is 3"),
            Wrong("ridge upside down", "return peak / rate", "return rate / peak",
                  file="roofline.py",
                  says="ridge(67e12, 4.8e12) is 0.07164179, expected 13.95833"),
            Wrong("numbers only", "np.minimum(peak, intensity * rate)",
                  "min(peak, intensity * rate)", file="roofline.py", says="ValueError"),
            Wrong("seconds of numbers only", "np.maximum(flops / peak, nbytes / rate)",
                  "max(flops / peak, nbytes / rate)", file="roofline.py", says="ValueError"),
        ),
    ),
)  # fmt: skip
