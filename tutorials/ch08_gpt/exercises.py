"""Checks, hints and wrong answers of chapter 08, and where its functions go in the engine."""

import math

import numpy as np

from minillm import Tensor, kernels, no_grad
from minillm.errors import UserError
from minillm.learn import Exercise, Plug, Wrong, expect, same
from minillm.nn import KVCache, Linear
from minillm.random import default_generator

FILES = ("gpt.py",)


def check_heads(work):
    for B, T, H, D in ((2, 3, 4, 5), (1, 7, 2, 3), (3, 1, 1, 4), (2, 4, 6, 1)):
        x = np.arange(float(B * T * H * D)).reshape(B, T, H * D)
        wanted = np.zeros((B, H, T, D))
        for b, h, t, d in np.ndindex(wanted.shape):
            wanted[b, h, t, d] = x[b, t, h * D + d]
        same(f"x {x.shape}, H={H}: split_heads", work.split_heads(Tensor(x), H), wanted)
        same(f"x {wanted.shape}: merge_heads", work.merge_heads(Tensor(wanted)), x)


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
    work.attention(q, k, v)[:, :, 1].sum().backward()
    for name, x in zip("kv", (k, v)):
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
    parts = (lambda x: x * x), (lambda x: x @ a), (lambda x: x * 3 + 1), (lambda x: (x @ b).tanh())
    for shape in ((2, 3, 5), (1, 1, 5)):
        x = rng.normal(size=shape)
        middle = x + (x * x) @ a
        wanted, given = middle + np.tanh((middle * 3 + 1) @ b), Tensor(x.copy())
        same(f"x {shape}: block", work.block(given, *parts), wanted)
        same("the block must leave its input alone: x", given, x)


def check_initial(work):
    rng = np.random.default_rng(2)
    for L in (1, 12):
        for name in ("token_embedding", "blocks.0.qkv", "blocks.0.up", "blocks.0.attention_proj",
                     "blocks.0.mlp.proj"):  # fmt: skip
            scale, name = 1 / math.sqrt(2 * L) if "proj" in name else 1.0, f"{name}.weight"
            w, again = (work.initial_weight(name, (300, 200), L, rng) for _ in range(2))
            same(f"{name}, its shape", np.zeros(np.shape(w)), np.zeros((300, 200)))
            expect(w.dtype == np.float32, f"{name} is {w.dtype}, expected float32")
            expect(not np.array_equal(w, again), f"{name}: the same at each call; draw from rng")
            same(f"standard deviation of {name} with L={L}", w.std(), 0.02 * scale, 0.02)
            expect(abs(w.mean()) < 0.02 * scale * 0.02, f"mean of {name} is {w.mean():.2g}, not 0")
            far = (np.abs(w) > 2 * w.std()).mean()
            same(f"share of {name} beyond 2 standard deviations", far, 0.0455, 0.1)
    for name, value in (("norm.weight", 1), ("blocks.1.mlp_norm.weight", 1), ("norm.bias", 0),
                        ("blocks.1.mlp_proj.bias", 0)):  # fmt: skip
        same(name, work.initial_weight(name, (7,), 4, rng), np.full(7, value, np.float32))


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
                         (np.array([-2.0]), "one logit")):  # fmt: skip
        for t, k, p in ((1, None, None), (0.5, None, None), (3, None, None), (1, 2, None),
                        (1, 100, None), (1, None, 0.6), (2, 4, 0.7), (1, 1, None),
                        (1, None, 1e-6), (1, None, 1.0)):  # fmt: skip
            given = logits.copy()
            case = f"{name}, temperature={t}, top_k={k}, top_p={p}: distribution"
            same(case, work.distribution(given, t, k, p), restricted(logits, t, k, p), 1e-6, 1e-9)
            same("distribution must leave its input alone: logits", given, logits)
        greedy = np.eye(len(logits))[logits.argmax()]
        same(f"{name}, temperature=0: distribution", work.distribution(logits, 0), greedy)


