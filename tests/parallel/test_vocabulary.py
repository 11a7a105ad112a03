"""The embedding and the loss of a vocabulary that ranks share, against one rank's."""

import numpy as np
import pytest

from minillm import Tensor, UserError, gradcheck, no_grad
from minillm import functional as F
from minillm.distributed import run_threads
from minillm.nn import Parameter
from minillm.ops.dtypes import find_dtype
from minillm.parallel import vocabulary
from minillm.parallel.splits import Split, cut
from minillm.parallel.tensor import CopyToRanks
from minillm.parallel.vocabulary import VocabParallelEmbedding, vocab_parallel_cross_entropy
from minillm.tensor import apply


def columns(comm, V):
    return slice(comm.rank * V // comm.size, (comm.rank + 1) * V // comm.size)


def shared_loss(comm, logits, targets, **options):
    """The loss of whole logits (N, V), the same on all ranks, each of which takes its columns."""
    V = logits.shape[1]
    mine = apply(CopyToRanks, logits, comm=comm)[:, columns(comm, V)]
    return vocab_parallel_cross_entropy(mine, targets, V, comm, **options)


def problem(N, V, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, V, N)
    targets[rng.random(N) < 0.3] = -100
    return rng.normal(0, 4, (N, V)), targets


@pytest.mark.parametrize("ranks, N, V", [(1, 3, 5), (2, 7, 13), (3, 4, 3), (4, 6, 23), (4, 0, 9)])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_loss_and_gradient_are_one_rank_s(ranks, N, V, reduction, monkeypatch):
    monkeypatch.setattr(vocabulary, "BLOCK", 8)  # several blocks of rows
    logits, targets = problem(N, V)
    dy = np.random.default_rng(1).normal(size=N if reduction == "none" else ())

    def backward(loss_of):
        x = Tensor(logits, requires_grad=True)
        loss = loss_of(x, targets, reduction=reduction)
        loss.backward(dy)
        return loss.data, x.grad.data

    wanted, dx = backward(F.cross_entropy)
    for inplace in (False, True):

        def work(comm, inplace=inplace):
            return backward(lambda x, *a, **k: shared_loss(comm, x * 1, *a, inplace=inplace, **k))

        for loss, grad in run_threads(ranks, work):
            np.testing.assert_allclose(loss, wanted, rtol=1e-12)
            np.testing.assert_allclose(grad, dx, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ranks, V", [(2, 5), (3, 10)])
def test_gradcheck(ranks, V):
    """All ranks move the same logits the same way at once."""
    logits, targets = problem(6, V)

    def work(comm):
        gradcheck(lambda x: shared_loss(comm, x, targets, reduction="sum"), logits)
        gradcheck(lambda x: shared_loss(comm, x, targets, reduction="none"), logits)

    run_threads(ranks, work)


def test_large_logits_do_not_overflow_wherever_they_are():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4], [-1e4, -1e4, -1e4]])
    targets = np.array([2, 2, 0])

    def work(comm):
        x = Tensor(logits, requires_grad=True)
        loss = shared_loss(comm, x, targets, reduction="none")
        loss.sum().backward()
        return loss.data, x.grad.data

    for loss, grad in run_threads(3, work):
        np.testing.assert_allclose(loss, [2e4, 0, np.log(3)])
        np.testing.assert_allclose(grad[0], [1, 0, -1], atol=1e-300)


def test_bfloat16_logits_are_computed_in_float32_and_rounded_once_or_twice():
    bfloat16 = find_dtype("bfloat16")
    logits, targets = problem(9, 21)
    # Nearly sure of its target: the gradient there, p - 1, would be lost if p were rounded.
    logits[0], targets[0] = 0.0, 4
    logits[0, 4] = 10.0
    logits = logits.astype(bfloat16)
    exact = Tensor(logits.astype(np.float32), requires_grad=True)
    wanted = F.cross_entropy(exact, targets, reduction="sum")
    wanted.backward()

    def work(comm):
        x = Tensor(logits, requires_grad=True)
        loss = shared_loss(comm, x, targets, reduction="sum")
        loss.backward()
        return loss.data, x.grad.data

    for loss, grad in run_threads(2, work):
        assert loss.dtype == np.float32 and grad.dtype == bfloat16
        np.testing.assert_allclose(loss, wanted.data, rtol=1e-6)
        error = np.abs(grad.astype(np.float32) - exact.grad.data)
        assert (error <= 2.0**-7 * np.abs(exact.grad.data) + 1e-30).all()


def test_the_gradient_takes_the_memory_of_the_logits():
    logits, targets = problem(5, 8)

    def work(comm):
        x = Tensor(cut(logits, Split(1, (8,)), comm.rank, comm.size), requires_grad=True)
        y = x * 1
        loss = vocab_parallel_cross_entropy(y, targets, 8, comm, reduction="sum", inplace=True)
        assert loss.node.saved[0] is y.data
        before = x.data.copy()
        with no_grad():
            vocab_parallel_cross_entropy(x, targets, 8, comm, inplace=True)
        vocab_parallel_cross_entropy(x, targets, 8, comm)
        np.testing.assert_array_equal(x.data, before)
        with pytest.raises(RuntimeError, match="leaf"):
            vocab_parallel_cross_entropy(x, targets, 8, comm, inplace=True)

    run_threads(2, work)


def test_targets_and_ids_outside_the_vocabulary_are_refused_on_every_rank():
    def work(comm):
        x = Tensor(np.zeros((2, 3)))
        with pytest.raises(UserError, match=r"target 6 \(row 1\) is outside \[0, 6\)"):
            vocab_parallel_cross_entropy(x, np.array([0, 6]), 6, comm)
        with pytest.raises(UserError, match="not the share of rank"):
            vocab_parallel_cross_entropy(x, np.array([0, 1]), 9, comm)
        table = VocabParallelEmbedding(Parameter(np.zeros((3, 2))), 6, comm)
        for bad in (6, -1):
            with pytest.raises(UserError, match=f"id {bad} is outside the table of 6 rows"):
                table(np.array([[0, bad]]))

    run_threads(2, work)


@pytest.mark.parametrize("ranks, V", [(1, 4), (3, 7), (4, 4)])
def test_embedding_is_one_rank_s(ranks, V, rng):
    weight, ids = rng.normal(size=(V, 3)), rng.integers(0, V, (2, 5))
    dy = rng.normal(size=(2, 5, 3))
    whole = Tensor(weight, requires_grad=True)
    wanted = F.embedding(ids, whole)
    wanted.backward(dy)

    def work(comm):
        table = VocabParallelEmbedding(Parameter(weight[columns(comm, V)].copy()), V, comm)
        y = table(ids)
        y.backward(dy)
        return y.data, table.weight.grad.data

    results = run_threads(ranks, work)
    for y, _ in results:
        np.testing.assert_array_equal(y, wanted.data)
    np.testing.assert_array_equal(np.concatenate([g for _, g in results]), whole.grad.data)
