"""Planted bugs in memory: races, bounds, what was never written. Each must be reported, with its
kind, its place, and who did it."""

import numpy as np
import pytest

from minillm.kernels.runtime import emulator
from tests.kernels.runtime.planted import ORDERS, fault, needs_compiler, program, run

pytestmark = needs_compiler

REVERSE = """__shared__ float tile[64];
int t = threadIdx.x, i = blockIdx.x * 64 + t;
tile[t] = x[i];
{barrier}
y[i] = tile[63 - t];"""


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_is_a_race(tmp_path, order):
    text = fault(program(tmp_path, REVERSE.format(barrier="")), order)
    assert "race on shared tile" in text or "read of shared tile" in text
    assert "planted.cu:9" in text
    first = "block (3,0,0)" if order == "reverse" else "block (0,0,0)"
    assert f"{first} thread (" in text


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_with_its_barrier_is_right(tmp_path, order):
    y = run(program(tmp_path, REVERSE.format(barrier="__syncthreads();")), order=order)
    assert (y == np.arange(256).reshape(4, 64)[:, ::-1].reshape(-1)).all()


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_second_barrier_is_a_race(tmp_path, order):
    body = """__shared__ float s;
for (int round = 0; round < 2; round++) {
    if (threadIdx.x == 0) s = round;
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = s;
}"""
    text = fault(program(tmp_path, body), order)
    assert "read-write race on shared s" in text
    assert "planted.cu:7" in text and "planted.cu:9" in text


@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_a_race_whose_last_reader_is_the_writer_itself(tmp_path, order, block):
    last = block - 1 if order == "forward" else 0
    body = f"""__shared__ float s;
if (threadIdx.x == 0) s = 1;
__syncthreads();
y[threadIdx.x] = s;
if (threadIdx.x == {last}) s = 2;"""
    text = fault(program(tmp_path, body), order, grid=1, block=block)
    assert f"thread ({last},0,0) and other threads: read at" in text
    assert f"thread ({last},0,0): write at" in text


def test_two_writers_of_one_shared_word(tmp_path):
    body = "__shared__ float s;\ns = threadIdx.x;\n__syncthreads();\ny[threadIdx.x] = s;"
    text = fault(program(tmp_path, body))
    assert "write-write race on shared s" in text and "planted.cu:6" in text
    assert "thread (0,0,0)" in text and "thread (1,0,0)" in text


def test_two_blocks_that_write_one_element(tmp_path):
    text = fault(program(tmp_path, "if (threadIdx.x == 0) y[0] += x[blockIdx.x];"))
    assert "race on global y[0]" in text
    assert "block (0,0,0)" in text and "block (1,0,0)" in text


def test_a_block_that_reads_what_another_wrote(tmp_path):
    body = "int i = blockIdx.x * 64 + threadIdx.x;\ny[i] = i < 64 ? x[i] : y[i - 64];"
    text = fault(program(tmp_path, body))
    assert "read-write race on global y[0]" in text and "planted.cu:6" in text


def test_atomics_do_not_race(tmp_path):
    y = run(program(tmp_path, "if (threadIdx.x + blockIdx.x == 0) y[1] = 0; atomicAdd(y + 2, 1);"))
    assert np.isnan(y[2]) and y[1] == 0


def test_an_atomic_and_a_plain_write_race(tmp_path):
    text = fault(program(tmp_path, "if (threadIdx.x == 5) y[0] = 1; else atomicAdd(y, 1.0f);"))
    assert "race on global y[0]" in text and "atomic" in text


LAST_BLOCK = """__shared__ bool last;
int t = threadIdx.x;
if (t == 0) {{
    y[blockIdx.x] = x[blockIdx.x];
    {fence}
    last = atomicAdd(y + 100, 1.0f) == gridDim.x - 1;
    {fence}
}}
__syncthreads();
if (last && t == 0) y[50] = y[0] + y[1] + y[2] + y[3];"""


def test_the_last_block_may_read_the_others_work_after_fences(tmp_path):
    planted = program(tmp_path, LAST_BLOCK.format(fence="__threadfence();"))
    x, y = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    planted.launch("k", x.dtype, 4, y, x, 256)
    assert y[50] == 0 + 1 + 2 + 3
    with pytest.raises(emulator.KernelFault, match="race on global y"):
        program(tmp_path, LAST_BLOCK.format(fence="")).launch("k", x.dtype, 4, y * 0, x, 256)
    forgot = LAST_BLOCK.format(fence="__threadfence();").replace("__threadfence();", "", 1)
    with pytest.raises(emulator.KernelFault, match="race on global y"):
        program(tmp_path, forgot).launch("k", x.dtype, 4, y * 0, x, 256)


