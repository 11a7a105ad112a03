"""Hints and wrong answers of chapter 07, and where its functions go in the engine."""

from minillm.learn import Exercise, Plug, Wrong
from minillm.tutorials.ch07_attention.checks import (
    check_absorb,
    check_attention,
    check_backward,
    check_cuda,
    check_forward,
)

FILES = ("attention.py", "flash.cu")


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
          "q (3, 1), k (3, 1), causal: out[1, 0] is"),
    Wrong("a scale of its own", "s = scale * (q @ k.swapaxes(-1, -2))",
          "s = q.shape[-1] ** -0.5 * (q @ k.swapaxes(-1, -2))",
          "q (3, 1), k (3, 1), causal: out[1, 0] is"),
    Wrong("softmax over the queries", "p /= p.sum(-1, keepdims=True)",
          "p /= p.sum(-2, keepdims=True)", "three tokens: out[0, 0] is"),
    Wrong("the mask upside down", "np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)",
          "np.where(np.tri(*s.shape[-2:], dtype=bool).T, s, -np.inf)",
          "three tokens, causal: out[0, 0] is"),
    Wrong("masked with 0 instead of -inf", "s, -np.inf)\n    p =", "s, 0)\n    p =",
          "three tokens, causal: out[0, 0] is"),
    Wrong("masked with -10000", "s, -np.inf)\n    p =", "s, -1e4)\n    p =",
          "scores in the hundred thousands, causal: out["),
    Wrong("the largest score not subtracted", "np.exp(s - s.max(-1, keepdims=True))", "np.exp(s)",
          "scores in the hundred thousands: out[0, 0] is nan"),
)  # fmt: skip
ABSORB = (
    Wrong("the old output not shrunk", "shrink * o + p @ v", "o + p @ v",
          "blocks of 4, 4, 4 keys: o[0, 0, 0] is"),
    Wrong("the old sum not shrunk", "shrink * l + p.sum", "l + p.sum",
          "blocks of 4, 4, 4 keys: l[0, 0, 0] is"),
    Wrong("shrunk the wrong way round", "np.exp(m - safe)", "np.exp(safe - m)",
          "blocks of 12 keys: l[0, 0, 0] is nan, expected"),
    Wrong("only the block's maximum", "np.maximum(m, s.max(-1, keepdims=True))",
          "s.max(-1, keepdims=True)", "blocks of 4, 4, 4 keys: m"),
    Wrong("NaN where nothing is seen", "np.where(largest == -np.inf, 0, largest)", "largest",
          "no key seen: (m, l, o)[1][0, 0] is nan, expected 0"),
)  # fmt: skip
FORWARD = (
    Wrong("not divided by l", "= o / l", "= o",
          "q (3, 1), k (3, 1), causal, blocks of 1: out[1, 0] is"),
    Wrong("lse without the maximum", "(m + np.log(l))[..., 0]", "np.log(l)[..., 0]",
          "q (1, 1), k (1, 1), blocks of 1: lse[0] is 0"),
    Wrong("the last block of keys cut off",
          "min(S, i + block) if causal else S, block):\n            s =",
          "min(S, i) if causal else S, block):\n            s =",
          "q (3, 1), k (3, 1), causal, blocks of 1: out[0, 0] is nan"),
    Wrong("keys that no query sees",
          "for j in range(0, min(S, i + block) if causal else S, block):\n            s = ",
          "for j in range(0, S, block):\n            s = ", "81 computed, 45 have any seen key"),
    Wrong("all keys at once", "S, block):\n"
          "            s = scores(q_i, k[..., j : j + block, :], i, j, causal)\n"
          "            state = absorb(state, s, v[..., j : j + block, :])", "S, S):\n"
          "            s = scores(q_i, k, i, j, causal)\n"
          "            state = absorb(state, s, v)",
          "2080 scores at once; a pair of blocks has 16 x 16"),
    Wrong("a scale of its own", "q_i = scale * q[..., i : i + block, :]",
          "q_i = q.shape[-1] ** -0.5 * q[..., i : i + block, :]",
          "q (1, 1), k (1, 1), blocks of 1: lse[0] is"),
)  # fmt: skip
BACKWARD = (
    Wrong("delta forgotten", " - delta[..., queries, :])", ")",
          "q (1, 1), k (1, 1), blocks of 2: dk[0, 0] is"),
    Wrong("the last block of queries wins", "dv[..., keys, :] += p", "dv[..., keys, :] = p",
          "q (3, 1), k (3, 1), causal, blocks of 2: dv[0, 0] is"),
    Wrong("dk scaled twice", "ds.swapaxes(-1, -2) @ q_i)", "ds.swapaxes(-1, -2) @ (scale * q_i))",
          "q (3, 1), k (3, 1), causal, blocks of 2: dk["),
    Wrong("dq not scaled", "scale * (ds @ k_j)", "ds @ k_j",
          "q (3, 1), k (3, 1), causal, blocks of 2: dq[1, 0] is"),
    Wrong("p reshaped instead of transposed", "p.swapaxes(-1, -2) @ dout_i",
          "np.resize(p, p.swapaxes(-1, -2).shape) @ dout_i",
          "q (3, 1), k (3, 1), causal, blocks of 2: dv[0, 0] is"),
    Wrong("delta from the weights of one block",
          "dout_i @ v_j.swapaxes(-1, -2) - delta[..., queries, :])",
          "(dp := dout_i @ v_j.swapaxes(-1, -2)) - (p * dp).sum(-1, keepdims=True))",
          "q (3, 1), k (3, 1), causal, blocks of 2: dk[0, 0] is"),
    Wrong("all weights at once", "    delta = (dout * out)",
          "    p = np.exp(scale * q @ k.swapaxes(-1, -2) - lse[..., None])\n"
          "    delta = (dout * out)", "an array of T x S would have 135,200"),
)  # fmt: skip
CUDA = (
    Wrong("no barrier after the keys were brought",
          "        __syncthreads();\n        for (int j = 0;", "        for (int j = 0;",
          "no thread of this block has written", "flash.cu"),
    Wrong("threads without a query leave early", "    float query[D], o[D];\n",
          "    if (i >= N) return;\n    float query[D], o[D];\n", "divergent barrier",
          "flash.cu"),
    Wrong("not causal within the last keys", "j < count && j0 + j <= i", "j < count",
          "1 heads of 2 tokens: out[0, 0, 0] is", "flash.cu"),
    Wrong("the output not shrunk", "o[d] = shrink * o[d] + p", "o[d] = o[d] + p",
          "2 heads of 33 tokens: out", "flash.cu"),
    Wrong("no maximum", "float largest = max(m, s), shrink", "float largest = 0, shrink",
          "scores that grow from -800 to 800: out[0", "flash.cu"),
    Wrong("the largest size, not the largest score", "max(m, s), shrink", "max(m, abs(s)), shrink",
          "scores that grow from -800 to 800: out[0", "flash.cu"),
    Wrong("keys from global memory", "query[d] * keys[j][d]",
          "query[d] * k[head + (long long)(j0 + j) * D + d]", "54,784 are enough", "flash.cu"),
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
