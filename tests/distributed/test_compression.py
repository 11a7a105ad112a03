"""Compressed sums: as near as the codec says, nothing lost in the long run, few bytes, NaN seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.distributed import SingleProcess, all_reduce, chunk, codecs, run_threads
from minillm.distributed.compression import Compressed, Plain
from minillm.distributed.steps import Progress, run
from minillm.errors import UserError
from tests import fake_cupy
from tests.distributed.test_codecs import RATIO, bound, coded

name = pytest.mark.parametrize("name", codecs.NAMES)
cases = {
    "name": st.sampled_from(codecs.NAMES),
    "n": st.integers(0, 12) | st.integers(13, 3000),
    "size": st.integers(1, 5),
    "dtype": st.sampled_from([np.float32, np.float64]),
}


def compressed(name):
    return Compressed(codecs.make(name, RATIO))


def inputs(n, size, dtype=np.float64, seed=0):
    rng = np.random.default_rng((n, size, seed))
    return [(4 * rng.standard_normal(n)).astype(dtype) for _ in range(size)]


def chunks(array, size):
    n = array.size
    return [array[j * n // size : (j + 1) * n // size] for j in range(size)]


# --- sums -----------------------------------------------------------------------------------------


@given(**cases)
def test_all_reduce_is_near_the_sum_in_the_same_bits_everywhere(name, n, size, dtype):
    each = inputs(n, size, dtype)

    def work(comm):
        array = each[comm.rank].copy()
        assert run(compressed(name).all_reduce(comm, array)) is None
        return array

    first, *others = run_threads(size, work)
    assert all(other.tobytes() == first.tobytes() for other in others)
    assert run_threads(size, work)[0].tobytes() == first.tobytes()
    if size == 1:
        assert first.tobytes() == each[0].tobytes()
    for j, got in enumerate(chunks(first, size)):
        terms = np.array([chunks(x, size)[j] for x in each], np.float64)
        lost = sum(bound(name, np.abs(term)) for term in terms)
        exact = terms.sum(0)
        again = bound(name, np.abs(exact) + lost)
        rounding = size * np.finfo(dtype).eps * np.abs(terms).sum(0)
        assert first.dtype == dtype and (np.abs(got - exact) <= lost + again + rounding).all()


@given(**cases)
def test_reduce_scatter_adds_what_the_codec_left_in_order_of_rank(name, n, size, dtype):
    each = inputs(n, size, dtype)

    def work(comm):
        array = each[comm.rank].copy()
        mine = run(compressed(name).reduce_scatter(comm, array))
        assert mine.size == 0 or np.shares_memory(mine, array)
        array_elsewhere, unchanged = array.copy(), each[comm.rank].copy()
        chunk(comm, array_elsewhere)[...] = chunk(comm, unchanged)[...] = 0
        assert array_elsewhere.tobytes() == unchanged.tobytes()
        return mine

    codec = codecs.make(name, RATIO)
    for j, mine in enumerate(run_threads(size, work)):
        want = np.zeros_like(mine)
        for x in each:
            want += coded(codec, chunks(x, size)[j]) if size > 1 else x
        assert np.array_equal(mine, want)


@name
@pytest.mark.parametrize("method", ["all_reduce", "reduce_scatter"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_what_came_out_and_what_is_owed_is_what_went_in(name, method, size):
    n, calls = 131, 200

    def work(comm):
        sums, rng = compressed(name), np.random.default_rng(comm.rank)
        went_in, came_out, owed = np.zeros(n), np.zeros(n), []
        for call in range(1, calls + 1):
            array = rng.standard_normal(n) + comm.rank
            went_in += array
            run(getattr(sums, method)(comm, array, 3))
            chunk(comm, came_out)[...] += chunk(comm, array)
            if call in (calls // 2, calls):
                owed.append(sums.state_dict(comm))
        return went_in, came_out, owed

    results = run_threads(size, work)
    went_in, came_out = (sum(r[i] for r in results) for i in (0, 1))
    half, end = (state["3"] for state in results[0][2])
    assert all(r[2] == [{}, {}] for r in results[1:])
    np.testing.assert_allclose(came_out + end, went_in, rtol=0, atol=1e-12 * np.abs(went_in).max())
    assert 0 < np.linalg.norm(end) < 1.3 * np.linalg.norm(half)  # it does not pile up


def descend(name, size, feedback, steps, n=60):
    """How far SGD ends from the mean of the ranks' optima, relative to how far it began."""
    optima = [10 * x for x in inputs(n, size)]

    def work(comm):
        sums, x = compressed(name), np.zeros(n)
        for step in range(steps):
            grad = (x - optima[comm.rank]) / size
            run((sums if feedback else compressed(name)).all_reduce(comm, grad))
            x -= grad / (3 + step / 10)
        return x

    best = np.mean(optima, 0)
    return np.linalg.norm(run_threads(size, work)[0] - best) / np.linalg.norm(best)


@name
@pytest.mark.parametrize("size", [2, 3])
def test_sgd_reaches_the_optimum_and_without_feedback_does_not(name, size):
    short, long = (descend(name, size, True, steps) for steps in (100, 200))
    assert long < 0.65 * short  # as the learning rate: to 0
    short, stalled = (descend(name, size, False, steps) for steps in (100, 200))
    assert stalled > 0.95 * short and stalled > 5 * long


