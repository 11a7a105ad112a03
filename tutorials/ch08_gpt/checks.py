"""What must hold of the answers of chapter 08, against loops over single numbers in float64."""

import math

import numpy as np

from minillm import Tensor, kernels, no_grad
from minillm.learn import expect, same
from minillm.nn import KVCache, Linear


def check_heads(work):
    for B, T, H, D in ((2, 3, 4, 5), (1, 7, 2, 3), (3, 1, 1, 4), (2, 4, 6, 1)):
        x = np.arange(float(B * T * H * D)).reshape(B, T, H * D)
        wanted = np.zeros((B, H, T, D))
        for b, h, t, d in np.ndindex(wanted.shape):
            wanted[b, h, t, d] = x[b, t, h * D + d]
        same(f"x {x.shape}, H={H}: split_heads", work.split_heads(Tensor(x), H), wanted)
        same(f"x {wanted.shape}: merge_heads", work.merge_heads(Tensor(wanted)), x)
    x = Tensor(x, requires_grad=True)
    y = work.merge_heads(work.split_heads(x, H))
    expect(y.requires_grad, "no gradient reaches x: use operations of Tensors")


def oracle(q, k, v):
    """Causal attention of arrays, query by query, in float64."""
    (B, H, T, D), S = q.shape, k.shape[2]
    out = np.zeros((B, H, T, v.shape[3]))
    for b, h, t in np.ndindex(B, H, T):
        seen = S - T + t + 1
        s = k[b, h, :seen] @ q[b, h, t] / math.sqrt(D)
        e = np.exp(s - s.max())
        out[b, h, t] = e @ v[b, h, :seen] / e.sum()
    return out


def check_attention(work):
    with kernels.use("reference"), np.errstate(invalid="ignore"):  # nothing to compile
        _check_parts(work)
        _check_whole(work)


def _check_parts(work):
    rng = np.random.default_rng(0)
    for B, H, T, S, D in ((1, 1, 1, 1, 3), (2, 3, 5, 5, 4), (2, 2, 1, 6, 3), (1, 2, 3, 7, 5)):
        q = rng.normal(size=(B, H, T, D)) * 3
        k, v = (rng.normal(size=(B, H, S, D)) for _ in "kv")
        for scale in (1, 1e5):  # with large scores, exponentials overflow
            case = f"T={T}, S={S}, D={D}, q times {scale:g}: attention"
            same(case, work.attention(*map(Tensor, (q * scale, k, v))), oracle(q * scale, k, v))
    q, k, v = (Tensor(rng.normal(size=(1, 2, 4, 3)), requires_grad=True) for _ in "qkv")
    y = work.attention(q, k, v)[:, :, 1].sum()
    if y.requires_grad:
        y.backward()
    for name, x in zip("qkv", (q, k, v)):
        expect(x.grad is not None, f"no gradient reaches {name}: use operations of Tensors")
        expect(np.abs(x.grad.data[:, :, 2:]).max() == 0, f"query 1 sees {name} of tokens after it")


def _check_whole(work):
    """Between its linear layers, at once and piece by piece."""
    rng = np.random.default_rng(4)
    B, T, H, D = 2, 6, 2, 4
    qkv, proj = Linear(H * D, 3 * H * D), Linear(H * D, H * D)
    x = rng.normal(size=(B, T, H * D)).astype(np.float32)
    q, k, v = np.split(x @ qkv.weight.data.T + qkv.bias.data, 3, 2)
    q, k, v = (part.reshape(B, T, H, D).swapaxes(1, 2) for part in (q, k, v))
    joined = oracle(q, k, v).swapaxes(1, 2).reshape(B, T, H * D)
    wanted = joined @ proj.weight.data.T + proj.bias.data
    with no_grad():
        got = work.self_attention(Tensor(x), qkv, proj, H)
        same("self_attention", got, wanted, 1e-4, 1e-5)
        cache = KVCache((B, H, T, D), "float32", "cpu")
        for start, stop in ((0, 3), (3, 4), (4, 6)):
            got = work.self_attention(Tensor(x[:, start:stop]), qkv, proj, H, cache)
            what = f"tokens {start} to {stop - 1} with a cache: self_attention"
            same(what, got, wanted[:, start:stop], 1e-4, 1e-5)


