"""Checks, hints and wrong answers of chapter 03."""

import numpy as np

import minillm
from minillm import Tensor
from minillm import functional as F
from minillm.gradcheck import GradcheckError
from minillm.learn import Exercise, Mistake, Plug, Wrong, expect, same

FILES = ("models.py",)

ENGINE = F.scaled_dot_product_attention


def check_bigram(work):
    for V, ids, k in ((3, [0, 1, 0, 1, 2, 2], 0.5), (4, [3, 3, 3, 3], 1.0), (2, [1], 2.0)):
        check_table(work, V, np.array(ids), k)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        V = int(rng.integers(2, 9))
        check_table(work, V, rng.integers(V, size=200), float(rng.random() + 0.01))


def check_table(work, V, ids, k):
    p = work.bigram(ids.copy(), V, k)
    wanted = np.full((V, V), float(k))
    for a, b in zip(ids.tolist(), ids[1:].tolist()):
        wanted[a, b] += 1
    wanted /= wanted.sum(1, keepdims=True)
    words = f"bigram({ids.tolist() if len(ids) < 9 else f'{len(ids)} ids'}, V={V}, k={k:.3g})"
    same(words, p, wanted, rtol=1e-12)


def check_perplexity(work):
    for V in (2, 5, 73):
        ids = np.random.default_rng(V).integers(V, size=50)
        same(
            f"perplexity of uniform, V={V}", work.perplexity(np.full((V, V), 1 / V), ids), float(V)
        )
    p = np.array([[0.9, 0.1], [0.5, 0.5]])
    for ids in ([0, 0], [0, 1], [1, 0, 0, 1], [0, 0, 0, 0, 1, 1, 0]):
        pairs = [p[a, b] for a, b in zip(ids, ids[1:])]
        wanted = np.prod(pairs) ** (-1 / len(pairs))
        same(f"perplexity of {ids}, p = {p.tolist()}", work.perplexity(p, np.array(ids)), wanted)
    p = np.tile([1.0, 1e-300], (2, 1))
    same("perplexity of a rare token", work.perplexity(p, np.array([0, 1, 1, 1])), 1e300, 1e-9)


def check_backward(work):
    names = ("dx", "dh0", "dU", "dW", "db")
    for T, B, E, C in ((1, 2, 3, 4), (2, 2, 3, 4), (7, 3, 2, 5), (1, 1, 1, 1)):
        rng = np.random.default_rng(T)
        shapes = (T, B, E), (B, C), (E, C), (C, C), (C,)
        x, h0, U, W, b = given = [rng.standard_normal(shape) for shape in shapes]
        dh = rng.standard_normal((T, B, C))
        if T == 7:
            dh[:-1] = 0  # only the last state is asked
        h = work.rnn_forward(*given)
        before = [array.copy() for array in (dh, h, x, h0, U, W)]
        grads = work.rnn_backward(dh, h, x, h0, U, W)
        for array, old, name in zip((dh, h, x, h0, U, W), before, ["dh", "h", "x", "h0", "U", "W"]):
            expect(np.array_equal(array, old), f"rnn_backward must not write into {name}")
        leaves = [Tensor(array, requires_grad=True) for array in given]
        state, states = leaves[1], []
        for t in range(T):
            state = (leaves[0][t] @ leaves[2] + state @ leaves[3] + leaves[4]).tanh()
            states.append(state)
        minillm.stack(states, 0).backward(dh)
        expect(grads is not None and len(grads) == 5, "return dx, dh0, dU, dW, db")
        for name, got, leaf in zip(names, grads, leaves):
            same(f"{name} for T={T}, B={B}, E={E}, C={C}", got, leaf.grad.data, 1e-9, 1e-12)


def check_mean(work):
    for shape in ((1, 1), (4, 3), (2, 5, 3), (2, 3, 7, 4)):
        v = np.random.default_rng(len(shape)).standard_normal(shape)
        y = work.causal_mean(Tensor(v))
        wanted = np.stack([v[..., : t + 1, :].mean(-2) for t in range(shape[-2])], -2)
        same(f"causal_mean of shape {shape}", y, wanted, 1e-12, 1e-12)
        expect(isinstance(y, Tensor), "causal_mean must return a Tensor")
        expect(y.dtype == v.dtype, f"causal_mean of float64 is {y.dtype}")
        gradients("causal_mean", work.causal_mean, v)
    y = work.causal_mean(Tensor(v.astype(np.float32)))
    expect(y.dtype == np.float32, f"causal_mean of float32 is {y.dtype}")


