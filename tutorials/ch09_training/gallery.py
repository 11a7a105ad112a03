"""What breaks, and how it looks: one small training run for each mistake, and a figure of them all.

    python tutorials/ch09_training/gallery.py --figure gallery.svg      every case, 300 steps each
    python tutorials/ch09_training/gallery.py --steps 60 base copy      two of them, shorter
    python tutorials/ch09_training/gallery.py --sweep                   learning rates, batch sizes

The model is a GPT of two blocks (C=64, T=32) on the characters of Python's own documentation.
"""

import argparse
import math
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from minillm import no_grad
from minillm.data import Loader, prepare
from minillm.models import GPT, GPTConfig
from minillm.nn import LayerNorm
from minillm.optim import AdamW, clip_grad_norm, param_groups, schedule
from minillm.random import manual_seed

T = 32
CASES = {
    "base": ("as it should be", {}),
    "high": ("learning rate 30 times higher", dict(lr=0.09)),
    "low": ("learning rate 30 times lower", dict(lr=1e-4)),
    "cold": ("rate 4 times higher, no warm-up", dict(lr=0.012, warmup=0)),
    "warm": ("rate 4 times higher, 100 steps of warm-up", dict(lr=0.012, warmup=100)),
    "spike": ("gradient of step 100 times 1000, not clipped", dict(spike=100, clip=math.inf)),
    "clipped": ("gradient of step 100 times 1000, clipped", dict(spike=100)),
    "unzeroed": ("gradients never zeroed", dict(zero=False)),
    "copy": ("targets not shifted: the input itself", dict(shift=0)),
    "over time": ("norms over time instead of channels", dict(wrong_norm=True)),
    "dropout": ("dropout 0.2", dict(dropout=0.2)),
    "left on": ("dropout 0.2, left on in evaluation", dict(dropout=0.2, off=False)),
    "in order": ("text read in order, not shuffled", dict(shuffle=False)),
    "float32": ("rate 3 times lower", dict(lr=1e-3)),
    "bfloat16": ("rate 3 times lower, weights kept in bfloat16", dict(lr=1e-3, narrow=True)),
}
PANELS = (  # the lowest and the highest loss shown, cases
    (2, 6, "base", "high", "low"), (2, 6, "warm", "cold"), (2, 6, "clipped", "spike"),
    (2, 6, "base", "unzeroed"), (0, 6, "base", "copy"), (1, 5, "base", "over time"),
    (2.7, 3.3, "dropout", "left on"), (2, 6, "base", "in order"),
    (2.5, 3.5, "float32", "bfloat16"),
)  # fmt: skip


def train(
    data, steps, lr=3e-3, warmup=20, clip=1.0, batch=16, zero=True, shift=1, wrong_norm=False,
    dropout=0.0, off=True, shuffle=True, narrow=False, spike=None,
):  # fmt: skip
    """Train one model: losses of all steps (steps,), and [(step, validation loss)]."""
    manual_seed(0)
    V = data.tokenizer.vocab_size
    model = GPT(GPTConfig(T, V, n_layer=2, n_head=4, n_embd=64, dropout=dropout, bias=False))
    if wrong_norm:
        for _, module in model.named_modules():
            if isinstance(module, LayerNorm):
                module.forward = over_time(module)
    optimizer = AdamW(param_groups(model, 0.1), lr, betas=(0.9, 0.99))
    scale = schedule("cosine", warmup, steps, 0.1)
    loader, check = Loader(data.train, batch, T, seed=0), Loader(data.val, 64, T, seed=1)
    losses, validation = [], []
    for step in range(steps):
        manual_seed((0, step))  # dropout's draws
        x, y = loader.batch(step, 0, batch) if shuffle else in_order(data.train, step, batch)
        loss = model(x, y if shift else x)[1]
        if zero:
            optimizer.zero_grad()
        loss.backward()
        if step == spike:
            for group in optimizer.groups:
                group.flat.grad *= 1000
        optimizer.step(clip_grad_norm(optimizer.groups, clip)[1], scale(step))
        if narrow:
            for p in model.parameters():
                p.data[...] = p.data.astype(ml_dtypes.bfloat16)
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            model.train(not off)
            with no_grad():
                validation.append((step + 1, model(*check.batch(0, 0, 64))[1].item()))
            model.train()
    return np.array(losses), validation


def in_order(tokens, step, batch):
    """The next `batch` windows of the text, one after the other: x and y, (batch, T)."""
    first = (step * batch + np.arange(batch))[:, None] * T
    window = tokens[first + np.arange(T + 1)].astype(np.int64)
    return window[:, :-1], window[:, 1:]


