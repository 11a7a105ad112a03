"""nll_loss, mse_loss and binary_cross_entropy_with_logits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm.functional as F
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.tensor import Tensor
from tests.against_torch import compare
from tests.strategies import arrays, shapes

RNG = np.random.default_rng(0)
REDUCTIONS = ["none", "mean", "sum"]
SHAPES = [(), (0,), (1,), (3, 4)]


def constant(array, like):
    """`array` as a Tensor, or a torch tensor, of `like`'s dtype; None stays None."""
    if array is None:
        return None
    if isinstance(like, Tensor):
        return Tensor(array.astype(like.dtype))
    return pytest.importorskip("torch").tensor(array).to(like.dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lead, rest", [((), ()), ((6,), ()), ((2,), (3, 4)), ((0,), ())])
def test_nll_loss(lead, rest, weighted, reduction):
    torch = pytest.importorskip("torch")
    V = 5
    logp = -RNG.exponential(size=(*lead, V, *rest))
    targets = np.asarray(RNG.integers(0, V, (*lead, *rest)))
    if targets.ndim:
        targets[targets == 1] = -7
    weight, t = RNG.uniform(0.1, 2, V) if weighted else None, torch.tensor(targets)
    compare(
        lambda x: F.nll_loss(x, targets, constant(weight, x), -7, reduction),
        lambda x: torch.nn.functional.nll_loss(
            x, t, constant(weight, x), ignore_index=-7, reduction=reduction
        ),
        logp,
        name="nll_loss",
    )


def test_nll_loss_of_other_classes_may_be_infinite():
    x = Tensor(np.array([[-1.0, -np.inf]]), requires_grad=True)
    loss = F.nll_loss(x, np.array([0]))
    loss.backward()
    assert loss.item() == 1
    np.testing.assert_array_equal(x.grad.data, [[-1, 0]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mse_loss(shape, reduction):
    torch = pytest.importorskip("torch")
    compare(
        lambda x, t: F.mse_loss(x, t, reduction),
        lambda x, t: torch.nn.functional.mse_loss(x, t, reduction=reduction),
        np.asarray(RNG.normal(size=shape)),
        np.asarray(RNG.normal(size=shape)),
        name="mse_loss",
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("pos_weight", [False, True])
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_binary_cross_entropy_with_logits(shape, weight, pos_weight, reduction):
    torch = pytest.importorskip("torch")
    w = RNG.uniform(0.1, 2, (*shape[:-1], 1)[-len(shape) or 1 :]) if weight and shape else None
    p = RNG.uniform(0.1, 3, shape[-1:]) if pos_weight else None
    compare(
        lambda x, t: F.binary_cross_entropy_with_logits(
            x, t, constant(w, x), reduction, constant(p, x)
        ),
        lambda x, t: torch.nn.functional.binary_cross_entropy_with_logits(
            x, t, constant(w, x), reduction=reduction, pos_weight=constant(p, x)
        ),
        np.asarray(RNG.normal(0, 5, shape)),
        np.asarray(RNG.uniform(size=shape)),
        name="binary_cross_entropy_with_logits",
    )


@pytest.mark.filterwarnings("error")
def test_bce_of_extreme_logits():
    x = Tensor(np.array([1e4, -1e4, 1e4, -1e4], np.float32), requires_grad=True)
    t = Tensor(np.array([1, 0, 0, 1], np.float32))
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    loss.backward(np.ones(4, np.float32))
    np.testing.assert_array_equal(loss.data, [0, 0, 1e4, 1e4])
    np.testing.assert_array_equal(x.grad.data, [0, 0, 1, -1])


@given(st.data(), shapes(min_side=1), st.sampled_from(REDUCTIONS))
def test_gradients(data, shape, reduction):
    x, t = data.draw(arrays(shape)), data.draw(arrays(shape, low=0, high=1))
    w = Tensor(np.random.default_rng(0).uniform(0.1, 2, shape[-1:]))
    gradcheck(lambda x, t: F.mse_loss(x, t, reduction), x, t)
    bce = F.binary_cross_entropy_with_logits
    gradcheck(lambda x, t: bce(x, t, w, reduction), x, t)
    gradcheck(lambda x, t: bce(x, t, None, reduction, w), x, t)


@given(st.data(), st.sampled_from(REDUCTIONS))
def test_gradients_of_nll_loss(data, reduction):
    lead, rest = data.draw(st.sampled_from([((), ()), ((5,), ()), ((2,), (3,)), ((1,), (2, 2))]))
    x = data.draw(arrays((*lead, 4, *rest)))
    targets = np.asarray(np.random.default_rng(x.size).integers(0, 4, (*lead, *rest)))
    w = Tensor(np.array([0.5, 1.0, 0.0, 2.0]))
    gradcheck(lambda x: F.nll_loss(x, targets, None, -100, reduction), x)
    gradcheck(lambda x: F.nll_loss(x, targets, w, 3, "sum"), x)


@pytest.mark.parametrize("loss", [F.mse_loss, F.binary_cross_entropy_with_logits])
def test_errors(loss):
    x = Tensor(np.zeros((2, 3)))
    with pytest.raises(UserError, match=r"input \(2, 3\) and target \(3,\) differ in shape"):
        loss(x, Tensor(np.zeros(3)))
    with pytest.raises(UserError, match="reduction must be one of .*, got 'avg'"):
        loss(x, x, reduction="avg")
    with pytest.raises(UserError, match="floating dtype, got float64 and int64"):
        loss(x, Tensor(np.zeros((2, 3), int)))


def test_errors_of_nll_loss():
    logp = Tensor(np.zeros((4, 5)))
    with pytest.raises(UserError, match=r"input \(4, 5\) needs target of shape \(4,\), got \(5,\)"):
        F.nll_loss(logp, np.zeros(5, int))
    with pytest.raises(UserError, match="target 5 is outside the 5 classes"):
        F.nll_loss(logp, np.full(4, 5))
    with pytest.raises(UserError, match=r"needs weight \(5,\), got \(4,\)"):
        F.nll_loss(logp, np.zeros(4, int), Tensor(np.ones(4)))
    with pytest.raises(UserError, match="weight gets no gradient"):
        F.nll_loss(logp, np.zeros(4, int), Tensor(np.ones(5), requires_grad=True))


def test_errors_of_bce_weights():
    x = Tensor(np.zeros((2, 3)))
    for what in ("weight", "pos_weight"):
        with pytest.raises(UserError, match=rf"{what} \(2,\) does not broadcast to input \(2, 3\)"):
            F.binary_cross_entropy_with_logits(x, x, **{what: Tensor(np.ones(2))})
        with pytest.raises(UserError, match="gets no gradient"):
            w = Tensor(np.ones(3), requires_grad=True)
            F.binary_cross_entropy_with_logits(x, x, **{what: w})