def check_attention(work):
    for shape in ((1, 1), (5, 3), (2, 4, 7), (2, 3, 6, 4)):
        rng = np.random.default_rng(len(shape))
        q, k, v = given = [2 * rng.standard_normal(shape) for _ in range(3)]
        y = work.attention(*map(Tensor, given))
        where = f"attention for q, k, v of shape {shape}"
        same(where, y, by_hand(q, k, v), 1e-9, 1e-12)
        expect(isinstance(y, Tensor), "attention must return a Tensor")
        gradients(where, work.attention, *given)
    q, k, v = (rng.standard_normal((3, 2)) for _ in range(3))
    for what, big in (("1e4", q * 1e4), ("-1e5 and less", abs(q) * -1e6)):
        k = abs(k) + 0.1
        y = work.attention(*map(Tensor, (big, k, v)))
        same(f"attention with scores of {what}", y, by_hand(big, k, v), 1e-9)
    single = [Tensor(a.astype(np.float32)) for a in (q, k, v)]
    expect(work.attention(*single).dtype == np.float32, "attention of float32 must be float32")


def by_hand(q, k, v):
    y = np.empty_like(v)
    for i in np.ndindex(q.shape[:-1]):
        *lead, t = i
        seen = tuple(lead)
        scores = k[seen][: t + 1] @ q[i] / np.sqrt(q.shape[-1])
        w = np.exp(scores - scores.max())
        y[i] = (w / w.sum()) @ v[seen][: t + 1]
    return y


def gradients(name, function, *arrays):
    try:
        minillm.gradcheck(function, *map(Tensor, arrays), name=name)
    except GradcheckError as error:
        raise Mistake(f"the values are right, but not the gradients: {error}") from None


def into_the_engine(attention):
    """The learner's attention for causal self-attention; everything else stays the engine's."""

    def scaled_dot_product_attention(query, key, value, **options):
        causal = options.get("is_causal") and query.shape == key.shape
        return attention(query, key, value) if causal else ENGINE(query, key, value, **options)

    return scaled_dot_product_attention


