"""Hints and wrong answers of chapter 08, and where its functions go in the engine."""

import numpy as np

from minillm.errors import UserError
from minillm.learn import Exercise, Plug, Wrong
from minillm.random import default_generator
from minillm.tutorials.ch08_gpt.checks import (
    check_attention,
    check_block,
    check_distribution,
    check_heads,
    check_initial,
)

FILES = ("gpt.py",)

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
            Wrong("arrays, through which no gradient passes", "return x.transpose(1, 2).reshape(",
                  "x = Tensor(x.data); return x.transpose(1, 2).reshape(", says="no gradient"),
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
            Wrong("the queries cut off from the gradient", "q @ k", "Tensor(q.data) @ k",
                  says="no gradient reaches q"),
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
            Wrong("attends twice: keys twice in the cache", "return x + mlp(mlp_norm(x))",
                  "y = x + mlp(mlp_norm(x)); attend(attention_norm(x)); return y",
                  says="attention_norm, attend, mlp_norm, mlp are called: calls[0] is 2"),
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
            Wrong("draws from a generator of its own", "return rng.standard",
                  "return np.random.default_rng().standard", says="draw from rng alone"),
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
            Wrong("top-p goes on when it is just reached", "top_p) + 1", "top_p, side='right') + 1",
                  says="4 equal logits, temperature=1, top_k=None, top_p=0.5: distribution"),
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
    Plug("distribution", "minillm.models.generate:sample", 5, _sample, "--sample_tokens 4"),
)
