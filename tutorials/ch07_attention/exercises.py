"""Checks, hints and wrong answers of chapter 07, and where its functions go in the engine."""

import numpy as np

from minillm.kernels.attention import reference
from minillm.learn import Exercise, Plug, Wrong, expect, same
from minillm.learn.gpu import launch

FILES = ("attention.py", "flash.cu")
quiet = np.errstate(all="ignore")  # of warnings, which would hide what the check has to say


def drawn(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def exact(q, k, v, scale, causal):
    """out and lse by the engine's formula, in float64."""
    four = [np.asarray(x, np.float64).reshape(1, -1, *x.shape[-2:]) for x in (q, k, v)]
    out, lse = reference.attention_forward(*four, scale, causal)
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


CASES = (  # leading dimensions, T, S, D, causal
    ((), 1, 1, 1, False), ((), 3, 3, 1, True), ((2, 3), 5, 7, 4, False), ((2, 1), 6, 6, 3, True),
    ((3,), 9, 4, 2, True), ((2,), 1, 9, 5, False),
)  # fmt: skip


def cases(blocks=(None,)):
    """(name, q, k, v, scale, causal, block), of each."""
    for seed, (lead, T, S, D, causal) in enumerate(CASES):
        q, k, v = drawn(seed, (*lead, T, D), (*lead, S, D), (*lead, S, D))
        for block in blocks:
            name = f"q {q.shape}, k {k.shape}{', causal' * causal}"
            yield name + f", blocks of {block}" * bool(block), q, k, v, D**-0.5, causal, block


@quiet
def check_attention(work):
    q, k, v = (np.array([[float(x) for x in row]]) for row in ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    same("out for one key", work.attention(q, k, v, 3**-0.5), v)
    q, k, v = q.T, k.T, v.T
    for name, causal in (("three tokens", False), ("three tokens, causal", True)):
        wanted = exact(q, k, v, 1.0, causal)[0]
        same(f"out for {name}", work.attention(q, k, v, 1.0, causal), wanted)
    for name, q, k, v, scale, causal, _ in cases():
        kept, out = (q.copy(), k.copy(), v.copy()), work.attention(q, k, v, scale, causal)
        same(f"out for {name}", out, exact(q, k, v, scale, causal)[0], 1e-9, 1e-12)
        same("q, k and v afterwards", (q, k, v), kept, 0, 0)
    q, k, v = drawn(9, (4, 8), (4, 8), (4, 8))
    out = work.attention(300 * q, 300 * k, v, 1.0)
    same("out for scores in the hundred thousands", out, exact(300 * q, 300 * k, v, 1.0, False)[0])


def absorbed(work, s, v, sizes):
    """The state after blocks of these sizes."""
    state, at = work.start(np.zeros((*s.shape[:-1], v.shape[-1]))), 0
    for n in sizes:
        kept = [x.copy() for x in state]
        new = work.absorb(state, s[..., at : at + n], v[..., at : at + n, :])
        same("the state that was given, afterwards", state, kept, 0, 0)
        state, at = new, at + n
    return state


@quiet
def check_absorb(work):
    s, v = drawn(0, (2, 3, 12), (2, 12, 5))
    s[1] *= 40
    peak = s.max(-1, keepdims=True)
    p = np.exp(s - peak)
    wanted = peak, p.sum(-1, keepdims=True), p @ v
    for sizes in ((12,), (4, 4, 4), (1,) * 12, (5, 7), (11, 1)):
        case = f"blocks of {', '.join(map(str, sizes))} keys"
        for name, got, right in zip("mlo", absorbed(work, s, v, sizes), wanted):
            same(f"{name} after {case}", got, right, 1e-9, 1e-12)
    for scale in (1e4, -1e4):
        m, l, o = absorbed(work, scale + s[0], v[0], (3, 9))
        same(f"o / l for scores near {scale:.0f}", o / l, (wanted[2] / wanted[1])[0], 1e-7)
    unseen = np.full((3, 4), -np.inf)
    nothing = unseen[:, :1], np.zeros((3, 1)), np.zeros((3, 5))
    same("m, l, o that saw no key", absorbed(work, unseen, v[0, :4], (4,)), nothing)
    hidden = np.concatenate([unseen, s[0, :, 4:8], unseen], -1)
    m, l, o = absorbed(work, hidden, v[0], (4, 4, 4))
    seen = np.exp(s[0, :, 4:8] - s[0, :, 4:8].max(-1, keepdims=True))
    same("o / l with unseen keys around", o / l, seen @ v[0, 4:8] / seen.sum(-1, keepdims=True))


@quiet
def check_forward(work):
    for name, q, k, v, scale, causal, block in cases((1, 2, 4, 32)):
        got = work.flash_forward(q, k, v, scale, causal, block)
        expect(isinstance(got, tuple) and len(got) == 2, "return out and lse")
        for what, x, wanted in zip(("out", "lse"), got, exact(q, k, v, scale, causal)):
            same(f"{what} for {name}", x, wanted, 1e-9, 1e-12)
    q, k, v = drawn(9, (70, 8), (70, 8), (70, 8))
    sizes = recorded(work, lambda: work.flash_forward(q, k, v, 0.3, True, 16))
    expect(len(sizes) <= 15, f"causal, 5 x 5 blocks: {len(sizes)} computed, 15 have any seen key")
    return f"causal, 5 x 5 blocks: {len(sizes)} computed"


def recorded(work, run):
    """Sizes of what `work.scores` returns while `run` runs: at most those of a pair of blocks."""
    sizes, original = [], work.scores

    def scores(*args):
        s = original(*args)
        sizes.append(s.size)
        return s

    work.scores = scores
    run()
    work.scores = original
    expect(sizes, "use `scores` for the blocks of scores, so that they can be counted")
    expect(max(sizes) <= 16 * 16, f"{max(sizes)} scores at once; a pair of blocks has 16 x 16")
    return sizes


@quiet
def check_backward(work):
    for seed, (name, q, k, v, scale, causal, block) in enumerate(cases((2, 32))):
        (dout,) = drawn(100 + seed, q.shape)
        out, lse = exact(q, k, v, scale, causal)
        four = [x.reshape(1, -1, *x.shape[-2:]) for x in (dout, q, k, v, out)]
        wanted = reference.attention_backward(*four, lse.reshape(1, -1, q.shape[-2]), scale, causal)
        kept = [x.copy() for x in (dout, q, k, v, out, lse)]
        got = work.flash_backward(dout, q, k, v, out, lse, scale, causal, block)
        expect(isinstance(got, tuple) and len(got) == 3, "return dq, dk and dv")
        for what, x, right, of in zip(("dv", "dk", "dq"), got[::-1], wanted[::-1], (v, k, q)):
            same(f"{what} for {name}", x, right.reshape(of.shape), 1e-9, 1e-11)
        same("the arguments afterwards", (dout, q, k, v, out, lse), tuple(kept), 0, 0)
    q, k, v, dout = drawn(9, *[(70, 8)] * 4)
    out, lse = exact(q, k, v, 0.3, True)
    recorded(work, lambda: work.flash_backward(dout, q, k, v, out, lse, 0.3, True, 16))


def check_cuda(work):
    for heads, N in ((1, 1), (1, 2), (2, 33), (1, 64), (2, 100)):
        q, k, v = (x.astype(np.float32) for x in drawn(N, *[(heads, N, 16)] * 3))
        out, lse = np.full_like(q, np.nan), np.full((heads, N), np.nan, np.float32)
        grid = -(-N // 64), heads
        args = out, lse, 2 * q, k, v, 0.25, N
        moved = launch(work.folder / "flash.cu", "flash", grid, *args, block=64)
        case = f"{heads} heads of {N} tokens"
        wanted, sums = exact(2 * q, k, v, 0.25, True)
        same(f"out for {case}", out, wanted, 1e-4, 1e-5)
        same(f"lse for {case}", lse, sums, 1e-4, 1e-5)
    q = np.ones((1, 40, 16), np.float32)
    k, (v,) = np.linspace(0, 50, 40, dtype=np.float32)[None, :, None] * q, drawn(3, (1, 40, 16))
    out, v = np.full_like(q, np.nan), v.astype(np.float32)
    args = out, np.zeros((1, 40), np.float32), q, k, v, 1.0, 40
    launch(work.folder / "flash.cu", "flash", (1, 1), *args, block=64)
    same("out for scores that grow to 800", out, exact(q, k, v, 1.0, True)[0], 1e-4, 1e-5)
    return f"{case}: {moved['global load'].bytes:,} bytes loaded"


def kernel_forward(flash_forward):
    """`flash_forward` with the engine's signature; groups of heads share keys and values."""

    def attention_forward(q, k, v, scale, causal):
        k, v = (x.repeat(q.shape[1] // x.shape[1], axis=1) for x in (k, v))
        return flash_forward(q, k, v, float(scale), causal)

    return attention_forward


def kernel_backward(flash_backward):
    """The same; dk and dv are sums over the heads of a group."""

    def attention_backward(dout, q, k, v, out, lse, scale, causal):
        (B, S, D), (H, G) = (k.shape[0], *k.shape[2:]), (q.shape[1], k.shape[1])
        k, v = (x.repeat(H // G, axis=1) for x in (k, v))
        dq, dk, dv = flash_backward(dout, q, k, v, out, lse, float(scale), causal)
        return dq, *(dx.reshape(B, G, H // G, S, D).sum(2) for dx in (dk, dv))

    return attention_backward


FORMULA = (
    Wrong("not scaled", "s = scale * (q @ k.swapaxes(-1, -2))", "s = q @ k.swapaxes(-1, -2)",
          "out for q (2, 3, 5, 4), k (2, 3, 7, 4)[0, 0, 0, 0] is"),
    Wrong("softmax over the queries", "p /= p.sum(-1, keepdims=True)",
          "p /= p.sum(-2, keepdims=True)", "out for three tokens[0, 0] is"),
    Wrong("the mask upside down", "np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)",
          "np.where(np.tri(*s.shape[-2:], dtype=bool).T, s, -np.inf)",
          "out for three tokens, causal[0, 0] is"),
    Wrong("masked with 0 instead of -inf", "s, -np.inf)\n    p =", "s, 0)\n    p =",
          "out for three tokens, causal[0, 0] is"),
    Wrong("the largest score not subtracted", "np.exp(s - s.max(-1, keepdims=True))", "np.exp(s)",
          "out for scores in the hundred thousands[0, 0] is nan"),
)  # fmt: skip
ABSORB = (
    Wrong("the old output not shrunk", "shrink * o + p @ v", "o + p @ v",
          "o after blocks of 4, 4, 4 keys[0, 0, 0] is"),
    Wrong("the old sum not shrunk", "shrink * l + p.sum", "l + p.sum",
          "l after blocks of 4, 4, 4 keys[0, 0, 0] is"),
    Wrong("shrunk the wrong way round", "np.exp(m - safe)", "np.exp(safe - m)",
          "l after blocks of 12 keys[0, 0, 0] is nan, expected"),
    Wrong("only the block's maximum", "np.maximum(m, s.max(-1, keepdims=True))",
          "s.max(-1, keepdims=True)", "m after blocks of 4, 4, 4 keys"),
    Wrong("NaN where nothing is seen", "np.where(largest == -np.inf, 0, largest)", "largest",
          "m, l, o that saw no key[1][0, 0] is nan, expected 0"),
)  # fmt: skip
FORWARD = (
    Wrong("not divided by l", "= o / l", "= o",
          "out for q (3, 1), k (3, 1), causal, blocks of 1[1, 0] is"),
    Wrong("lse without the maximum", "(m + np.log(l))[..., 0]", "np.log(l)[..., 0]",
          "lse for q (1, 1), k (1, 1), blocks of 1[0] is 0"),
    Wrong("the last block of keys cut off",
          "min(S, i + block) if causal else S, block):\n            s =",
          "min(S, i) if causal else S, block):\n            s =",
          "out for q (3, 1), k (3, 1), causal, blocks of 1[0, 0] is nan"),
    Wrong("keys that no query sees",
          "for j in range(0, min(S, i + block) if causal else S, block):\n            s = ",
          "for j in range(0, S, block):\n            s = ", "25 computed, 15 have any seen key"),
    Wrong("all keys at once", "S, block):\n"
          "            s = scores(q_i, k[..., j : j + block, :], i, j, causal)\n"
          "            state = absorb(state, s, v[..., j : j + block, :])", "S, S):\n"
          "            s = scores(q_i, k, i, j, causal)\n"
          "            state = absorb(state, s, v)",
          "1120 scores at once; a pair of blocks has 16 x 16"),
)  # fmt: skip
BACKWARD = (
    Wrong("delta forgotten", " - delta[..., queries, :])", ")",
          "dk for q (1, 1), k (1, 1), blocks of 2[0, 0] is"),
    Wrong("the last block of queries wins", "dv[..., keys, :] += p", "dv[..., keys, :] = p",
          "dv for q (3, 1), k (3, 1), causal, blocks of 2[0, 0] is"),
    Wrong("dk scaled twice", "ds.swapaxes(-1, -2) @ q_i)", "ds.swapaxes(-1, -2) @ (scale * q_i))",
          "dk for q (2, 3, 5, 4), k (2, 3, 7, 4), blocks of 2[0, 0, 0, 0] is"),
    Wrong("dq not scaled", "scale * (ds @ k_j)", "ds @ k_j",
          "dq for q (2, 3, 5, 4), k (2, 3, 7, 4), blocks of 2[0, 0, 0, 0] is"),
    Wrong("p reshaped instead of transposed", "p.swapaxes(-1, -2) @ dout_i",
          "np.resize(p, p.swapaxes(-1, -2).shape) @ dout_i",
          "dv for q (3, 1), k (3, 1), causal, blocks of 2[0, 0] is"),
)  # fmt: skip
CUDA = (
    Wrong("no barrier after the keys were brought",
          "        __syncthreads();\n        for (int j = 0;", "        for (int j = 0;",
          "no thread of this block has written", "flash.cu"),
    Wrong("threads without a query leave early", "    float query[D], o[D];\n",
          "    if (i >= N) return;\n    float query[D], o[D];\n", "divergent barrier",
          "flash.cu"),
    Wrong("not causal within the last keys", "j < count && j0 + j <= i", "j < count",
          "out for 1 heads of 2 tokens[0, 0, 0] is", "flash.cu"),
    Wrong("the output not shrunk", "o[d] = shrink * o[d] + p", "o[d] = o[d] + p",
          "out for 2 heads of 33 tokens", "flash.cu"),
    Wrong("no maximum", "float largest = max(m, s), shrink", "float largest = 0, shrink",
          "out for scores that grow to 800[0", "flash.cu"),
)  # fmt: skip
EXERCISES = (
    Exercise("Attention by the formula", check_attention, wrong=FORMULA, hints=(
        "Four lines: scores (..., T, S), the mask, weights whose rows sum to 1, values weighted"
        " by them. Which axis are the keys on?",
        "k.swapaxes(-1, -2) transposes the last two dimensions; np.tri(T, S, dtype=bool) is"
        " True where j <= i; np.where puts -inf elsewhere. Softmax is over axis -1.",
        "p = np.exp(s - s.max(-1, keepdims=True)); p /= p.sum(-1, keepdims=True); return p @ v",
    )),
    Exercise("Online softmax", check_absorb, wrong=ABSORB, hints=(
        "The new m is the larger of the old m and the block's largest score. What must the old"
        " l and o be multiplied by, now that m is larger?",
        "shrink = e^(old m - new m); l becomes shrink l + sum of e^(s - new m), o likewise,"
        " with v. And -inf - -inf is NaN: where the new m is still -inf, subtract 0.",
        "largest = np.maximum(m, s.max(-1, keepdims=True)); safe = np.where(largest == -np.inf,"
        " 0, largest); p, shrink = np.exp(s - safe), np.exp(m - safe)",
    )),
    Exercise("FlashAttention, forward", check_forward, wrong=FORWARD, hints=(
        "Two loops in steps of `block`: outside over queries, inside over keys. The state"
        " starts anew for each block of queries.",
        "start(q_i), then state = absorb(state, scores(q_i, k_j, i, j, causal), v_j). `scores`"
        " wants queries that are scaled already. Causal: the last query of the block is"
        " i + block - 1, and keys after it need no look.",
        "for j in range(0, min(S, i + block) if causal else S, block): ... ; at the end"
        " out[..., i : i + block, :] = o / l and lse[..., i : i + block] ="
        " (m + np.log(l))[..., 0]",
    )),
    Exercise("FlashAttention, backward", check_backward, wrong=BACKWARD, hints=(
        "Equations (3) to (6), a pair of blocks at a time. All that is missing is p, which is"
        " e^(scores - lse), equation (12). dq of a block of queries gathers over blocks of"
        " keys, dk and dv of a block of keys over blocks of queries.",
        "delta = (dout * out).sum(-1, keepdims=True), once. In the loops: p, then"
        " dp = dout_i @ v_j^T, then ds = p * (dp - delta_i), then three += with products.",
        "dq_i += scale * (ds @ k_j); dk_j += scale * (ds^T @ q_i), with the q that is not"
        " scaled; dv_j += p^T @ dout_i",
    )),
    Exercise("FlashAttention in CUDA", check_cuda, needs=("g++",), wrong=CUDA, hints=(
        "First all threads must have brought what they bring: a barrier. Every thread reaches"
        " it, those without a query too. Then a loop over the `count` keys that are there.",
        "Key j of this round is token j0 + j. The query is scaled already. A new largest score"
        " shrinks l and every o[d], before the new key is added.",
        "for (int j = 0; j < count && j0 + j <= i; j++): s = dot(query, keys[j]); largest ="
        " max(m, s); shrink = exp(m - largest); p = exp(s - largest); l = shrink * l + p;"
        " o[d] = shrink * o[d] + p * values[j][d]; m = largest",
    )),
)  # fmt: skip
PLUGS = (
    Plug("flash_forward", "kernel attention_forward", 3, adapt=kernel_forward),
    Plug("flash_backward", "kernel attention_backward", 4, adapt=kernel_backward),
)
