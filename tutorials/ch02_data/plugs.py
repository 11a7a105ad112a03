"""How the functions of chapter 02 go into the engine, whose data they then prepare."""

import json

import numpy as np

from minillm.data.tokenization import HuggingFaceTokenizer
from minillm.errors import UserError
from minillm.learn import Plug

BYTES = [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173]


def merges_and_vocab(tokenizer):
    """Those of the library's tokenizer, as bytes; it writes each byte as a printable character."""
    model = json.loads(tokenizer.to_json())["model"]
    byte = dict(zip(sorted(model["vocab"], key=model["vocab"].get), BYTES))  # of the first 256
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    merges = [tuple(bytes(byte[c] for c in token) for token in pair) for pair in pairs]
    vocab = {bytes(byte[c] for c in token): i for token, i in model["vocab"].items()}
    return merges, vocab


def encode_of_the_engine(encode):
    """The learner's encode as the engine's, for tokenizers that cut text as chapter 02 does.

    What the engine encodes stays in its cache, so a token that is not the library's is refused.
    """
    library = HuggingFaceTokenizer.encode  # nothing is plugged yet

    def compared(self, text):
        cut = json.loads(self.to_json())["pre_tokenizer"] or {}
        regex = cut.get("use_regex", True)
        if cut.get("type") != "ByteLevel" or cut["add_prefix_space"] or not regex:
            raise UserError("ch02 cuts text as GPT-2 does: leave --tokenizer out, or bpe")
        merges, vocab = merges_and_vocab(self)
        ids, wanted = np.array(encode(text, vocab, merges), np.int64), library(self, text)
        if not np.array_equal(ids, wanted):
            n = min(len(ids), len(wanted))
            i = int(np.append(ids[:n] != wanted[:n], True).argmax())
            yours, theirs = (
                f"{part[i]} ({self.decode(part[i : i + 1])!r})" if i < len(part) else "missing"
                for part in (ids, wanted)
            )
            raise UserError(
                f"ch02's encode: token {i}, after {self.decode(wanted[max(i - 8, 0) : i])!r}, is"
                f" {yours}; the library's is {theirs}"
            )
        return ids

    return compared


def hashed_of_the_engine(hashed):
    """The learner's hashed as the engine's, which draws the key and counts the smallest share."""

    def own_and_fewest(n, seed, rank, ranks):
        key = np.random.Philox(key=(seed, 0), counter=(0, 0, 1, 0)).random_raw()
        parts = [hashed(n, key, r, ranks) for r in range(ranks)]
        return parts[rank], min(map(len, parts))

    return own_and_fewest


PLUGS = (
    Plug(
        "encode",
        "minillm.data.tokenization:HuggingFaceTokenizer.encode",
        exercise=3,
        adapt=encode_of_the_engine,
    ),
    Plug(
        "hashed",
        "minillm.data.sharding:_hashed",
        exercise=4,
        adapt=hashed_of_the_engine,
        options="--sharding hash",
    ),
    Plug(
        "permuted",
        "minillm.data.sharding:Permutation.__call__",
        exercise=5,
        adapt=lambda permuted: lambda self, i: permuted(i, self.n, self.keys),
        options="--sharding hash",
    ),
)
