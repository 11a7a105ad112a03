"""Checks, hints and wrong answers of chapter 09, and where its functions go in the engine."""

import math

import numpy as np

from minillm.errors import UserError
from minillm.learn import Exercise, Plug, Wrong, expect, same

FILES = ("training.py",)


def adamw64(p, g, m, v, lr, beta1, beta2, eps, decay, step, scale):
    """AdamW, element by element in Python's floats: new p, m, v."""
    out = []
    for pi, gi, mi, vi in zip(*(a.tolist() for a in (p, g, m, v))):
        mi = beta1 * mi + (1 - beta1) * gi * scale
        vi = beta2 * vi + (1 - beta2) * (gi * scale) ** 2
        move = mi / (1 - beta1**step) / (math.sqrt(vi / (1 - beta2**step)) + eps)
        out.append((pi - lr * decay * pi - lr * move, mi, vi))
    return [np.array(column) for column in zip(*out)]


def check_adamw(work):
    rng = np.random.default_rng(0)
    for dtype, rtol in (("float64", 1e-6), ("float32", 2e-5)):
        p, g = rng.normal(size=(2, 7)).astype(dtype)
        for scale, eps, decay in ((1.0, 1e-8, 0.0), (0.25, 1e-2, 0.3)):
            q, m, v = p.copy(), np.zeros(7, dtype), np.zeros(7, dtype)
            for step in (1, 2, 3, 40):
                case = f"{dtype}, step {step}, weight_decay={decay}, grad_scale={scale}: "
                numbers = 0.05, 0.8, 0.95, eps, decay, step, scale
                given = g * step
                wanted = adamw64(q, given, m, v, *numbers)
                work.adamw(q, given, m, v, *numbers)
                for name, got, want in zip(
                    ("m", "v", "param"), (m, v, q), [*wanted[1:], wanted[0]]
                ):
                    same(case + name, got, want, rtol, rtol * 1e-3)
                same("adamw must leave grad alone: grad", given, g * step)
    p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    work.adamw(p, np.array([1e-3, 1e3]), m, v, 0.1, 0.9, 0.999, 0.0, 0.0, 1)
    same("a first step of rate 0.1, whatever the gradient: param", p, np.full(2, 0.9))


def check_schedule(work):
    cases = (10, 110, 0.1), (0, 8, 0.0), (1, 3, 0.5), (4, 4, 0.2), (0, 0, 0.3)
    for warmup, total, floor in cases:
        factor = work.warmup_cosine(warmup, total, floor)
        expect(callable(factor), f"warmup_cosine must return a function, not {factor!r}")
        for step in sorted({0, 1, warmup - 1, warmup, (warmup + total) // 2, total - 1, total,
                            total + 1, 10 * total + 5} - {-1}):  # fmt: skip
            if step < warmup:
                wanted = (step + 1) / (warmup + 1)
            elif step >= total:
                wanted = floor
            else:
                angle = math.pi * (step - warmup) / (total - warmup)
                wanted = floor + (1 - floor) * 0.5 * (1 + math.cos(angle))
            case = f"warmup={warmup}, total={total}, floor={floor}: factor({step})"
            same(case, factor(step), wanted)


