"""cross_entropy, fused and with class weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm.functional as F
from minillm.autograd import no_grad
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.ops.cross_entropy import CrossEntropy
from minillm.tensor import Tensor
from tests.against_torch import compare
from tests.strategies import arrays

RNG = np.random.default_rng(0)
V = 5
WEIGHT = RNG.uniform(0.1, 2, V)
REDUCTIONS = ["none", "mean", "sum"]


def problem(*lead, rest=(), ignore=None):
    """Logits (*lead, V, *rest), targets (*lead, *rest), some of them `ignore`."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (*lead, V, *rest))
    targets = np.asarray(rng.integers(0, V, (*lead, *rest)))
    if ignore is not None:
        targets[rng.random(targets.shape) < 0.4] = ignore
    return logits, targets


def against_torch(logits, targets, weight=None, **options):
    torch = pytest.importorskip("torch")
    t = torch.tensor(targets)
    compare(
        lambda x: F.cross_entropy(
            x, targets, weight=None if weight is None else Tensor(weight.astype(x.dtype)), **options
        ),
        lambda x: torch.nn.functional.cross_entropy(
            x, t, weight=None if weight is None else torch.tensor(weight).to(x.dtype), **options
        ),
        logits,
        name="cross_entropy",
    )


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weight"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_options(reduction, label_smoothing, weight):
    logits, targets = problem(17, ignore=-100)
    against_torch(logits, targets, weight, reduction=reduction, label_smoothing=label_smoothing)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weight"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("lead, rest", [((), ()), ((4,), ()), ((2,), (3,)), ((2,), (3, 4))])
def test_shapes(lead, rest, reduction, weight):
    logits, targets = problem(*lead, rest=rest)
    against_torch(logits, targets, weight, reduction=reduction)