def check_block(work):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 5))
    names, called = ("attention_norm", "attend", "mlp_norm", "mlp"), []
    parts = (lambda x: x * x), (lambda x: x @ a), (lambda x: x * 3 + 1), (lambda x: (x @ b).tanh())
    counted = [lambda x, i=i: called.append(names[i]) or parts[i](x) for i in range(4)]
    for shape in ((2, 3, 5), (1, 1, 5)):
        x = rng.normal(size=shape)
        middle = x + (x * x) @ a
        wanted, given = middle + np.tanh((middle * 3 + 1) @ b), Tensor(x.copy())
        same(f"x {shape}: block", work.block(given, *counted), wanted)
        same("the block must leave its input alone: x", given, x)
        calls = [called.count(name) for name in names]
        same(f"how often {', '.join(names)} are called: calls", calls, [1] * 4)
        called.clear()


def check_initial(work):
    rng = np.random.default_rng(2)
    for L in (1, 12):
        for name in ("token_embedding", "blocks.0.qkv", "blocks.0.up", "blocks.0.attention_proj",
                     "blocks.0.mlp.proj"):  # fmt: skip
            scale, name = 1 / math.sqrt(2 * L) if "proj" in name else 1.0, f"{name}.weight"
            w, again = (work.initial_weight(name, (300, 200), L, rng) for _ in range(2))
            expect(np.shape(w) == (300, 200), f"{name} has shape {np.shape(w)}, not (300, 200)")
            expect(w.dtype == np.float32, f"{name} is {w.dtype}, expected float32")
            expect(not np.array_equal(w, again), f"{name}: the same at each call; draw from rng")
            seeded = map(np.random.default_rng, (5, 5))
            w, again = (work.initial_weight(name, (300, 200), L, r) for r in seeded)
            expect(np.array_equal(w, again), f"{name} differs for equal seeds: draw from rng alone")
            same(f"standard deviation of {name} with L={L}", w.std(), 0.02 * scale, 0.02)
            expect(abs(w.mean()) < 0.02 * scale * 0.02, f"mean of {name} is {w.mean():.2g}, not 0")
            far = (np.abs(w) > 2 * w.std()).mean()
            same(f"share of {name} beyond 2 standard deviations", far, 0.0455, 0.1)
    for name, value in (("norm.weight", 1), ("blocks.1.mlp_norm.weight", 1), ("norm.bias", 0),
                        ("blocks.1.mlp_proj.bias", 0)):  # fmt: skip
        w = work.initial_weight(name, (7,), 4, rng)
        same(name, w, np.full(7, value, np.float32))
        expect(w.dtype == np.float32, f"{name} is {w.dtype}, expected float32")


def restricted(logits, temperature, top_k, top_p):
    """The distribution, token by token."""
    tokens = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    weight = {i: math.exp((logits[i] - max(logits)) / temperature) for i in tokens}
    total, kept, reached = sum(weight.values()), {}, 0.0
    for i in tokens:
        kept[i] = weight[i]
        reached += weight[i] / total
        if top_p is not None and reached >= top_p:
            break
    return np.array([kept.get(i, 0.0) for i in range(len(logits))]) / sum(kept.values())


def check_distribution(work):
    rng = np.random.default_rng(3)
    z = rng.normal(size=9)
    tied = np.array([1.0, 3.0, 3.0, 0.0, 3.0])
    for logits, name in ((z, "9 logits"), (z.astype(np.float32), "float32 logits"),
                         (tied, "[1, 3, 3, 0, 3]"), (z * 500 + 3000, "logits near 3000"),
                         (np.zeros(4), "4 equal logits"),
                         (np.array([-2.0]), "one logit")):  # fmt: skip
        for t, k, p in ((1, None, None), (0.5, None, None), (3, None, None), (1, 2, None),
                        (1, 100, None), (1, None, 0.6), (2, 4, 0.7), (1, 1, None),
                        (1, None, 1e-6), (1, None, 0.5), (1, None, 1.0)):  # fmt: skip
            given = logits.copy()
            case = f"{name}, temperature={t}, top_k={k}, top_p={p}: distribution"
            got = work.distribution(given, t, k, p)
            same(case, got, restricted(logits, t, k, p), 1e-6, 1e-9)
            same("distribution must leave its input alone: logits", given, logits)
            expect(got.dtype == np.float64, f"the probabilities are {got.dtype}, expected float64")
        greedy = np.eye(len(logits))[logits.argmax()]
        same(f"{name}, temperature=0: distribution", work.distribution(logits, 0), greedy)