@pytest.mark.parametrize(("index", "at"), [("i + 1", "y[256]"), ("i - 1", "y[-1]")])
def test_off_by_one_of_global_memory(tmp_path, index, at):
    text = fault(program(tmp_path, f"int i = blockIdx.x * 64 + threadIdx.x;\ny[{index}] = x[i];"))
    assert f"out of bounds: global write of 4 bytes at {at}, which has 256 elements" in text
    assert "planted.cu:6" in text
    who = "block (3,0,0) thread (63,0,0)" if "+" in index else "block (0,0,0) thread (0,0,0)"
    assert who in text


def test_far_out_of_bounds(tmp_path):
    text = fault(program(tmp_path, "y[0] = x[1000 * 1000 * 1000ll];"))
    assert "out of bounds: global read of 4 bytes at " in text and "planted.cu:5" in text


def test_off_by_one_of_shared_memory(tmp_path):
    body = "__shared__ float a[64], b[64];\nif (threadIdx.x == 0) b[0] = 0;\n"
    body += "a[threadIdx.x + 1] = x[threadIdx.x];"
    text = fault(program(tmp_path, body))
    assert "out of bounds: shared write of 4 bytes at byte 256 of a, which has 256" in text
    assert "thread (63,0,0)" in text and "planted.cu:7" in text


def test_off_by_one_of_dynamic_shared_memory(tmp_path):
    body = "extern __shared__ float s[];\ns[threadIdx.x + 1] = 0;\n"
    text = fault(program(tmp_path, body), shared=256)
    assert "at byte 256 of dynamic shared memory, which has 256" in text
    assert "0 bytes" in fault(program(tmp_path, body))


def test_shared_memory_that_nothing_has_written(tmp_path):
    body = """__shared__ float s[64];
if (threadIdx.x < 32) s[threadIdx.x] = 0;
__syncthreads();
y[threadIdx.x] = s[threadIdx.x];"""
    text = fault(program(tmp_path, body))
    assert "read of shared s at byte 128, which no thread of this block has written" in text
    assert "thread (32,0,0)" in text and "planted.cu:8" in text


def test_shared_memory_does_not_outlive_its_block(tmp_path):
    body = """__shared__ float s;
if (blockIdx.x == 0) s = 1;
__syncthreads();
y[threadIdx.x + 64 * blockIdx.x] = blockIdx.x ? s : 0;"""
    source = body.replace("if (blockIdx.x == 0)", "if (blockIdx.x == 0 && threadIdx.x == 0)")
    text = fault(program(tmp_path, source))
    assert "which no thread of this block has written" in text and "block (1,0,0)" in text


def test_misaligned_vectors(tmp_path):
    body = "float4 v = *(const float4*)(x + threadIdx.x);\ny[threadIdx.x] = v.x + v.w;"
    text = fault(program(tmp_path, body), grid=1)
    assert "misaligned: read of 16 bytes of global x[1]" in text and "thread (1,0,0)" in text


def test_an_aligned_vector_at_the_end(tmp_path):
    body = "if (threadIdx.x == 0) { float4 v = *(const float4*)(x + 256); y[0] = v.x; }"
    assert "read of 16 bytes at x[256]" in fault(program(tmp_path, body), grid=1)


@pytest.mark.parametrize(
    ("before", "declared"),
    [
        ("", "__shared__ signed char s[64];"),
        ("typedef unsigned char byte;", "__shared__ byte s[64];"),
        ("", "extern __shared__ bool s[];"),
        (
            "struct Three { short a, b, c; operator int() { return a; } };",
            "__shared__ Three s[64];",
        ),
    ],
)
def test_neighbours_smaller_than_a_word_do_not_race(tmp_path, before, declared):
    store = "s[t].a = s[t].b = s[t].c = 1;" if "Three" in declared else "s[t] = 1;"
    body = f"{declared}\nint t = threadIdx.x;\n{store}\n{{}}\ny[t] = s[t ^ 1];"
    planted = program(tmp_path, body.format("__syncthreads();"), before=before)
    assert (run(planted, grid=1, shared=64)[:64] == 1).all()
    planted = program(tmp_path, body.format(""), before=before)
    assert "shared" in fault(planted, grid=1, shared=64)