EXERCISES = (
    Exercise(
        "Split and merge heads",
        check_heads,
        hints=(
            "Channel h D + d of token t becomes element d of head h. Which reshape keeps each"
            " token's channels together?",
            "First (B, T, C) -> (B, T, H, D), which moves nothing in memory; then swap T and H.",
            "x.reshape(B, T, H, C // H).transpose(1, 2); and x.transpose(1, 2), then reshape.",
        ),
        wrong=(
            Wrong("reshaped without transposing: mixes tokens",
                  "x.reshape(B, T, H, C // H).transpose(1, 2)", "x.reshape(B, H, T, C // H)",
                  says="x (2, 3, 20), H=4: split_heads[0, 0, 1, 0] is 5"),
            Wrong("heads interleaved channel by channel",
                  "x.reshape(B, T, H, C // H).transpose(1, 2)",
                  "x.reshape(B, T, C // H, H).permute(0, 3, 1, 2)",
                  says="x (2, 3, 20), H=4: split_heads[0, 0, 0, 1] is 4"),
            Wrong("merged without transposing back",
                  "x.transpose(1, 2).reshape(B, T, H * D)", "x.reshape(B, T, H * D)",
                  says="x (2, 4, 3, 5): merge_heads[0, 0, 5] is"),
        ),
    ),
    Exercise(
        "Causal attention",
        check_attention,
        hints=(
            "Three steps: scores of all pairs, a mask on the pairs that must not meet, a weighted"
            " sum of the values. Which pairs, if the queries are the last T of S tokens?",
            "scores = q @ k.transpose(2, 3) / sqrt(D), (B, H, T, S). A boolean array (T, S), True"
            " where key j > S - T + i, and scores.masked_fill(later, -math.inf).",
            "later = np.arange(S) > np.arange(S - T, S)[:, None];"
            " F.softmax(scores.masked_fill(later, -math.inf), -1) @ v",
        ),
        wrong=(
            Wrong("unscaled", " * D**-0.5", "", says="T=5, S=5, D=4, q times 1: attention[0, 0, 1"),
            Wrong("a token does not see itself", "np.arange(S) > ", "np.arange(S) >= ",
                  says="T=1, S=1, D=3, q times 1: attention[0, 0, 0, 0] is nan"),
            Wrong("the cached tokens forgotten", "np.arange(S - T, S)", "np.arange(T)",
                  says="T=1, S=6, D=3, q times 1: attention"),
            Wrong("no mask", "scores.masked_fill(later, -math.inf)", "scores",
                  says="T=5, S=5, D=4, q times 1: attention"),
            Wrong("masked scores set to 0, not to minus infinity", "-math.inf", "0.0",
                  says="T=5, S=5, D=4, q times 1: attention"),
            Wrong("softmax over the queries", "-math.inf), -1)", "-math.inf), -2)",
                  says="T=5, S=5, D=4, q times 1: attention"),
        ),
    ),
    Exercise(
        "The pre-norm block",
        check_block,
        hints=(
            "Two additions to the stream. What does each part read, and to what is it added?",
            "A part reads norm(x); its result is added to x itself, not to norm(x).",
            "x = x + attend(attention_norm(x)), then the same with the MLP, of the new x.",
        ),
        wrong=(
            Wrong("post-norm", "x = x + attend(attention_norm(x))",
                  "x = attention_norm(x + attend(x))", says="x (2, 3, 5): block[0, 0, 0] is"),
            Wrong("the MLP replaces the stream", "x + mlp(", "mlp(", says="block[0, 0, 0] is"),
            Wrong("the MLP does not see what attention wrote", "x = x + attend(attention_norm(x))",
                  "x, old = x + attend(attention_norm(x)), x; return x + mlp(mlp_norm(old))",
                  says="x (2, 3, 5): block[0, 0, 0] is"),
            Wrong("writes into its input", "x = x + attend(attention_norm(x))",
                  "x.data += attend(attention_norm(x)).data", says="must leave its input alone"),
        ),
    ),
    Exercise(
        "Initial weights",
        check_initial,
        hints=(
            "The name and the number of dimensions decide. In which order must you ask?",
            "Biases first, by their name; then vectors, by len(shape); what is left is a matrix,"
            " whose standard deviation depends on whether it ends in proj.weight.",
            'std = 0.02 / math.sqrt(2 * L) if name.endswith("proj.weight") else 0.02, times'
            " rng.standard_normal(shape, np.float32)",
        ),
        wrong=(
            Wrong("residual matrices like the others", "0.02 / math.sqrt(2 * L) if", "0.02 if",
                  says="standard deviation of blocks.0.attention_proj.weight with L=1 is 0.0"),
            Wrong("one addition a block, not two", "math.sqrt(2 * L)", "math.sqrt(L)",
                  says="standard deviation of blocks.0.attention_proj.weight"),
            Wrong("0.02 taken as the variance", "np.float32(std)", "np.float32(std**0.5)",
                  says="standard deviation of token_embedding.weight"),
            Wrong("norms start at 0", "np.ones", "np.zeros", says="norm.weight[0] is 0"),
            Wrong("uniform draws", "rng.standard_normal(shape, np.float32) *",
                  "12**0.5 * (rng.random(shape, np.float32) - np.float32(0.5)) *",
                  says="beyond 2 standard deviations"),
        ),
    ),
    Exercise(
        "Sampling",
        check_distribution,
        hints=(
            "Sort once, likeliest first; both restrictions then keep the front of the list.",
            "order = np.argsort(-z, kind='stable')[:top_k]; exponentials of z - max; top_p keeps"
            " tokens up to the first whose cumulative sum reaches it, that one included.",
            "count = np.searchsorted(e.cumsum(), top_p) + 1; then put e[:count] / e[:count].sum()"
            " at order[:count] of zeros.",
        ),
        wrong=(
            Wrong("multiplied by the temperature", "- z.max()) / temp", "- z.max()) * temp",
                  says="temperature=0.5"),
            Wrong("no maximum subtracted", "(z[order] - z.max())", "z[order]",
                  says="logits near 3000, temperature=1"),
            Wrong("top-p without the token that crosses it", "top_p) + 1", "top_p)",
                  says="top_p=0.6"),
            Wrong("not scaled again after top-p", "e[:count] / e[:count].sum()", "e[:count]",
                  says="top_p=0.6"),
            Wrong("a tie at the edge of top-k keeps all", "[:top_k]  # likeliest first",
                  "\n    order = order[z[order] >= z[order[: top_k or z.size][-1]]]",
                  says="[1, 3, 3, 0, 3], temperature=1, top_k=2"),
        ),
    ),
)  # fmt: skip