@pytest.mark.parametrize("ignore", [-1, 2, 1000])
def test_ignore_index(ignore):
    logits, targets = problem(12, ignore=ignore)
    against_torch(logits, targets, ignore_index=ignore)
    against_torch(logits, targets, WEIGHT, ignore_index=ignore, label_smoothing=0.2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_counts(reduction, rows):
    against_torch(RNG.normal(size=(rows, V)), np.full(rows, -100), reduction=reduction)


def test_infinite_logits():
    logits = np.array([[0.0, -np.inf, 1.0, 2.0, -np.inf]])
    for targets in ([0], [3]):
        against_torch(logits, np.array(targets))


def gradient(x, loss, *grads):
    """x's gradient from one backward for each of `grads`, one after the other through one graph."""
    found = []
    for i, g in enumerate(grads):
        x.grad = None
        loss.backward(np.asarray(g, x.dtype), retain_graph=i + 1 < len(grads))
        found.append(x.grad.data)
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("first", [1.0, -0.25, 3e-6, 0.0, 1e-30, np.inf])
def test_second_backward_is_right(first, dtype):
    """The first scales the stored gradient in place; the second must not see that."""
    logits, targets = problem(9, ignore=-100)
    x = Tensor(logits.astype(dtype), requires_grad=True)
    (want,) = gradient(x, F.cross_entropy(x, targets), 2.0)
    with np.errstate(invalid="ignore"):  # 0 times infinity, as asked for
        got = gradient(x, F.cross_entropy(x, targets), first, 2.0, 2.0)
    np.testing.assert_allclose(got[1], want, rtol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(got[2], got[1])


def test_second_backward_by_rows():
    logits, targets = problem(4)
    x = Tensor(logits, requires_grad=True)
    ones = np.ones(4)
    (want,) = gradient(x, F.cross_entropy(x, targets, reduction="none"), ones)
    first = np.array([0.0, 1.0, -2.0, 1e3])
    got = gradient(x, F.cross_entropy(x, targets, reduction="none"), first, ones)
    np.testing.assert_allclose(got[0], want * first[:, None], rtol=1e-14)
    np.testing.assert_allclose(got[1], want, rtol=1e-14)


def test_gradients_handed_out_stay_as_they_are():
    logits, targets = problem(6)
    x = Tensor(logits, requires_grad=True)
    seen = []
    x.register_hook(lambda g: seen.append(g))
    loss = F.cross_entropy(x, targets)
    loss.backward(retain_graph=True)
    before = seen[0].copy()
    loss.backward(np.asarray(7.0))
    np.testing.assert_array_equal(seen[0], before)
    np.testing.assert_allclose(seen[1], 7 * before, rtol=1e-14)


def test_no_gradient_is_computed_without_need(monkeypatch):
    asked = []
    forward = CrossEntropy.forward

    def watched(*args, with_grad, **options):
        asked.append(with_grad)
        return forward(*args, with_grad=with_grad, **options)

    monkeypatch.setattr(CrossEntropy, "forward", watched)
    logits, targets = problem(3)
    x = Tensor(logits, requires_grad=True)
    losses = [F.cross_entropy(Tensor(logits), targets), F.cross_entropy(x, targets)]
    with no_grad():
        losses.append(F.cross_entropy(x, targets))
    assert asked == [False, True, False]
    np.testing.assert_allclose([loss.item() for loss in losses], losses[0].item(), rtol=1e-14)


@given(
    st.data(),
    st.sampled_from(REDUCTIONS),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([None, WEIGHT]),
)
def test_gradients(data, reduction, label_smoothing, weight):
    shape = data.draw(st.sampled_from([(V,), (1, V), (6, V), (2, V, 3), (2, V, 3, 1), (0, V)]))
    x = data.draw(arrays(shape))
    lead = shape[:-1] if len(shape) < 3 else (shape[0], *shape[2:])
    targets = np.asarray(np.random.default_rng(x.size).integers(0, V, lead))
    if targets.size > 1:
        targets.flat[0] = -100
    options = dict(reduction=reduction, label_smoothing=label_smoothing)
    weight = weight if weight is None else Tensor(weight)
    if x.size or reduction != "mean":  # the mean of nothing is NaN
        gradcheck(lambda x: F.cross_entropy(x, targets, weight, **options), x)


def test_errors():
    x, t = Tensor(np.zeros((4, V))), np.zeros(4, np.int64)
    with pytest.raises(UserError, match=r"input \(4, 5\) needs target of shape \(4,\), got \(3,\)"):
        F.cross_entropy(x, t[:3])
    with pytest.raises(UserError, match="needs target"):
        F.cross_entropy(Tensor(np.float64(1)), t)
    for weight in (None, Tensor(WEIGHT)):
        for bad in (V, -1):
            with pytest.raises(UserError, match=f"target {bad} .*outside"):
                F.cross_entropy(x, t + bad, weight)
        with pytest.raises(UserError, match="reduction must be one of .*, got 'avg'"):
            F.cross_entropy(x, t, weight, reduction="avg")
        with pytest.raises(UserError, match="label_smoothing must be between 0 and 1, got 1.5"):
            F.cross_entropy(x, t, weight, label_smoothing=1.5)
        with pytest.raises(UserError, match="integer class indices, got float64"):
            F.cross_entropy(x, t.astype(float), weight)
    with pytest.raises(UserError, match=r"input \(4, 5\) needs weight \(5,\), got \(3,\)"):
        F.cross_entropy(x, t, Tensor(WEIGHT[:3]))
    with pytest.raises(UserError, match="weight gets no gradient"):
        F.cross_entropy(x, t, Tensor(WEIGHT, requires_grad=True))
    with pytest.raises(UserError, match="cross_entropy: needs inputs of one floating dtype"):
        F.cross_entropy(Tensor(t.reshape(2, 2)), t[:2])


@pytest.mark.parametrize("shape, dim", [((6, V), 1), ((2, V, 3), 1), ((2, 3, V), 2)])
def test_inplace_gives_the_same_gradient(shape, dim):
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=shape), rng.normal(size=shape)
    targets = rng.integers(0, V, shape[:dim] + shape[dim + 1 :])
    found = []
    for inplace in (False, True):
        leaf = Tensor(x.copy(), requires_grad=True)
        logits = leaf * w
        if dim == 2:  # as a GPT does
            logits, targets = logits.reshape(-1, V), targets.reshape(-1)
        loss = F.cross_entropy(logits, targets, label_smoothing=0.1, inplace=inplace)
        loss.backward(retain_graph=True)
        loss.backward()
        np.testing.assert_array_equal(leaf.data, x)
        found.append((loss.data, leaf.grad.data))
    for before, after in zip(*found):
        np.testing.assert_array_equal(before, after)


def test_inplace_takes_the_memory_of_the_logits():
    logits, targets = problem(4)
    x = Tensor(logits, requires_grad=True) * 2.0
    F.cross_entropy(x, targets, inplace=True)
    np.testing.assert_allclose(x.data.sum(1), 0, atol=1e-12)  # p - q now
    constant = Tensor(logits.copy())
    F.cross_entropy(constant, targets, inplace=True)  # no gradient is wanted: nothing is written
    np.testing.assert_array_equal(constant.data, logits)


def test_inplace_misuse_raises():
    logits, targets = problem(4)
    leaf = Tensor(logits, requires_grad=True)
    for x in (leaf, leaf.reshape(2, 2, V).reshape(-1, V), leaf[:]):
        with pytest.raises(RuntimeError, match="would overwrite a leaf"):
            F.cross_entropy(x, targets, inplace=True)
    np.testing.assert_array_equal(leaf.data, problem(4)[0])

    x = leaf * 2.0
    loss = x.exp().sum() + (x * x).sum()  # x * x has saved x
    loss = loss + F.cross_entropy(x, targets, inplace=True)
    with pytest.raises(RuntimeError, match="input 0 is needed for backward but was changed"):
        loss.backward()

    x = leaf * 2.0
    loss = F.cross_entropy(x, targets, inplace=True)
    with no_grad():
        x.zero_()  # the gradient was there
    with pytest.raises(RuntimeError, match="cross_entropy: its input 0 .* changed in place"):
        loss.backward()