def check_clip(work):
    rng = np.random.default_rng(1)
    grads = [np.array(rng.normal(size=shape)) for shape in ((3, 4), (5,), (), (2, 1, 2))]
    kept = [g.copy() for g in grads]
    norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
    for limit in (1.0, 0.01, 100.0, math.inf):
        wanted = norm, min(1.0, limit / (norm + 1e-6))
        same(f"four gradients of norm {norm:.2f}, max_norm={limit}: result",
             work.clip_grad_norm(grads, limit), wanted)  # fmt: skip
        same("clip_grad_norm must leave them alone: grads", grads, kept)
    huge = [np.full(4, 1e25, np.float32)]
    same("float32 gradients of 1e25: result", work.clip_grad_norm(huge, 1.0), (2e25, 5e-26))
    many = [np.full(1000, 1e-3, np.float32)] * 10
    same("10,000 gradients of 0.001: norm", work.clip_grad_norm(many, 1.0)[0], 0.1, 1e-6)
    tiny = [np.full(4, 1e-6)]  # of norm 2e-6
    same("gradients of 1e-6: result", work.clip_grad_norm(tiny, 1e-6), (2e-6, 1 / 3))
    same("gradients of 0, max_norm=1: result", work.clip_grad_norm([np.zeros(3)], 1.0), (0.0, 1.0))
    same("no gradients: result", work.clip_grad_norm([], 1.0), (0.0, 1.0))
    for bad in (math.inf, -math.inf, math.nan):
        for limit in (1.0, math.inf):
            got = work.clip_grad_norm([np.ones(2), np.array([0.0, bad])], limit)
            same(f"a gradient of {bad}, max_norm={limit}: result", got, (abs(bad), 0.0))


def check_dropout(work):
    for dtype in ("float32", "float64"):
        x = np.random.default_rng(2).normal(size=(50, 40)).astype(dtype)
        for p, key in ((0.0, 1), (0.1, 2), (0.7, 3), (1.0, 4)):
            kept, given = work.uniform(x.shape, key) >= p, x.copy()
            y = work.dropout(given, p, key)
            scale = 1 / (1 - p) if p < 1 else 0.0
            same(f"{dtype}, p={p}: dropout", y, np.where(kept, x.astype("float64") * scale, 0.0))
            expect(y.dtype == x.dtype, f"p={p}: dropout of {dtype} is {y.dtype}")
            same("dropout must leave its input alone: x", given, x)
            expect(y is not given, "dropout must return a new array")
            dy = np.cos(np.arange(x.size)).reshape(x.shape).astype(dtype)
            dx = work.dropout_backward(dy, p, key)
            same(f"{dtype}, p={p}: dropout_backward", dx, np.where(kept, dy * scale, 0.0))
    x = np.array([np.inf, np.nan, -np.inf, 1.0] * 5)
    kept = work.uniform(x.shape, 6) >= 0.5
    got = work.dropout(x, 0.5, 6)
    same("infinite numbers and NaN, p=0.5: dropout", got, np.where(kept, x * 2, 0))


def check_bfloat16(work):
    import ml_dtypes

    bits = np.random.default_rng(3).integers(0, 1 << 32, (100, 1000), np.uint32)
    upper = np.arange(0, 1 << 32, 1 << 16, dtype=np.uint32)
    ties = upper | np.uint32(0x8000)
    special = np.array([0, -0.0, np.inf, -np.inf, 1e-45, 3.4e38, 1 + 2**-9, 1 + 3 * 2**-8], "f4")
    for name, x in (("special numbers", special), ("halfway numbers", ties.view("f4")),
                    ("bfloat16 numbers", upper.view("f4")), ("any bits", bits.view("f4")),
                    ("one NaN", np.array([0x7F800001], np.uint32).view("f4"))):  # fmt: skip
        given = x.copy()
        got = work.to_bfloat16(given)
        with np.errstate(invalid="ignore"):
            wanted = x.astype(ml_dtypes.bfloat16).astype(np.float32)
        shape = np.shape(got)
        expect(shape == x.shape, f"{name}: to_bfloat16 has shape {shape}, expected {x.shape}")
        expect(got.dtype == np.float32, f"{name}: to_bfloat16 is {got.dtype}, expected float32")
        for i in np.argwhere(~((got == wanted) | (np.isnan(got) & np.isnan(wanted))))[:1].tolist():
            same(f"{name}: to_bfloat16({x[tuple(i)]!r})", got[tuple(i)], wanted[tuple(i)], 0, 0)
        zero = wanted == 0
        same("signs of zeros: signbit", np.signbit(got[zero]), np.signbit(wanted[zero]))
        expect(np.array_equal(given.view("u4"), x.view("u4")), "to_bfloat16 must leave x alone")


