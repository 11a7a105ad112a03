"""Where each head of a trained run looks, and what the loss is without it: a table and a picture.

    python tutorials/ch08_gpt/attention_maps.py runs/shakespeare-char-cpu maps.svg 0.3 0.0 1.1

Here the picture is of layer 0's head 3 and two others; without such words, of all heads.
The weights of a head are averaged over validation samples: how much goes to the token before, to
the token itself and to the first of the context, and how spread out they are (entropy over that of
equal weights). A head is taken out by setting its columns of the output matrix to zero.
"""

import base64
import html
import io
import sys
from functools import partial
from pathlib import Path

import numpy as np

from minillm import no_grad
from minillm.data import Loader
from minillm.data.store import prepare
from minillm.train import checkpoint
from minillm.train.build import build_model
from minillm.train.config import from_checkpoint

SHOWN = 32  # tokens of the picture


def load(run):
    """The model of a run's last checkpoint, and its dataset."""
    saved = checkpoint.load(Path(run))
    config = from_checkpoint(saved.state["config"])
    if config.position != "learned" or config.n_kv_head:
        raise SystemExit("this script knows GPT-2: learned positions, as many keys as queries")
    data = prepare(
        config.data, config.tokenizer, config.vocab_size, config.val_fraction, config.lowercase,
        config.dedup,
    )  # fmt: skip
    model = build_model(config, data.tokenizer.vocab_size)
    model.load_state_dict(saved.model)
    return model.eval(), data


def weights(model, ids):
    """Attention weights of every layer, (L, B, H, T, T), computed again from its queries and keys.

    The engine's kernel never stores them.
    """
    inputs, removes = [], []
    for block in model.blocks:
        hook = partial(_note, inputs)
        removes.append(block.attention.register_forward_pre_hook(hook))
    with no_grad():
        model(ids)
        maps = [_weights(block.attention, x) for block, x in zip(model.blocks, inputs)]
    for remove in removes:
        remove()
    return np.stack(maps)


def _note(inputs, layer, args):
    inputs.append(args[0])  # (B, T, C)


def _weights(layer, x):
    B, T, C = x.shape
    q, k, _ = layer.qkv(x).data.reshape(B, T, 3, layer.n_head, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) * layer.head_size**-0.5  # (B, H, T, T)
    e = np.exp(scores - scores.max(-1, keepdims=True)) * np.tri(T)
    return e / e.sum(-1, keepdims=True)


def statistics(p):
    """p (..., T, T) -> mean weight on the token before, itself, the first; relative entropy."""
    T = p.shape[-1]
    entropy = -(p * np.log(p + 1e-30)).sum(-1)[..., 1:] / np.log(np.arange(2, T + 1))
    before = np.diagonal(p, -1, -2, -1).mean(-1)
    itself = np.diagonal(p, 0, -2, -1)[..., 1:].mean(-1)
    return np.stack([before, itself, p[..., 2:, 0].mean(-1), entropy.mean(-1)], -1)


def losses(model, batches):
    """Validation loss as it is, and without each head: a number and (L, H)."""
    L, H = len(model.blocks), model.config.n_head

    def loss():
        with no_grad():
            return float(np.mean([model(x, y)[1].item() for x, y in batches]))

    without = np.zeros((L, H))
    for layer, block in enumerate(model.blocks):
        columns = block.attention.proj.weight.data.reshape(-1, H, model.config.head_size)
        for head in range(H):
            kept = columns[:, head].copy()
            columns[:, head] = 0
            without[layer, head] = loss()
            columns[:, head] = kept
    return loss(), without


def draw(maps, heads, tokens, file):
    """Heat maps of some heads of maps (L, H, T, T), black for 1 and white for 0, up to 4 in a row.

    A row of a map is a query, a column a key: row "t" shows what "t" looks at.
    """
    cell, gap, left, top = 8, 12, 12, 18  # in units of the picture
    size, columns = cell * len(tokens), min(len(heads), 4)
    width, height = left + columns * (size + gap), -(-len(heads) // columns) * (size + top + 12)
    texts, images = [], []
    for i, (layer, head) in enumerate(heads):
        x, y = left + i % columns * (size + gap), top + i // columns * (size + top + 12)
        texts.append(f'<text x="{x}" y="{y - 5}" font-size="11">layer {layer}, head {head}</text>')
        place = f'x="{x}" y="{y}" width="{size}" height="{size}"'
        shades = _png(maps[layer, head])
        images.append(
            f'<image {place} href="{shades}" style="image-rendering:pixelated"/>'
            f'<rect {place} fill="none" stroke="#bbb" stroke-width=".6"/>'
        )
        for k, token in enumerate(map(html.escape, tokens)):
            at = cell * k + 1.5
            texts.append(f'<text x="{x + at}" y="{y + size + 8}">{token}</text>')
            if i % columns == 0:
                texts.append(f'<text x="{x - 8}" y="{y + at + 5}">{token}</text>')
    Path(file).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="monospace" font-size="8">'
        '<rect width="100%" height="100%" fill="white"/>'
        + "\n".join([*texts, *images, "</svg>\n"]),
        encoding="utf-8",
    )


def _png(weights):
    """A map (T, T) as a data URL, in 32 shades of grey."""
    from PIL import Image

    buffer = io.BytesIO()
    grey = (255 * (1 - weights)).astype(np.uint8) & 0xF8 | 7
    Image.fromarray(grey).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def main(run, file, *heads):
    model, data = load(run)
    T = model.config.block_size
    loader = Loader(data.val, 16, T, seed=1)
    batches = [loader.batch(step, 0, 16) for step in range(8)]
    loss, without = losses(model, batches)
    table = statistics(np.concatenate([weights(model, x) for x, _ in batches], 1)).mean(1)
    print(f"validation loss {loss:.3f}, of {len(batches)} batches")
    print("layer head  before  itself   first  entropy  loss without it")
    for layer, head in np.ndindex(without.shape):
        numbers = "".join(f"{number:8.2f}" for number in table[layer, head])
        print(f"{layer:5} {head:4}{numbers} {without[layer, head] - loss:+16.3f}")
    ids = np.asarray(data.val[: min(T, SHOWN)], np.int64)[None]
    tokens = [data.tokenizer.decode([i]).replace("\n", "↵") for i in ids[0]]
    heads = [tuple(map(int, head.split("."))) for head in heads] or list(np.ndindex(without.shape))
    draw(weights(model, ids)[:, 0], heads, tokens, file)
    print(f"{file}: {''.join(tokens)!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
