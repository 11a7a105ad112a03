"""Checks, hints and wrong answers of chapter 00."""

import numpy as np

from minillm.learn import Exercise, Plug, Wrong, expect, same

FILES = ("figures.py",)
# Unequal sizes, so that each term shows when it is missing.
_SIZES = (dict(V=11, T=5, L=2, C=4), dict(V=7, T=9, L=1, C=6), dict(V=13, T=2, L=3, C=2))
_OPTIONS = [dict(bias=bias, tied=tied) for bias in (False, True) for tied in (True, False)]
_GPT2 = dict(V=50257, T=1024, L=12, C=768, bias=True)


def _named(function, sizes):
    return f"{function}({', '.join(f'{name}={value}' for name, value in sizes.items())})"


def _model(V, T, L, C, bias=False, tied=True):
    from minillm.models.gpt import GPT, GPTConfig

    sizes = dict(vocab_size=V, block_size=T, n_layer=L, n_head=1, n_embd=C)
    return GPT(GPTConfig(**sizes, bias=bias, tie_embeddings=tied))


def check_units(work):
    for seed, n in ((0, 5), (1, 1), (2, 1000)):
        rng = np.random.default_rng(seed)
        losses, lengths = rng.exponential(3, n), rng.integers(1, 9, n)
        bits = float(np.log2(np.exp(losses)).sum())
        wanted = (losses.sum() / n, np.prod(np.exp(losses / n)), bits / int(lengths.sum()))
        got = work.other_units(losses, lengths)
        three = isinstance(got, (tuple, list)) and len(got) == 3
        expect(three, "return three numbers: loss, perplexity, bits per byte")
        for what, one, other in zip(("loss", "perplexity", "bits per byte"), got, wanted):
            same(f"{what} of {n} tokens", one, other)
    guess = work.other_units(np.full(4, np.log(256)), np.ones(4))
    same("what guessing bytes uniformly comes to", guess, (np.log(256), 256.0, 8.0))


def check_parameters(work):
    for sizes in _SIZES:
        for options in _OPTIONS:
            given = sizes | options
            wanted = _model(**given).num_parameters()
            same(_named("parameters", given), work.parameters(**given), wanted)
    same("the parameters of GPT-2 small", work.parameters(**_GPT2), 124_439_808)


def check_flops(work):
    for sizes in _SIZES:
        for options in _OPTIONS:
            given = sizes | options
            wanted = _model(**given).flops_per_token()
            same(_named("flops_per_token", given), work.flops_per_token(**given), wanted)
    same("mfu(2000, 3e6, 12e9)", work.mfu(2000, 3e6, 12e9), 0.5)
    same("mfu(5, 8, 160)", work.mfu(5, 8, 160), 0.25)


def flops_of(flops_per_token):
    """GPT.flops_per_token, out of the learner's function."""

    def method(model):
        c = model.config
        sizes = c.vocab_size, c.block_size, c.n_layer, c.n_embd
        return flops_per_token(*sizes, c.bias, c.tie_embeddings)

    return method


EXERCISES = (
    Exercise(
        "Loss, perplexity, bits per byte",
        check_units,
        hints=(
            "The perplexity belongs to the mean loss, not to single tokens. Bits per byte knows no "
            "tokens at all: it is about the text as a whole.",
            "A nat is 1 / ln 2 bits. All bits are losses.sum() / np.log(2); all bytes are "
            "lengths.sum().",
            "loss = losses.mean(); then np.exp(loss), and losses.sum() / np.log(2) / "
            "lengths.sum().",
        ),
        wrong=(
            Wrong("the mean of perplexities", "np.exp(loss)", "np.exp(losses).mean()",
                  says="perplexity of 5 tokens is"),
            Wrong("nats per byte", " / np.log(2)", "", says="bits per byte of 5 tokens is"),
            Wrong("the mean of ratios", "losses.sum() / np.log(2) / lengths.sum()",
                  "(losses / np.log(2) / lengths).mean()", says="bits per byte of 5 tokens is"),
            Wrong("bits per token", " / lengths.sum()", " / len(losses)",
                  says="bits per byte of 5 tokens is"),
        ),
    ),
    Exercise(
        "The parameters of a GPT",
        check_parameters,
        hints=(
            "Walk through the model: what has a matrix, and of which shape? A norm has a weight of "
            "C numbers, and a bias of C if there are biases.",
            "A block: two norms; attention's two linear layers, C -> 3C and C -> C; the MLP's two, "
            "C -> 4C and 4C -> C. A linear layer I -> O has I O weights and, if biased, O biases.",
            "V C + T C + L (12 C^2 + 2 C) + C without biases; each of them adds its layer's width: "
            "L (2 + 3 + 1 + 4 + 1) C and one last C. An untied output matrix adds V C.",
        ),
        wrong=(
            Wrong("queries, keys and values share one matrix", "4 * C * C", "2 * C * C",
                  says="parameters(V=11, T=5, L=2, C=4, bias=False, tied=True) is"),
            Wrong("no position embedding", "V * C + T * C + L *", "V * C + L *",
                  says="parameters(V=11, T=5, L=2, C=4, bias=False, tied=True) is"),
            Wrong("one norm a block", "2 * norm", "norm",
                  says="parameters(V=11, T=5, L=2, C=4, bias=False, tied=True) is"),
            Wrong("the MLP's biases as wide as the model", "bias * 5 * C", "bias * 2 * C",
                  says="bias=True, tied=True) is"),
            Wrong("the output matrix counted where it is tied", "0 if tied else V * C", "V * C",
                  says="parameters(V=11, T=5, L=2, C=4, bias=False, tied=True) is"),
        ),
    ),
    Exercise(
        "Operations a token, and their share of the peak",
        check_flops,
        hints=(
            "Which parameters is a token multiplied with? A row that is only looked up costs no "
            "multiplication.",
            "Six a parameter that takes part: two forward, four backward. Attention adds 4 T C a "
            "layer forward, and three times that in all. What is used is tokens a second times "
            "operations a token.",
            "6 * (parameters(...) - T * C) + 12 * L * C * T, and V * C less in the brackets if not "
            "tied. mfu: tokens_per_second * flops_a_token / peak.",
        ),
        wrong=(
            Wrong("the forward pass alone", "return 6 *", "return 2 *",
                  says="flops_per_token(V=11, T=5, L=2, C=4, bias=False, tied=True) is"),
            Wrong("positions counted as products", "T * C if tied", "0 if tied",
                  says="flops_per_token(V=11, T=5, L=2, C=4, bias=False, tied=True) is"),
            Wrong("an untied token embedding counted as a product", "else T * C + V * C",
                  "else T * C", says="bias=False, tied=False) is"),
            Wrong("attention in one layer only", "12 * L * C * T", "12 * C * T",
                  says="flops_per_token(V=11, T=5, L=2, C=4, bias=False, tied=True) is"),
            Wrong("mfu upside down", "tokens_per_second * flops_a_token / peak",
                  "peak / (tokens_per_second * flops_a_token)", says="mfu(2000, 3e6, 12e9) is 2"),
        ),
    ),
)  # fmt: skip
PLUGS = (
    Plug("flops_per_token", "minillm.models.gpt:GPT.flops_per_token", exercise=3, adapt=flops_of),
)