def test_dynamic_shared_memory_beyond_a_block_s(tmp_path):
    planted = program(tmp_path, "extern __shared__ float s[];\ns[threadIdx.x] = 0;")
    for size in (232449, 3 << 20, -1):
        assert f"{size} bytes of dynamic shared memory: a block" in fault(planted, shared=size)


def test_a_hundred_declarations_of_shared_memory(tmp_path):
    names = [f"s{i}" for i in range(100)]
    body = "\n".join(f"__shared__ float {name}[2]; {name}[threadIdx.x] = 1;" for name in names)
    body += f"\ny[threadIdx.x] = {' + '.join(f'{name}[threadIdx.x]' for name in names)};"
    y = run(program(tmp_path, body), grid=1, block=2)
    assert (y[:2] == 100).all()


def test_before_the_first_of_shared_memory(tmp_path):
    text = fault(program(tmp_path, "__shared__ float s[64];\ns[(int)threadIdx.x - 1] = 0;"))
    assert "out of bounds: shared write of 4 bytes at byte -4 of s" in text


def test_shared_memory_is_aligned_as_declared_and_no_better(tmp_path):
    body = "__shared__ {}float s[256];\n*(float4*)(s + 4 * threadIdx.x) = make_float4(0, 0, 0, 0);"
    run(program(tmp_path, body.format("__align__(16) ")))
    text = fault(program(tmp_path, body.format("")))
    assert "misaligned: write of 16 bytes of shared s at byte 0" in text


def test_structs_are_copied_where_their_members_may_be(tmp_path):
    before = "struct Two { float a, b; }; struct Eight { float a[8]; };"
    body = "int t = threadIdx.x;\nif (t < 16) (({0}*)(y + 1))[t] = (({0}*)(x + 1))[t];"
    for kind, size in (("Two", 2), ("Eight", 8)):
        y = run(program(tmp_path, body.format(kind), before=before), grid=1)
        assert (y[1 : 1 + 16 * size] == np.arange(1, 1 + 16 * size)).all()
    assert "misaligned" in fault(program(tmp_path, body.format("double")), grid=1)


@pytest.mark.parametrize(
    ("copy", "complaint"),
    [
        ("memcpy(y + 3 * t, x + 3 * t, 12);", ""),
        ("memcpy(y + 3 * t, x, t % 2 * 12);", ""),
        ("memcpy(y + 2 * t, x + 3 * t, 12);", "write-write race on global y[2]"),
        ("if (t == 0) memcpy(y + 1, x, n * 4);", "write of 1024 bytes at y[1]"),
        ("memset(y + t, 0, t + 1);", "write-write race on global y[5]"),
    ],
)
def test_copies_of_any_size_are_checked(tmp_path, copy, complaint):
    planted = program(tmp_path, f"int t = threadIdx.x;\n{copy}")
    if complaint:
        text = fault(planted, grid=1)
        assert complaint in text and "planted.cu:6" in text
    else:
        run(planted, grid=1)


def test_a_write_to_what_the_kernel_declares_const(tmp_path):
    text = fault(program(tmp_path, "((float*)x)[3] = 1;"))
    assert "write of global x[3], which is read-only" in text and "planted.cu:5" in text


def test_calls_too_deep_for_the_stack(tmp_path):
    before = "__device__ __noinline__ float f(const float* x, int n) {"
    before += " float a[8]; for (int i = 0; i < 8; i++) a[i] = x[i % 4] + n;"
    before += " return n ? f(a, n - 1) + a[n % 8] : a[7]; }"
    run(program(tmp_path, "y[threadIdx.x] = f(x, 20);", before=before), grid=1)
    text = fault(program(tmp_path, "y[threadIdx.x] = f(x, 5000);", before=before), grid=1)
    assert "stack overflow" in text and "planted.cu:3" in text


def test_an_atomic_at_a_kernel_s_end_has_its_line(tmp_path):
    body = "if (threadIdx.x == 1) y[0] = 1;\nif (threadIdx.x == 0) atomicAdd(y, 1.0f);"
    text = fault(program(tmp_path, body), "reverse", grid=1)
    assert "planted.cu:5" in text and "planted.cu:6" in text


def test_too_much_static_shared_memory(tmp_path):
    text = fault(program(tmp_path, "__shared__ float s[13000]; s[threadIdx.x] = 0; y[0] = 1;"))
    assert "52000 bytes of static shared memory: a block has 49152" in text
