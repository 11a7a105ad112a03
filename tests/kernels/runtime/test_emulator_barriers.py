"""Planted bugs of threads that do not meet: barriers, warps, asynchronous copies. Each must be
reported, with who waits for what."""

import numpy as np
import pytest

from tests.kernels.runtime.planted import ORDERS, fault, needs_compiler, program, run

pytestmark = needs_compiler


def test_divergent_barriers(tmp_path):
    body = "if (threadIdx.x < 32)\n__syncthreads();\nelse\n__syncthreads();\ny[0] = 0;"
    text = fault(program(tmp_path, body))
    assert "divergent barrier" in text and "line 6" in text and "line 8" in text
    assert "thread (0,0,0)" in text and "thread (32,0,0)" in text


def test_a_barrier_that_some_threads_skip(tmp_path):
    text = fault(program(tmp_path, "if (threadIdx.x == 40) return;\n__syncthreads();"))
    assert "another has returned" in text and "line 6" in text and "thread (40,0,0)" in text


def test_a_deadlock_says_who_waits_for_what(tmp_path):
    body = """if (threadIdx.x < 32)
    __syncthreads();
else if (threadIdx.x != 50)
    __shfl_xor_sync(0xffffffff, 1.0f, 1);
else
    __syncthreads();"""
    text = fault(program(tmp_path, body))
    assert "deadlock" in text and "for lanes 0xffffffff" in text
    assert "thread (32,0,0)" in text and "line 8" in text and "line 6" in text


def test_a_shuffle_with_a_lane_that_has_returned(tmp_path):
    body = "if (threadIdx.x == 3) return;\ny[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1.0f, 1);"
    assert "waits for lane 3" in fault(program(tmp_path, body))


def test_a_shuffle_from_a_lane_outside_its_mask(tmp_path):
    body = "if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffff, 1.0f, 20);"
    assert "reads lane 20, which is not in its mask" in fault(program(tmp_path, body))


def test_lanes_at_different_warp_operations(tmp_path):
    body = """float v = 0;
if (threadIdx.x % 2) v = __shfl_xor_sync(0xffffffff, 1.0f, 1);
else v = __shfl_xor_sync(0xffffffff, 1.0f, 1);
y[threadIdx.x] = v;"""
    body = body.replace("\nelse v", "\nelse\nv")
    assert "divergent warp" in fault(program(tmp_path, body))


WARP = """__shared__ float s[64];
int t = threadIdx.x;
s[t] = x[t];
{sync}
y[t] = s[t ^ 1];"""


@pytest.mark.parametrize("order", ORDERS)
def test_a_warp_needs_its_own_barrier(tmp_path, order):
    y = run(program(tmp_path, WARP.format(sync="__syncwarp();")), grid=1, order=order)
    assert (y[:64] == np.arange(64) ^ 1).all()
    text = fault(program(tmp_path, WARP.format(sync="")), order, grid=1)
    assert "shared s" in text and "planted.cu:9" in text


def test_a_warp_barrier_does_not_order_other_warps(tmp_path):
    body = WARP.format(sync="__syncwarp();").replace("t ^ 1", "t ^ 32")
    assert "shared s" in fault(program(tmp_path, body), grid=1)


def test_a_partial_warp_barrier_orders_its_lanes_only(tmp_path):
    half = "if (t % 32 < 16) __syncwarp(0x0000ffff); else __syncwarp(0xffff0000);"
    y = run(program(tmp_path, WARP.format(sync=half)), grid=1)
    assert (y[:64] == np.arange(64) ^ 1).all()
    body = WARP.format(sync=half).replace("t ^ 1", "t ^ 16")
    assert "shared s" in fault(program(tmp_path, body), grid=1)


def test_faults_inside_a_house_header_name_both_lines(tmp_path):
    body = "if (threadIdx.x == 9) return;\ny[threadIdx.x] = block_sum<64>(x[threadIdx.x]);"
    assert "lane 9" in fault(program(tmp_path, body), grid=1)


def test_assertions_and_traps(tmp_path):
    text = fault(program(tmp_path, "assert(n < 10);\ny[0] = 0;"), grid=1)
    assert "assert(n < 10)" in text and "line 5" in text


ASYNC = """__shared__ __align__(16) float s[256];
int t = threadIdx.x;
ptx::copy_async_16(s + 4 * t, x + 4 * t);
ptx::copy_async_commit();
{wait}
y[t] = s[{index}];"""
WAIT = "ptx::copy_async_wait<0>();"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("wait", "index", "complaint"),
    [
        (WAIT, "4 * t", ""),
        ("", "4 * t", "into which an asynchronous copy is under way"),
        ("ptx::copy_async_wait<1>();", "4 * t", "into which an asynchronous copy is under way"),
        (WAIT, "4 * (t ^ 1)", "shared s"),  # another thread's copy wants a barrier too
        (f"{WAIT} __syncthreads();", "4 * (t ^ 1)", ""),
        (f"__syncthreads(); {WAIT}", "4 * (t ^ 1)", "shared s"),
    ],
)
def test_asynchronous_copies_arrive_when_waited_for(tmp_path, order, wait, index, complaint):
    body = ASYNC.format(wait=wait, index=index)
    planted = program(tmp_path, body, before='#include "ptx.cuh"')
    if complaint:
        text = fault(planted, order, grid=1)
        assert complaint in text and "planted.cu:10" in text
    else:
        y = run(planted, grid=1, order=order)
        assert (y[:64] == 4 * (np.arange(64) ^ ("^" in index))).all()


def test_the_source_of_an_asynchronous_copy_is_read_when_waited_for(tmp_path):
    body = """__shared__ __align__(16) float s[256];
int t = threadIdx.x;
y[4 * t] = 1;
ptx::copy_async_16(s + 4 * t, y + 4 * t);
ptx::copy_async_commit();
y[4 * t] = 2;
ptx::copy_async_wait<0>();
y[4 * t] = s[4 * t];"""
    y = run(program(tmp_path, body, before='#include "ptx.cuh"'), grid=1)
    assert (y[:256:4] == 2).all()  # it may be either on a GPU: the emulator takes the later