def over_time(norm):
    """A layer norm's forward that takes mean and variance over the wrong axis."""

    def forward(x):
        x = x - x.mean(1, keepdim=True)  # (B, T, C)
        return x * ((x * x).mean(1, keepdim=True) + norm.eps).rsqrt() * norm.weight

    return forward


def draw(runs, entropy, file):
    """A panel for each group of cases: training losses as lines, validation losses as dots, or
    triangles where they are above the panel."""
    width, height = 270, 170  # of a panel, with its margins
    parts = []
    for i, (low, high, *names) in enumerate(PANELS):
        left, bottom = 28 + width * (i % 3), height * (i // 3) + 152
        right, top = left + width - 38, bottom - 140
        at = partial(place, low=low, high=high, bottom=bottom)
        for loss in np.linspace(low, high, 3):
            parts.append(line([(left, at(loss)), (right, at(loss))], "#e2e8f0"))
            parts.append(text(left - 20, at(loss) + 3, f"{loss:g}"))
        parts.append(line([(left, at(entropy)), (right, at(entropy))], "#64748b", 1, dash="2 3"))
        parts.append(
            f'<clipPath id="p{i}"><path d="M{left} {top}H{right}V{bottom}H{left}z"/></clipPath>'
        )
        for k, (name, colour) in enumerate(zip(names, ("#7c8ba1", "#c2410c", "#0369a1"))):
            losses, validation = runs[name]
            scale = (right - left) / losses.size
            smooth = losses[: losses.size // 5 * 5].reshape(-1, 5).mean(1)
            points = [(left + scale * (5 * t + 2.5), at(loss)) for t, loss in enumerate(smooth)]
            parts.append(line(points, colour, 1.2 if k else 2.5, clip=i))
            for t, loss in validation:
                x, y = left + scale * t, at(loss)
                shape = f'circle cx="{x:.1f}" cy="{y:.1f}" r="{2 if k else 3}"'
                if loss > high:
                    shape = f'path d="M{x - 3:.1f} {top + 6}h6l-3 -6z"'
                parts.append(f'<{shape} fill="{colour}"/>')
            beyond = f": {validation[-1][1]:.2f}" * (validation[-1][1] > high)
            parts.append(text(right - 90, top + 20 + 12 * k, f"— {name}{beyond}", colour))
        parts.append(text(left, bottom + 11, "0"))
        parts.append(text(right - 48, bottom + 11, f"{losses.size} steps"))
    size = f'viewBox="0 0 {3 * width} {3 * height}" width="{3 * width}" height="{3 * height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    Path(file).write_text("\n".join([head, ground, *parts, "</svg>\n"]), encoding="utf-8")


def place(loss, low, high, bottom):
    """The height of a loss in its panel."""
    return bottom - 140 * (loss - low) / (high - low)


def line(points, colour, width=1.0, dash="", clip=None):
    """An SVG polyline, cut off at the edges of panel `clip`."""
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    more = f' stroke-dasharray="{dash}"' * bool(dash)
    more += f' clip-path="url(#p{clip})"' * (clip is not None)
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="{width}"{more}/>'


def text(x, y, words, colour="#334155"):
    """SVG text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="10" fill="{colour}">{words}</text>'


def sweep(data):
    """Validation losses after the same 4800 samples, for learning rates and batch sizes."""
    rates = [3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2]
    print("batch  steps" + "".join(f"{rate:9g}" for rate in rates))
    for batch in (4, 16, 64):
        steps = 4800 // batch
        row = [train(data, steps, lr, steps // 15, batch=batch)[1][-1][1] for lr in rates]
        print(f"{batch:5} {steps:6}" + "".join(f"{loss:9.3f}" for loss in row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--figure", default="", help="draw all cases into this file")
    parser.add_argument("--sweep", action="store_true", help="learning rates and batch sizes")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(unknown)}: choose among {', '.join(CASES)}")
    data = prepare("", "char")
    if options.sweep:
        return sweep(data)
    entropy, runs = data.unigram_entropy(), {}
    print(f"guessing by frequency has {entropy:.3f}")
    print("           training  validation")
    for name in options.cases or CASES:
        losses, validation = runs[name] = train(data, options.steps, **CASES[name][1])
        numbers = f"{losses[-20:].mean():8.3f} {validation[-1][1]:11.3f}"
        print(f"{name:10} {numbers}   {CASES[name][0]}", flush=True)
    if options.figure:
        draw(runs, entropy, options.figure)
    return None


if __name__ == "__main__":
    main()
