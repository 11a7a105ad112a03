"""All models of chapter 03 on the same text, the same split:  python compare.py --steps 3000

Prints validation losses in bits a character. The text is train.py's, in lower case, by characters.
Counts predict the whole validation text; networks predict it in windows of T = 64, one after the
other, and begin each without memory.
"""

import argparse
import time

import numpy as np
from networks import Attention, Recurrent, Window

import minillm
from minillm import functional as F
from minillm import optim
from minillm.data import Loader, prepare

T, B = 64, 32


def ngrams(train, val, V, most, strength=4.0):
    """For n = 1 ... most: probabilities of val's tokens by an interpolated n-gram model: (N,)
    float64; how many n-grams it keeps; the share of val's n-grams that are none of them.

    p_n(b | h) = (count(h b) + strength p_{n-1}(b | shorter h)) / (count(h) + strength)
    """
    p = np.full(len(val), 1 / V)
    for n in range(1, most + 1):
        grams, times = np.unique(codes(train, n, V), return_counts=True)
        contexts, before = np.unique(codes(train[:-1], n - 1, V), return_counts=True)
        seen = look_up(grams, times, codes(val, n, V))
        seen_before = look_up(contexts, before, codes(val[:-1], n - 1, V))
        p[n - 1 :] = (seen + strength * p[n - 1 :]) / (seen_before + strength)
        yield p.copy(), len(grams), float(np.mean(seen == 0))


def codes(ids, n, V):
    """A number for each n tokens in a row: (len(ids) - n + 1,) int64."""
    code = np.zeros(len(ids) - n + 1, np.int64)
    for j in range(n):
        code = code * V + ids[j : len(code) + j]
    return code


def look_up(keys, values, wanted):
    """values[i] where keys[i] is wanted, 0 where it is nowhere; keys ascend."""
    i = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[i] == wanted, values[i], 0)


def bits(p):
    """Bits a token."""
    return float(-np.log2(p).mean())


@minillm.no_grad()
def evaluate(model, val, V):
    """Bits a character, windows of T one after the other."""
    n = (len(val) - 1) // T
    x, y = val[: n * T].reshape(n, T), val[1 : n * T + 1].reshape(n, T)
    total = 0.0
    for i in range(0, n, 128):
        logits = model(x[i : i + 128])
        loss = F.cross_entropy(logits.reshape(-1, V), y[i : i + 128].reshape(-1))
        total += float(loss) * y[i : i + 128].size
    return total / y.size / np.log(2)


def fit(model, tokens, V, steps, batch=B, lr=5e-3):
    """Train with AdamW, the rate rising for 5 % of the steps, then falling to 0; loss in bits."""
    loader = Loader(tokens, batch, T, seed=0)
    optimizer = optim.AdamW(model.parameters(), lr=lr)
    loss = None
    for step in range(steps):
        x, y = loader.batch(step, 0, batch)
        loss = F.cross_entropy(model(x).reshape(-1, V), y.reshape(-1))
        loss.backward()
        _, clip = optim.clip_grad_norm(optimizer.groups, 1.0)
        rate = min((step + 1) / max(0.05 * steps, 1), 1 - step / steps)
        optimizer.step(grad_scale=clip, lr_scale=rate)
        optimizer.zero_grad()
    return float(loss) / np.log(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=B)
    options = parser.parse_args()
    data = prepare(tokenizer="char", lowercase=True)
    V = data.tokenizer.vocab_size
    train, val = (np.asarray(part, np.int64) for part in (data.train, data.val))
    print(f"{len(train):,} characters to train on, {len(val):,} to validate, V = {V}")
    print("model                        numbers kept   bits a character")
    print(f"uniform                   {0:15,} {np.log2(V):18.3f}")
    for n, (p, kept, _) in enumerate(ngrams(train, val, V, 6), 1):
        print(f"{n}-gram, interpolated      {kept:15,} {bits(p):18.3f}")
    made = {
        "window of 8, MLP": lambda: Window(V),
        "recurrent": lambda: Recurrent(V),
        "recurrent, wider": lambda: Recurrent(V, C=270),
        "attention, 1 layer": lambda: Attention(V, T),
        "attention, 2 layers": lambda: Attention(V, T, L=2),
    }
    for name, make in made.items():
        minillm.manual_seed(0)
        model, began = make(), time.process_time()
        fit(model, data.train, V, options.steps, options.batch)
        spent = time.process_time() - began
        loss = evaluate(model, val, V)
        print(f"{name:25} {model.num_parameters():15,} {loss:18.3f}   {spent:4.0f} s", flush=True)


if __name__ == "__main__":
    main()
