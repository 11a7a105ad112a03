"""What must hold of the answers of chapter 07, against the engine's formula in float64."""

import tracemalloc

import numpy as np

from minillm.kernels.attention import reference
from minillm.learn import expect, same
from minillm.learn.gpu import launch

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
    ((3,), 9, 4, 2, True), ((3,), 4, 9, 2, True), ((2,), 1, 9, 5, False),
)  # fmt: skip


def cases(blocks=(None,)):
    """(name, q, k, v, scale, causal, block), of each; the scale is not D^-1/2."""
    for seed, (lead, T, S, D, causal) in enumerate(CASES):
        q, k, v = drawn(seed, (*lead, T, D), (*lead, S, D), (*lead, S, D))
        for block in blocks:
            name = f"q {q.shape}, k {k.shape}{', causal' * causal}"
            yield name + f", blocks of {block}" * bool(block), q, k, v, 0.7, causal, block


@quiet
def check_attention(work):
    q, k, v = (np.array([[float(x) for x in row]]) for row in ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    same("one key: out", work.attention(q, k, v, 3**-0.5), v)
    q, k, v = q.T, k.T, v.T
    for name, causal in (("three tokens", False), ("three tokens, causal", True)):
        wanted = exact(q, k, v, 1.0, causal)[0]
        same(f"{name}: out", work.attention(q, k, v, 1.0, causal), wanted)
    for name, q, k, v, scale, causal, _ in cases():
        kept, out = (q.copy(), k.copy(), v.copy()), work.attention(q, k, v, scale, causal)
        same("q, k and v afterwards", (q, k, v), kept, 0, 0)
        same(f"{name}: out", out, exact(q, k, v, scale, causal)[0], 1e-9, 1e-12)
    q, k, v = drawn(9, *[(4, 8)] * 3)
    for name, causal in (("", False), (", causal", True)):
        out, wanted = (f(-300 * q, 300 * k, v, 1.0, causal) for f in (work.attention, exact))
        same(f"scores in the hundred thousands{name}: out", out, wanted[0])
    out = work.attention(*(x.astype(np.float32) for x in (q, k, v)), 0.5, True)
    expect(out.dtype == np.float32, f"q, k and v are float32, but out is {out.dtype}")


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
            same(f"{case}: {name}", got, right, 1e-9, 1e-12)
    for scale in (1e4, -1e4):
        m, l, o = absorbed(work, scale + s[0], v[0], (3, 9))
        same(f"scores near {scale:.0f}: o / l", o / l, (wanted[2] / wanted[1])[0], 1e-7)
    unseen = np.full((3, 4), -np.inf)
    nothing = unseen[:, :1], np.zeros((3, 1)), np.zeros((3, 5))
    same("no key seen: (m, l, o)", absorbed(work, unseen, v[0, :4], (4,)), nothing)
    hidden = np.concatenate([unseen, s[0, :, 4:8], unseen], -1)
    m, l, o = absorbed(work, hidden, v[0], (4, 4, 4))
    seen = np.exp(s[0, :, 4:8] - s[0, :, 4:8].max(-1, keepdims=True))
    same("unseen keys around: o / l", o / l, seen @ v[0, 4:8] / seen.sum(-1, keepdims=True))


@quiet
def check_forward(work):
    for name, q, k, v, scale, causal, block in cases((1, 2, 4, 32)):
        kept, wanted = (q.copy(), k.copy(), v.copy()), exact(q, k, v, scale, causal)
        got = work.flash_forward(q, k, v, scale, causal, block)
        expect(isinstance(got, tuple) and len(got) == 2, "return out and lse")
        for what, x, right in zip(("out", "lse"), got, wanted):
            same(f"{name}: {what}", x, right, 1e-9, 1e-12)
        same("q, k and v afterwards", (q, k, v), kept, 0, 0)
    q, k, v = drawn(9, *[(130, 8)] * 3)
    return recorded(work, lambda: work.flash_forward(q, k, v, 0.3, True, 16))


def recorded(work, run):
    """Runs `run`, causal, 9 x 9 blocks: which of them had scores, and how much memory it took."""
    sizes, original = [], work.scores

    def scores(*args):
        s = original(*args)
        sizes.append(s.size)
        return s

    work.scores = scores
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    work.scores = original
    expect(sizes, "use `scores` for the blocks of scores, so that they can be counted")
    expect(max(sizes) <= 16 * 16, f"{max(sizes)} scores at once; a pair of blocks has 16 x 16")
    expect(len(sizes) <= 45, f"causal, 9 x 9 blocks: {len(sizes)} computed, 45 have any seen key")
    full = 8 * 130 * 130
    expect(most < full, f"{most:,} bytes at one moment; an array of T x S would have {full:,}")
    return f"causal, 9 x 9 blocks: {len(sizes)} computed, {most:,} bytes at most"


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
            same(f"{name}: {what}", x, right.reshape(of.shape), 1e-9, 1e-11)
        same("the arguments afterwards", (dout, q, k, v, out, lse), tuple(kept), 0, 0)
    q, k, v, dout = drawn(9, *[(130, 8)] * 4)
    out, lse = exact(q, k, v, 0.3, True)
    return recorded(work, lambda: work.flash_backward(dout, q, k, v, out, lse, 0.3, True, 16))


def launched(work, case, q, k, v, scale):
    """The kernel: out and lse compared; what it moved."""
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    (H, N), out = q.shape[:2], np.full_like(q, np.nan)
    lse = np.full((H, N), np.nan, np.float32)
    args = (-(-N // 64), H), out, lse, q, k, v, scale, N
    moved = launch(work.folder / "flash.cu", "flash", *args, block=64)
    for name, x, right in zip(("out", "lse"), (out, lse), exact(q, k, v, scale, True)):
        same(f"{case}: {name}", x, right, 1e-4, 1e-5)
    return moved


def check_cuda(work):
    for H, N in ((1, 1), (1, 2), (2, 33), (1, 64), (2, 100)):
        q, k, v = drawn(N, *[(H, N, 16)] * 3)
        moved = launched(work, case := f"{H} heads of {N} tokens", 2 * q, k, v, 0.25)
    q = np.ones((1, 40, 16))
    k, (v,) = np.linspace(-50, 50, 40)[None, :, None] * q, drawn(3, q.shape)
    launched(work, "scores that grow from -800 to 800", q, k, v, 1.0)
    got, least = moved["global load"].bytes, 4 * 2 * 16 * (100 + 2 * (64 + 100))
    expect(
        got <= least,
        f"{case}: {got:,} bytes loaded from global memory, {least:,} are enough: each key and value"
        " once for a block of queries",
    )
    return f"{case}: {got:,} bytes loaded"