EXERCISES = (
    Exercise(
        "Count a bigram model",
        check_bigram,
        hints=(
            "ids[:-1] are the tokens before, ids[1:] those after. What does `counts[a, b] += 1`"
            " do in NumPy if a pair comes twice?",
            "np.add.at(counts, (before, after), 1) counts every pair; or loop over zip(...).",
            "counts += k, then counts / counts.sum(1, keepdims=True).",
        ),
        wrong=(
            Wrong("each pair counted once", "np.add.at(counts, (ids[:-1], ids[1:]), 1)",
                  "counts[ids[:-1], ids[1:]] += 1", says="[0, 0] is"),
            Wrong("columns sum to 1", "counts.sum(1, keepdims=True)", "counts.sum(0)",
                  says="[0, 0] is"),
            Wrong("transposed", "(ids[:-1], ids[1:])", "(ids[1:], ids[:-1])", says="expected"),
            Wrong("divided by one sum", "counts.sum(1, keepdims=True)", "counts.sum()",
                  says="[0, 0] is"),
            Wrong("k in the numerator only", "counts.sum(1, keepdims=True)",
                  "(counts.sum(1, keepdims=True) - k * V + 1e-9)", says="[0, 0] is"),
        ),
    ),
    Exercise(
        "Perplexity of a text",
        check_perplexity,
        hints=(
            "What did the model give to each token that came, given the one before?",
            "p[ids[:-1], ids[1:]] are those N - 1 probabilities. Take logarithms before you"
            " multiply: a product of a thousand of them is 0 in floating point.",
            "np.exp(-np.log(...).mean())",
        ),
        wrong=(
            Wrong("mixed bases", "np.log(", "np.log2(", says="uniform, V=2 is 2.718"),
            Wrong("sum for mean", ".mean()", ".sum()", says="uniform"),
            Wrong("divided by N", ".mean()", ".sum() / len(ids)", says="uniform"),
            Wrong("mean of 1 / p", "np.exp(-np.log(p[ids[:-1], ids[1:]]).mean())",
                  "(1 / p[ids[:-1], ids[1:]]).mean()", says="perplexity of [1, 0, 0, 1]"),
            Wrong("the past from the future", "p[ids[:-1], ids[1:]]", "p[ids[1:], ids[:-1]]",
                  says="perplexity of [0, 1]"),
        ),
    ),
    Exercise(
        "Backpropagation through time",
        check_backward,
        hints=(
            "Two gradients meet in h_t: dh[t] from above, `later` from step t + 1. Add them, go"
            " back through tanh.",
            "da = (dh[t] + later) * (1 - h[t] ** 2). U, W and b are used at every step: their"
            " gradients are sums, +=.",
            "dx[t] = da @ U.T; dU += x[t].T @ da; dW += before.T @ da; db += da.sum(0); later ="
            " da @ W.T. `before` is h[t - 1], at t = 0 it is h0; in the end `later` is dh0.",
        ),
        wrong=(
            Wrong("only the last step's dW", "dW += before.T @ da", "dW = before.T @ da",
                  says="dW for T=2"),
            Wrong("later forgotten", "(dh[t] + later)", "dh[t]", says="dx for T=2"),
            Wrong("tanh' of the wrong thing", "(1 - h[t] ** 2)", "(1 - np.tanh(h[t]) ** 2)",
                  says="dx for T=1"),
            Wrong("the state after for the one before", "before.T @ da", "h[t].T @ da",
                  says="dW for T=1"),
            Wrong("W not transposed", "later = da @ W.T", "later = da @ W", says="dh0 for T=1"),
            Wrong("the last state before the first", "h[t - 1] if t else h0", "h[t - 1]",
                  says="dW for T=1"),
        ),
    ),
    Exercise(
        "Causal mean",
        check_mean,
        hints=(
            "y = A v with a (T, T) matrix A. Which columns of row t are not 0? What is their sum?",
            "np.tril(np.ones((T, T))) has ones up to the diagonal. Divide each row by its sum.",
            "Tensor((np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]).astype(v.dtype)) @ v",
        ),
        wrong=(
            Wrong("divided by T everywhere", "np.arange(1, T + 1)[:, None]", "T",
                  says="causal_mean of shape (4, 3)[0, 0]"),
            Wrong("columns divided, not rows", "np.arange(1, T + 1)[:, None]",
                  "np.arange(1, T + 1)", says="causal_mean of shape (4, 3)[1, 0]"),
            Wrong("looks into the future", "np.tril(", "np.triu(",
                  says="causal_mean of shape (4, 3)[0, 0]"),
            Wrong("does not see itself", "np.tril(np.ones((T, T)))", "np.tril(np.ones((T, T)), -1)",
                  says="causal_mean of shape (1, 1)"),
            Wrong("always float64", "weights.astype(v.dtype)", "weights", says="float32"),
            Wrong("cut out of the graph", "return Tensor(weights.astype(v.dtype)) @ v",
                  "return Tensor(weights.astype(v.dtype) @ v.data)", says="analytic 0, numeric"),
        ),
    ),
    Exercise(
        "Causal attention",
        check_attention,
        hints=(
            "Scores (..., T, T): row t, column s is q_t . k_s. Which transpose of k gives that?",
            "q @ k.transpose(-2, -1), times D ** -0.5; what is later becomes -inf *before* the"
            " softmax, so that the weights that remain sum to 1.",
            "F.softmax(scores.masked_fill(later, -np.inf), -1) @ v",
        ),
        wrong=(
            Wrong("unscaled", " * D**-0.5", "", says="(5, 3)[1, 0]"),
            Wrong("scaled by 1 / D", "D**-0.5", "D**-1", says="(5, 3)[1, 0]"),
            Wrong("softmax over the queries", "-np.inf), -1)", "-np.inf), -2)",
                  says="(5, 3)[0, 0]"),
            Wrong("masked after the softmax", "F.softmax(scores.masked_fill(later, -np.inf), -1)",
                  "F.softmax(scores, -1).masked_fill(later, 0.0)", says="(5, 3)[0, 0]"),
            Wrong("0 for -inf", "masked_fill(later, -np.inf)", "masked_fill(later, 0.0)",
                  says="(5, 3)[0, 0]"),
            Wrong("not low enough", "masked_fill(later, -np.inf)", "masked_fill(later, -1e4)",
                  says="scores of -1e5"),
            Wrong("not masked", "scores.masked_fill(later, -np.inf)", "scores",
                  says="(5, 3)[0, 0]"),
            Wrong("exponentials of large scores",
                  "F.softmax(scores.masked_fill(later, -np.inf), -1)",
                  "scores.exp().masked_fill(later, 0.0)\n"
                  "    weights = weights / weights.sum(-1, keepdim=True)", says="scores of 1e4"),
        ),
    ),
)  # fmt: skip
PLUGS = (
    Plug(
        "attention",
        "minillm.functional:scaled_dot_product_attention",
        exercise=5,
        adapt=into_the_engine,
    ),
)