EXERCISES = (
    Exercise(
        "A step of AdamW",
        check_adamw,
        hints=(
            "Everything in place: m *= beta1, then m += ...; `param = param - ...` would only give"
            " a local name a new array.",
            "m and v are kept without the correction. Correct copies, m / (1 - beta1**step), and"
            " divide by sqrt(v_hat) + eps.",
            "param *= 1 - lr * weight_decay; param -= lr * m_hat / (np.sqrt(v_hat) + eps)",
        ),
        wrong=(
            Wrong("no bias correction", "m / (1 - beta1**step), v / (1 - beta2**step)", "m, v",
                  says="float64, step 1, weight_decay=0.0, grad_scale=1.0: param[0] is"),
            Wrong("decay as part of the gradient (L2)", "g = grad * grad_scale",
                  "g, weight_decay = grad * grad_scale + weight_decay * param, 0",
                  says="float64, step 1, weight_decay=0.3, grad_scale=0.25: m[0] is"),
            Wrong("a new array instead of the old one", "param -= lr", "param = param - lr",
                  says="float64, step 1, weight_decay=0.0, grad_scale=1.0: param[0] is"),
            Wrong("eps under the root", "(np.sqrt(v_hat) + eps)", "np.sqrt(v_hat + eps)",
                  says="weight_decay=0.3, grad_scale=0.25: param[0] is"),
            Wrong("clipping forgotten", "g = grad * grad_scale", "g = grad", says="0.25: m[0] is"),
            Wrong("writes into the gradient", "g = grad * grad_scale", "g = grad; g *= grad_scale",
                  says="adamw must leave grad alone"),
        ),
    ),
    Exercise(
        "Warm-up and cosine",
        check_schedule,
        hints=(
            "A function inside a function: three cases of the step.",
            "After the warm-up, gone = (step - warmup) / (total - warmup) runs from 0 to 1.",
            "floor + (1 - floor) * (1 + math.cos(math.pi * gone)) / 2",
        ),
        wrong=(
            Wrong("the first step of a warm-up has rate 0", "return (step + 1)",
                  "return step", says="warmup=10, total=110, floor=0.1: factor(0) is 0"),
            Wrong("measured from step 0, not from the end of the warm-up",
                  "gone = (step - warmup) / (total - warmup)", "gone = step / total",
                  says="warmup=10, total=110, floor=0.1: factor(10) is"),
            Wrong("the wave goes on after the end", "step >= total", "step == total",
                  says="factor(111) is"),
            Wrong("ends at 0 instead of the floor", "floor + (1 - floor) *", "",
                  says="warmup=10, total=110, floor=0.1: factor(60) is 0.5"),
        ),
    ),
    Exercise(
        "Clipping by the global norm",
        check_clip,
        hints=(
            "Sum the squares over all arrays first; one root at the end.",
            "np.square(g, dtype=np.float64): the square of 1e25 does not fit into float32.",
            "min(1.0, max_norm / (norm + 1e-6)), after asking math.isfinite(norm).",
        ),
        wrong=(
            Wrong("a norm for each array, added up", "math.sqrt(sum(float(np.square(g,"
                  " dtype=np.float64).sum()) for g in grads))",
                  "float(sum(np.sqrt(np.square(g).sum()) for g in grads))",
                  says="max_norm=1.0: result[0] is"),
            Wrong("squares in float32", "np.square(g, dtype=np.float64)", "np.square(g)",
                  says="float32 gradients of 1e25: result[0] is inf"),
            Wrong("small gradients scaled up", "min(1.0, max_norm / (norm + 1e-6))",
                  "(max_norm / (norm + 1e-6))", says="max_norm=100.0: result[1] is"),
            Wrong("NaN lets the step through", "if not math.isfinite(norm)", "if norm == math.inf",
                  says="a gradient of nan, max_norm=1.0: result[1] is"),
            Wrong("infinity lets it through where nothing is clipped", "not math.isfinite(norm)",
                  "math.isnan(norm)", says="a gradient of inf, max_norm=inf: result[1] is"),
            Wrong("the size of gradients of one array alone", "for g in grads))",
                  "for g in grads[:1]))", says="max_norm=1.0: result[0] is"),
        ),
    ),
    Exercise(
        "Dropout, forward and backward",
        check_dropout,
        hints=(
            "uniform(x.shape, key) gives the same numbers each time: that is the mask, in backward"
            " as in forward.",
            "np.where(dropped, 0, x / (1 - p)); inf * 0 would be NaN.",
            "dx is dy through the same mask and scale: dropout(dy, p, key).",
        ),
        wrong=(
            Wrong("not divided by 1 - p", "x / (1 - p)", "x",
                  says="float32, p=0.1: dropout[0, 0] is"),
            Wrong("keeps with probability p", "uniform(x.shape, key) < p",
                  "uniform(x.shape, key) >= p", says="float32, p=0.0: dropout[0, 0] is 0"),
            Wrong("multiplied by a mask of 0 and 1",
                  "np.where(uniform(x.shape, key) < p, 0, x / (1 - p))",
                  "(x * (uniform(x.shape, key) >= p) / (1 - p))",
                  says="infinite numbers and NaN, p=0.5: dropout["),
            Wrong("backward draws another mask", "return dropout(dy, p, key)",
                  "return dropout(dy, p, key + 1)", says="p=0.1: dropout_backward[0, "),
            Wrong("backward does not scale", "return dropout(dy, p, key)",
                  "return np.where(uniform(dy.shape, key) < p, 0, dy).astype(dy.dtype)",
                  says="p=0.1: dropout_backward[0, 0] is"),
        ),
    ),
    Exercise(
        "Rounding to bfloat16",
        check_bfloat16,
        hints=(
            "x.view(np.uint32) shows the bits. Cutting the lower 16 off rounds towards zero.",
            "Adding 0x7FFF carries into the upper half where the lower one is above 0x8000; for"
            " exactly 0x8000 add one more where the last bit that stays is 1.",
            "bits + 0x7FFF + (bits >> 16 & 1), & 0xFFFF0000, view as float32; NaN apart.",
        ),
        wrong=(
            Wrong("cut, not rounded", "bits + np.uint32(0x7FFF) + (", "bits + 0 * (",
                  says="special numbers: to_bfloat16("),
            Wrong("halfway always up", "np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))",
                  "np.uint32(0x8000)", says="halfway numbers: to_bfloat16("),
            Wrong("halfway always down", " + (bits >> np.uint32(16) & np.uint32(1))", "",
                  says="special numbers: to_bfloat16(np.float32(1.0117188)) is 1.007812"),
            Wrong("one long row", "return np.where(np.isnan(x), x, rounded.view(np.float32))",
                  "return np.where(np.isnan(x), x, rounded.view(np.float32)).ravel()",
                  says="any bits: to_bfloat16 has shape (100000,), expected (100, 1000)"),
            Wrong("NaN rounded like a number", "np.where(np.isnan(x), x, rounded.view(np.float32))",
                  "rounded.view(np.float32)", says="expected nan"),
        ),
    ),
)  # fmt: skip


def _schedule(function):
    def schedule(name, warmup, total, floor=0.0):
        if name != "cosine":
            raise UserError(f"chapter 09 builds a cosine: leave out --schedule {name}")
        return function(warmup, total, floor)

    return schedule


def _clip(function):
    def clip_grad_norm(groups, max_norm=math.inf, over_ranks=lambda squares: squares):
        for group in groups:
            group.flat.fill_missing_grads()
        grads = [shard.grad for group in groups if group.counted for shard in group.shards]
        norm = function(grads, math.inf)[0]
        return function([np.array(math.sqrt(over_ranks(norm**2)))], max_norm)

    return clip_grad_norm


PLUGS = (
    Plug("adamw", "kernel adamw", 1),
    Plug("warmup_cosine", "minillm.train.build:schedule", 2, _schedule),
    Plug("clip_grad_norm", "train:clip_grad_norm", 3, _clip),
    Plug("dropout", "minillm.ops.dropout:dropout", 4, options="--dropout 0.1"),
)