@name
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("n", [0, 3, 10_007])
def test_what_it_sends(name, size, n):
    def work(comm):
        array, sums = np.ones(n, np.float32), compressed(name)
        run(sums.reduce_scatter(comm, array))
        first = comm.bytes_sent
        run(sums.all_reduce(comm, array))
        return first, comm.bytes_sent - first

    parts = [part.size for part in chunks(np.empty(n), size)]
    each = {"bf16": lambda m: 2 * m, "int8": lambda m: m + 4 * -(-m // 256)}.get(
        name, lambda m: 8 * min(m, -(-m // 10))
    )
    sizes = [each(m) for m in parts]
    for r, (scattered, reduced) in enumerate(run_threads(size, work)):
        assert scattered == sum(sizes) - sizes[r]
        assert reduced == scattered + (size - 1) * sizes[r]


@name
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nan_of_one_rank_reaches_all_and_does_not_come_back(name, size, bad):
    def work(comm):
        sums, array = compressed(name), np.ones(100, np.float32)
        if comm.rank == 1:
            array[::7] = bad  # more of them than topk sends
        run(sums.all_reduce(comm, array))
        seen = np.isfinite(array).all()
        array[...] = 1
        run(sums.all_reduce(comm, array))
        return seen, np.isfinite(array).all()

    assert run_threads(size, work) == [(False, True)] * size


@name
@pytest.mark.parametrize("size", [1, 2, 4])
def test_many_under_way_at_once(name, size):
    def gradients(comm, repeat):
        return [inputs(90 * i + 1, size, np.float32, repeat)[comm.rank] for i in range(6)]

    def work(comm):
        rng = np.random.default_rng(comm.rank)
        together, alone = compressed(name), compressed(name)
        for repeat in range(3):
            arrays, progress = gradients(comm, repeat), Progress()
            for tag, array in enumerate(arrays):
                method = together.reduce_scatter if tag % 2 else together.all_reduce
                progress.start(method(comm, array, tag))
                for _ in range(rng.integers(3)):  # ranks look in at different moments
                    progress.poll()
            progress.wait()
            for tag, array in enumerate(gradients(comm, repeat)):
                run((alone.reduce_scatter if tag % 2 else alone.all_reduce)(comm, array, tag))
                assert array.tobytes() == arrays[tag].tobytes()

    run_threads(size, work)


# --- checkpoints, refusals, GPUs ------------------------------------------------------------------


@name
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_run_on_other_ranks_goes_on_with_what_was_owed(name, size):
    ns = {0: 301, 4: 3}

    def sums_of(comm, sums, seed):
        out = {}
        for tag, n in ns.items():
            array = inputs(n, comm.size, seed=seed)[comm.rank]
            run(sums.all_reduce(comm, array, tag))
            out[tag] = array
        return out

    def before(comm):
        sums = compressed(name)
        return sums_of(comm, sums, 0), sums.state_dict(comm)

    def after(comm):
        sums = compressed("int8")
        sums.load_state_dict(comm, state)
        restored = sums.state_dict(comm)
        return restored, sums_of(comm, sums, 1), sums.state_dict(comm)

    first, state = run_threads(3, before)[0]
    restored, second, rest = run_threads(size, after)[0]
    assert state.keys() == restored.keys() == {"0", "4"}
    assert (rest == {}) == (size == 1)
    for tag, n in ns.items():
        assert np.array_equal(state[str(tag)], restored[str(tag)])
        went_in = sum(inputs(n, 3, seed=0)) + sum(inputs(n, size, seed=1))
        accounted = first[tag] + second[tag] + rest.get(str(tag), 0)
        np.testing.assert_allclose(accounted, went_in, rtol=0, atol=1e-12)


def test_plain_sums_are_the_exact_ones():
    each = inputs(101, 3)

    def work(comm):
        whole, parts, want = (each[comm.rank].copy() for _ in range(3))
        run(Plain().all_reduce(comm, whole, 5))
        all_reduce(comm, want)
        assert whole.tobytes() == want.tobytes()
        mine = run(Plain().reduce_scatter(comm, parts, tag=5))
        np.testing.assert_allclose(mine, chunk(comm, want), rtol=1e-14)

    run_threads(3, work)


@pytest.mark.parametrize("n, dtype", [(10, np.float32), (9, np.float64)])
def test_a_tag_that_comes_back_with_another_array_is_refused(n, dtype):
    def work(comm):
        sums = compressed("bf16")
        run(sums.all_reduce(comm, np.ones(9, np.float32), 2))
        run(sums.all_reduce(comm, np.ones(n, dtype), 2))

    with pytest.raises(RuntimeError, match=f"tag 2: a sum of {n} "):
        run_threads(2, work)


def test_arrays_it_cannot_take_are_refused():
    with pytest.raises(UserError, match="int64 are not compressed"):
        run(compressed("int8").all_reduce(SingleProcess(), np.ones(3, np.int64)))
    for array in (np.ones((2, 2)), np.ones(8)[::2]):
        with pytest.raises(ValueError, match="flat contiguous"):
            run(compressed("int8").reduce_scatter(SingleProcess(), array))


@name
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("method", ["all_reduce", "reduce_scatter"])
def test_arrays_on_a_gpu(name, size, method):
    each, owed = inputs(33, size, np.float32), {"0": np.arange(33, dtype=np.float32)}

    def work(comm, put, get):
        sums = compressed(name)
        sums.load_state_dict(comm, owed)
        array = put(each[comm.rank])
        result = run(getattr(sums, method)(comm, array))
        return [get(x).tobytes() for x in (array, result) if x is not None]

    with fake_cupy.installed():
        import cupy

        there = run_threads(size, lambda comm: work(comm, cupy.asarray, cupy.asnumpy))
    assert there == run_threads(size, lambda comm: work(comm, np.copy, np.copy))
