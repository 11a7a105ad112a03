"""scaled_dot_product_attention: the fused kernel, and the path for masks and dropout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm.functional as F
from minillm import env, random
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.ops.attention import ScaledDotProductAttention
from minillm.tensor import Tensor
from tests.against_torch import compare
from tests.strategies import arrays

RNG = np.random.default_rng(0)


def qkv(*lead, H=4, G=4, T=6, S=6, D=5, E=None):
    shapes = (*lead, H, T, D), (*lead, G, S, D), (*lead, G, S, E or D)
    return [RNG.normal(size=shape) for shape in shapes]


def against_torch(arrays, mask=None, **options):
    torch = pytest.importorskip("torch")

    def ours(q, k, v, mask=mask):
        mask = mask if mask is None or isinstance(mask, Tensor) else Tensor(mask)
        return F.scaled_dot_product_attention(q, k, v, mask, **options)

    def theirs(q, k, v, mask=mask):
        mask = torch.tensor(mask) if isinstance(mask, np.ndarray) else mask
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, **options)

    compare(ours, theirs, *arrays, name="attention")


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("T, S", [(6, 6), (3, 9), (9, 3), (1, 1), (70, 70)])
def test_fused(T, S, is_causal, scale):
    against_torch(qkv(2, T=T, S=S), is_causal=is_causal, scale=scale)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("G", [1, 2, 4])
def test_grouped_queries(G, is_causal):
    against_torch(qkv(2, G=G), is_causal=is_causal, enable_gqa=True)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_leading_dimensions(lead):
    against_torch(qkv(*lead), is_causal=True)


def test_one_head_without_a_dimension_for_it():
    against_torch([x[0] for x in qkv(H=1, G=1, T=3)], is_causal=True)


def test_no_keys():
    q, k, v = (Tensor(x, requires_grad=True) for x in qkv(2, S=0))
    out = F.scaled_dot_product_attention(q, k, v)
    out.backward(np.ones(out.shape))
    assert not out.data.any() and not q.grad.data.any() and k.grad.shape == k.shape


def test_heads_split_from_one_array_and_merged_again_copy_nothing():
    """As a transformer calls it: q, k, v are strided views, and merging the heads is a view."""
    x = Tensor(RNG.normal(size=(2, 6, 3, 4, 5)), requires_grad=True)  # (B, T, 3, H, D)
    q, k, v = (x[:, :, i].transpose(1, 2) for i in range(3))  # (B, H, T, D)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)  # (B, T, H, D)
    assert out.data.flags.c_contiguous
    out.sum().backward()
    want = [Tensor(a.data.copy(), requires_grad=True) for a in (q, k, v)]
    F.scaled_dot_product_attention(*want, is_causal=True).sum().backward()
    for i, w in enumerate(want):
        np.testing.assert_allclose(
            x.grad.data[:, :, i], w.grad.data.swapaxes(1, 2), rtol=1e-12, atol=1e-12
        )


def masks():
    boolean = RNG.random((6, 6)) < 0.6
    boolean[2] = False  # a query that sees nothing
    additive = RNG.normal(size=(2, 1, 6, 6))
    additive[0, 0, :, 3] = -np.inf
    additive[1, 0, 4] = -np.inf
    return {"boolean": boolean, "by head": RNG.random((4, 1, 6)) < 0.8, "additive": additive}


@pytest.mark.parametrize("G", [2, 4])
@pytest.mark.parametrize("kind", ["boolean", "by head", "additive"])
def test_masks(kind, G):
    mask = masks()[kind]
    if mask.dtype == bool:
        against_torch(qkv(2, G=G), mask, enable_gqa=True)
    else:  # of the dtype under test, and differentiated
        against_torch([*qkv(2, G=G), np.where(np.isinf(mask), -1e3, mask)], enable_gqa=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_a_query_that_sees_nothing_gets_zeros(kind):
    q, k, v = (Tensor(x, requires_grad=True) for x in qkv(2))
    out = F.scaled_dot_product_attention(q, k, v, Tensor(masks()[kind]))
    out.backward(np.ones(out.shape))
    dead = (slice(None), slice(None), 2) if kind == "boolean" else (1, slice(None), 4)
    assert not out.data[dead].any() and not q.grad.data[dead].any()
    assert all(np.isfinite(x.grad.data).all() for x in (q, k, v))


def test_value_of_another_size():
    against_torch(qkv(2, E=3))
    against_torch(qkv(2, E=3), is_causal=True)


@pytest.mark.parametrize("is_causal", [False, True])
def test_unfused_is_the_fused(is_causal):
    arrays = qkv(2, G=2, T=7, S=7)
    mask = np.tril(np.ones((7, 7), bool)) if is_causal else np.ones((7, 7), bool)
    results = []
    for options in (dict(is_causal=is_causal), dict(attn_mask=Tensor(mask))):
        x = [Tensor(a, requires_grad=True) for a in arrays]
        out = F.scaled_dot_product_attention(*x, enable_gqa=True, **options)
        out.backward(np.cos(np.arange(out.data.size)).reshape(out.shape))
        results.append([out.data, *(a.grad.data for a in x)])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_dropout_of_weights():
    random.manual_seed(0)
    q, k = (Tensor(np.zeros((1, 1, 100, 4))) for _ in range(2))  # every weight is 1 / 100
    v = Tensor(np.ones((1, 1, 100, 4)))
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25).data
    assert abs(out.mean() - 1) < 5 * (0.25 / 0.75 / 1e4) ** 0.5  # kept and scaled up
    assert np.unique((out * 75).round(6)).size > 5  # 100 weights of 0 or 1 / 75: counts vary
    causal = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25, is_causal=True).data
    assert set((causal[0, 0, 0] * 75).round(6)) <= {0.0, 100.0}  # query 0 sees one key


def test_says_once_when_it_is_not_fused(monkeypatch, capsys):
    monkeypatch.setattr(env, "_said", set())
    ran = []
    forward = ScaledDotProductAttention.forward
    monkeypatch.setattr(
        ScaledDotProductAttention, "forward", lambda *a, **o: ran.append(1) or forward(*a, **o)
    )
    q, k, v = map(Tensor, qkv(2))
    F.scaled_dot_product_attention(q, k, v)
    assert ran == [1] and capsys.readouterr().err == ""
    for _ in range(2):
        F.scaled_dot_product_attention(q, k, v, Tensor(np.ones((6, 6), bool)))
    assert ran == [1] and capsys.readouterr().err.count("is not fused") == 1


@given(st.data(), st.sampled_from([1, 2, 4]), st.booleans())
def test_gradients(data, G, is_causal):
    lead = data.draw(st.sampled_from([(), (1,), (2,), (2, 1), (0,)]))
    T, S, D = (data.draw(st.integers(1, 5)) for _ in range(3))
    q, k, v = (data.draw(arrays((*lead, *s, D))) for s in ((4, T), (G, S), (G, S)))
    gradcheck(
        lambda *x: F.scaled_dot_product_attention(*x, is_causal=is_causal, enable_gqa=True), q, k, v
    )


@given(st.data(), st.booleans())
def test_gradients_with_a_mask(data, boolean):
    q, k, v, mask = (
        data.draw(arrays(s)) for s in ((2, 4, 3, 5), (2, 2, 6, 5), (2, 2, 6, 5), (3, 6))
    )
    if boolean:
        seen = mask > 0
        gradcheck(
            lambda *x: F.scaled_dot_product_attention(*x, Tensor(seen), enable_gqa=True), q, k, v
        )
    else:
        gradcheck(lambda *x: F.scaled_dot_product_attention(*x, enable_gqa=True), q, k, v, mask)


def test_errors():
    q, k, v = map(Tensor, qkv(2))

    def fails(match, *args, **options):
        with pytest.raises(UserError, match=match):
            F.scaled_dot_product_attention(*args, **options)

    two = (slice(None), slice(0, 2))
    fails(r"heads differ.*\(2, 4, 6, 5\), key \(2, 2, 6, 5\)", q, k[two], v[two])
    three = (slice(None), slice(0, 3))
    fails("4 query heads cannot share 3 key heads", q, k[three], v[three], enable_gqa=True)
    fails(r"differ in head size: query \(2, 4, 6, 5\), key \(2, 4, 6, 4\)", q, k[..., :4], v)
    fails("key and value differ in heads or length", q, k, v[:, :, :5])
    fails("leading sizes differ", q, k[0], v[0])
    fails("leading sizes differ or are missing", *(Tensor(np.ones(5)),) * 3)
    fails("dropout_p must be between 0 and 1, got 2", q, k, v, dropout_p=2)
    fails(
        "attn_mask or is_causal, not both", q, k, v, Tensor(np.ones((6, 6), bool)), is_causal=True
    )
    fails("one floating dtype", q, Tensor(k.data.astype(np.float32)), v)
    fails("attn_mask of int64 is neither", q, k, v, Tensor(np.tri(6, dtype=int)))
    fails(r"do not broadcast|mask", q, k, v, Tensor(np.ones((5, 6))))
