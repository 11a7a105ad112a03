"""Checks, hints and wrong answers of chapter 06, and where its functions go in the engine."""

from math import prod

import numpy as np

from minillm.learn import Exercise, Plug, Wrong, expect, same
from minillm.learn.gpu import launch

FILES = ("matmul.py", "naive.cu", "tiled.cu")


def drawn(seed, *shapes, dtype="float32"):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def check_blocked(work):
    sizes = [(8, 8, 8), (3, 5, 7), (20, 12, 17), (1, 1, 1), (9, 1, 16), (4, 0, 3), (0, 3, 2)]
    for seed, (M, K, N) in enumerate(sizes):
        a, b = drawn(seed, (M, K), (K, N), dtype="float64")
        kept = a.copy(), b.copy()
        same(f"a ({M}, {K}), b ({K}, {N}), tile 8: c", work.blocked(a, b, 8), a @ b, 1e-12, 1e-12)
        same("a and b afterwards", (a, b), kept, 0, 0)
    a, b = drawn(7, (70, 130), (130, 65))
    c = work.blocked(a, b)
    same("a (70, 130), b (130, 65), tile 64: c", c, a @ b, 1e-4, 1e-4)
    expect(c.dtype == a.dtype, f"a is {a.dtype}, but c is {c.dtype}")
    for M, K, N, tile in ((24, 40, 32, 8), (10, 6, 7, 4)):
        a, b = map(work.Slow, drawn(8, (M, K), (K, N)))
        case = f"a ({M}, {K}), b ({K}, {N}), tile {tile}"
        same(f"{case}: c", work.blocked(a, b, tile), a.array @ b.array, 1e-4, 1e-5)
        largest, most = max(a.largest, b.largest), tile * tile
        expect(largest <= most, f"{case}: one piece has {largest} elements, at most {most} fit")
        most = M * K * -(-N // tile) + K * N * -(-M // tile)
        got = a.fetched + b.fetched
        expect(got <= most, f"{case}: {got} elements were fetched, {most} are enough")
        expect(got >= M * K + K * N, f"{case}: {got} elements were fetched: fetch tiles by slices")
    return f"{case}: {got} elements fetched"


def launched(work, name, M, K, N):
    """The kernel of that name on random matrices: c compared; what was moved."""
    a, b = drawn(M + K + N, (M, K), (K, N))
    c = np.full((M, N), np.nan, np.float32)
    grid = -(-N // 32), -(-M // 32)
    moved = launch(work.folder / f"{name}.cu", name, grid, c, a, b, M, N, K, block=(32, 32))
    same(f"a ({M}, {K}), b ({K}, {N}): c", c, a.astype(np.float64) @ b, 1e-4, 1e-5)
    return moved


def check_naive(work):
    for sizes in ((32, 4, 32), (1, 1, 1), (33, 20, 7), (5, 40, 70)):
        launched(work, "naive", *sizes)
    moved = launched(work, "naive", 64, 24, 64)
    each = moved["global load"].units / (64 * 64 / 32 * 24)
    expect(
        each <= 5,
        f"a warp loads {each:.0f} sectors for each k, and 5 are enough: which of a thread's two"
        " numbers changes from one lane of a warp to the next?",
    )
    stored = moved["global store"]
    expect(
        stored.units <= stored.best,
        f"a warp stores its 32 elements of c in {stored.units / stored.requests:.0f} sectors, and 4"
        " are enough",
    )
    return f"{each:.0f} sectors loaded for 32 multiply-adds"


def check_tiled(work):
    for sizes in ((32, 32, 32), (1, 1, 1), (33, 20, 7), (5, 70, 40), (64, 33, 32)):
        launched(work, "tiled", *sizes)
    M, K, N = sizes = 64, 96, 64
    moved = launched(work, "tiled", *sizes)
    load, least = moved["global load"], 2 * prod(sizes) // 32 * 4
    expect(
        load.bytes <= least,
        f"{load.bytes:,} bytes are loaded from global memory, {least:,} are enough: each element"
        " once for a tile of c",
    )
    expect(
        load.units <= load.best,
        f"a warp's load touches {load.units / load.requests:.0f} sectors, and 4 are enough: along"
        " which dimension do neighbouring threads load?",
    )
    for what in ("shared load", "shared store"):
        row = moved[what]
        expect(
            row.units <= row.requests,
            f"a {what} takes {row.units / row.requests:.0f} turns, because its threads want one"
            " bank's different words; 1 is enough",
        )
    naive = 2 * prod(sizes) * 4
    return f"{load.bytes:,} bytes loaded from global memory, 1/{naive // load.bytes} of naive.cu's"


def check_backward(work):
    for seed, (lead, M, K, N) in enumerate(
        (((), 3, 5, 4), ((), 1, 1, 1), ((2,), 3, 5, 4), ((2, 3), 4, 2, 6), ((0,), 3, 2, 2))
    ):
        dc, a, b = drawn(seed, (*lead, M, N), (*lead, M, K), (K, N), dtype="float64")
        da, db = work.matmul_backward(dc, a, b)
        case = f"a {a.shape}, b {b.shape}"
        rows = tuple(range(a.ndim - 1))
        same(f"{case}: da", da, np.tensordot(dc, b, (-1, 1)), 1e-12, 1e-12)
        same(f"{case}: db", db, np.tensordot(a, dc, (rows, rows)), 1e-12, 1e-12)
    rng, e = np.random.default_rng(9), 1e-6  # c = a b, a loss sum(dc * c): along random directions
    dc, a, b = drawn(9, (4, 3), (4, 5), (5, 3), dtype="float64")
    for name, x, dx in zip("ab", (a, b), work.matmul_backward(dc, a, b)):
        way = rng.normal(size=x.shape)
        ends = ((a + s * way) @ b if name == "a" else a @ (b + s * way) for s in (e, -e))
        up, down = ((dc * c).sum() for c in ends)
        same(f"the loss's slope along a change of {name}", (dx * way).sum(), (up - down) / (2 * e))


def matmul_kernel(blocked):
    """`blocked` with the engine's signature: stacks of matrices, which it takes one by one."""

    def matmul(a, b):
        if a.ndim == b.ndim == 2:
            return blocked(a, b)
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (a, b))
        c = np.empty((*lead, a.shape[-2], b.shape[-1]), a.dtype)
        for n in np.ndindex(lead):
            c[n] = blocked(a[n], b[n])
        return c

    return matmul


def linear_backward(matmul_backward):
    """`matmul_backward` in the place of nn.Linear's, y = x weight^T + bias."""

    def backward(dy, saved, needs):
        x, weight, shape = saved
        dy = dy.reshape(len(x), len(weight))  # (N, O)
        dx, dweight = matmul_backward(dy, x, weight.T)  # (N, I), (I, O)
        return dx.reshape(shape), dweight.T, dy.sum(0) if needs[2] else None

    return backward


BLOCKED = (
    Wrong("only the last tile of k counts", "j : j + tile] += left", "j : j + tile] = left",
          "a (20, 12), b (12, 17), tile 8: c[0, 0] is"),
    Wrong("the edge is left out", "for j in range(0, N, tile)",
          "for j in range(0, N - N % tile, tile)",
          "a (3, 5), b (5, 7), tile 8: c[0, 0] is 0, expected"),
    Wrong("rows and columns of b's tile exchanged", "b[k : k + tile, j : j + tile]",
          "b[j : j + tile, k : k + tile]", "ValueError: matmul"),
    Wrong("whole rows of a fetched", "left = a[i : i + tile, k : k + tile]",
          "left = a[i : i + tile, :][:, k : k + tile]",
          "one piece has 320 elements, at most 64 fit"),
    Wrong("one row of a at a time", "left = a[i : i + tile, k : k + tile]\n"
          "                right = b[k : k + tile, j : j + tile]\n"
          "                c[i : i + tile, j : j + tile] += left @ right",
          "for r in range(i, min(i + tile, M)):\n"
          "                    left = a[r : r + 1, k : k + tile]\n"
          "                    right = b[k : k + tile, j : j + tile]\n"
          "                    c[r : r + 1, j : j + tile] += left @ right",
          "elements were fetched, 7680 are enough"),
    Wrong("c always in float64", "np.zeros((M, N), a.dtype)", "np.zeros((M, N))",
          "a is float32, but c is float64"),
    Wrong("the array behind Slow multiplied", "            for k in range(0, K, tile):\n",
          "            if hasattr(a, 'array'):\n"
          "                return a.array @ b.array\n"
          "            for k in range(0, K, tile):\n",
          "0 elements were fetched: fetch tiles by slices"),
)  # fmt: skip
NAIVE = (
    Wrong("no guard", "    if (i >= M || j >= N) return;\n", "", "out of bounds: global read",
          "naive.cu"),
    Wrong("a guard for rows alone", "i >= M || j >= N", "i >= M", "out of bounds: global read",
          "naive.cu"),
    Wrong("neighbours of a warp in one column", "    int i = blockIdx.y * SIDE + threadIdx.y;\n"
          "    int j = blockIdx.x * SIDE + threadIdx.x;\n",
          "    int i = blockIdx.y * SIDE + threadIdx.x;\n"
          "    int j = blockIdx.x * SIDE + threadIdx.y;\n", "a warp loads 33 sectors for each k",
          "naive.cu"),
    Wrong("the row length of b taken for a's", "b[k * N + j]", "b[k * K + j]",
          "a (32, 4), b (4, 32): c[0, 0] is", "naive.cu"),
    Wrong("added to what was in c", "c[i * N + j] = total", "c[i * N + j] += total",
          "a (32, 4), b (4, 32): c[0, 0] is nan, expected", "naive.cu"),
)  # fmt: skip
TILED = (
    Wrong("no barrier after loading",
          "        __syncthreads();\n        for (int k = 0; k < TILE",
          "        for (int k = 0; k < TILE", "no thread of this block has written", "tiled.cu"),
    Wrong("no barrier after multiplying", "tile_b[k][column];\n        __syncthreads();\n",
          "tile_b[k][column];\n", "race", "tiled.cu"),
    Wrong("threads outside c leave early", "    float total = 0;\n    for",
          "    float total = 0;\n    if (i >= M || j >= N) return;\n    for", "divergent barrier",
          "tiled.cu"),
    Wrong("the last tile of k not cut off", "i < M && k0 + column < K ?", "i < M ?",
          "out of bounds: global read", "tiled.cu"),
    Wrong("b loaded along its columns",
          "tile_b[row][column] = k0 + row < K && j < N ? b[(k0 + row) * N + j] : 0;",
          "int other = blockIdx.x * TILE + row;\n"
          "        tile_b[column][row] = k0 + column < K && other < N"
          " ? b[(k0 + column) * N + other] : 0;",
          "a warp's load touches 18 sectors, and 4 are enough", "tiled.cu"),
    Wrong("the product of the wrong tile row", "tile_a[row][k] * tile_b[k][column]",
          "tile_a[k][column] * tile_b[row][k]", "a (32, 32), b (32, 32): c[0, 0] is", "tiled.cu"),
)  # fmt: skip
BACKWARD = (
    Wrong("b not transposed", "dc @ b.T", "dc @ b", "ValueError: matmul"),
    Wrong("db transposed", "rows.T @ drows", "drows.T @ rows",
          "a (3, 5), b (5, 4): db has shape (4, 5), expected (5, 4)"),
    Wrong("a mean over rows", "return da, rows.T @ drows",
          "return da, rows.T @ drows / max(len(rows), 1)", "a (3, 5), b (5, 4): db[0, 0] is"),
    Wrong("leading dimensions not summed", "rows.T @ drows", "a.swapaxes(-1, -2) @ dc",
          "a (2, 3, 5), b (5, 4): db has shape (2, 5, 4), expected (5, 4)"),
    Wrong("leading dimensions folded into columns", "a.reshape(-1, a.shape[-1])",
          "a.reshape(a.shape[-1], -1).T", "a (3, 5), b (5, 4): db[0, 0] is"),
)  # fmt: skip
EXERCISES = (
    Exercise("Tiles on the CPU", check_blocked, wrong=BLOCKED, hints=(
        "Three loops that walk in steps of `tile`: over rows of c, columns of c, and k."
        " A slice that reaches over the edge of an array is simply shorter.",
        "Inside them: a[i : i + tile, k : k + tile] and b[k : k + tile, j : j + tile], once"
        " each. Their product belongs to c[i : i + tile, j : j + tile].",
        "c[i : i + tile, j : j + tile] += left @ right. It is += because every tile of k adds"
        " its part of the sum.",
    )),
    Exercise("A thread for each element", check_naive, needs=("g++",), wrong=NAIVE, hints=(
        "Lanes of a warp differ in threadIdx.x. For its loads of b and its stores of c to be"
        " neighbours in memory, what must threadIdx.x count?",
        "threadIdx.x counts columns j, threadIdx.y rows i; a thread whose i or j lies outside"
        " returns before it touches anything.",
        "int i = blockIdx.y * SIDE + threadIdx.y, j = blockIdx.x * SIDE + threadIdx.x; sum"
        " a[i * K + k] * b[k * N + j] over k; store c[i * N + j] once.",
    )),
    Exercise("Tiles in shared memory", check_tiled, needs=("g++",), wrong=TILED, hints=(
        "Three parts: every thread loads; every thread multiplies; on to the next k0. What must"
        " all threads have done before any goes on from one part to the next?",
        "Thread (row, column) loads a[i, k0 + column] and b[k0 + row, j], or 0 outside. All"
        " threads load and meet at barriers, those without an element of c too.",
        "tile_a[row][column] = i < M && k0 + column < K ? a[i * K + k0 + column] : 0; likewise"
        " tile_b; __syncthreads(); total += tile_a[row][k] * tile_b[k][column] for all k of the"
        " tile; __syncthreads() again, before the tiles are overwritten.",
    )),
    Exercise("The two gradients", check_backward, wrong=BACKWARD, hints=(
        "Write the shapes down: dc (M, N), b (K, N), da (M, K). Only one product of dc and b,"
        " one of them transposed, has the shape of da.",
        "da = dc b^T keeps its leading dimensions. In db = a^T dc the sum over rows goes over"
        " all leading dimensions too: reshape(-1, ...) makes one long matrix of rows.",
        "a.reshape(-1, a.shape[-1]).T @ dc.reshape(-1, dc.shape[-1])",
    )),
)  # fmt: skip
PLUGS = (
    Plug("blocked", "kernel matmul", exercise=1, adapt=matmul_kernel),
    Plug("matmul_backward", "minillm.ops.linear:Linear.backward", 4, adapt=linear_backward),
)