def _attention(function):
    def forward(self, x, rotation=None, cache=None):
        if rotation is not None or self.n_kv_head != self.n_head:
            raise UserError("chapter 08 builds GPT-2: no --position rotary and no --n_kv_head")
        return self.dropout(function(x, self.qkv, self.proj, self.n_head, cache))

    return forward


def _block(function):
    def forward(self, x, rotation=None, cache=None):
        def attend(h):
            return self.attention(h, rotation, cache)

        return function(x, self.attention_norm, attend, self.mlp_norm, self.mlp)

    return forward


def _initial(function):
    def fill(self):
        for name, p in self.named_parameters():
            p.data[...] = function(name, p.shape, self.config.n_layer, default_generator.numpy)

    return fill


def _sample(function):
    def sample(logits, rng, *how):
        p = function(logits, *how)
        order = np.argsort(-p, kind="stable")  # as the engine draws: the same text for a seed
        draw = np.searchsorted(p[order].cumsum(), rng.random() * p.sum(), side="right")
        return int(order[min(draw, p.size - 1)])

    return sample


PLUGS = (
    Plug("self_attention", "minillm.nn.attention:CausalSelfAttention.forward", 2, _attention),
    Plug("block", "minillm.nn.transformer:Block.forward", 3, _block),
    Plug("initial_weight", "minillm.models.gpt:GPT._init_weights", 4, _initial),
    Plug("distribution", "minillm.models.generate:sample", 5, _sample),
)
