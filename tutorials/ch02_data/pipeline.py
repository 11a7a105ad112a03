"""From the text of a file to the samples of a rank: your file for chapter 02."""

import re
import unicodedata
from collections import Counter
from math import isqrt

import numpy as np

# Where GPT-2 cuts a text before it looks for pairs: a word with the space before it, a number,
# signs, white space. Every character is in exactly one piece.
WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")

# The bytes in the order of GPT-2's vocabulary: first those that print as a character of their own.
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173]

Pair = tuple[bytes, bytes]
Word = tuple[bytes, ...]  # the tokens that a word is made of, as their bytes


# --- cleaning -------------------------------------------------------------------------------------


def clean(text: str, dedup: bool = False) -> str:
    """The text as a model should see it. Cleaning twice changes nothing more.

    1. Newlines "\\r\\n" and "\\r" become "\\n".
    2. Control characters go (Unicode category "Cc" but for "\\n" and "\\t"), and so do lone
       surrogates ("Cs"), which UTF-8 cannot hold.
    3. The rest is put in Unicode's composed form, NFC.
    4. With `dedup`, of equal lines only the first stays; blank lines (nothing but space) all stay.
    """
    # hole 1: the four steps, in this order; unicodedata has category(c) and normalize(form, text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = (c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    text = unicodedata.normalize("NFC", "".join(kept))
    if dedup:
        seen, lines = set(), []
        for line in text.split("\n"):
            if not line.strip() or line not in seen:
                lines.append(line)
            seen.add(line)
        text = "\n".join(lines)
    return text
    # end of hole


# --- byte-pair encoding ---------------------------------------------------------------------------


def split(text: str) -> list[bytes]:
    """The words of a text, as bytes: b"".join(split(text)) is the text in UTF-8."""
    return [word.encode() for word in WORD.findall(text)]


def count_pairs(words: dict[Word, int]) -> Counter[Pair]:
    """How often each two tokens stand side by side, in words that occur so many times each.

    Overlaps count: (b"a", b"a", b"a") has the pair (b"a", b"a") twice.
    """
    # hole 2: count each pair as often as its word occurs
    counts: Counter[Pair] = Counter()
    for word, times in words.items():
        for pair in zip(word, word[1:]):
            counts[pair] += times
    return counts
    # end of hole


def merge(word: Word, pair: Pair) -> Word:
    """The word with each occurrence of the pair, from left to right, as one token."""
    # hole 2: walk through the word; join where the pair stands, else go on by one
    out, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)
    # end of hole


def train(text: str, vocab_size: int) -> tuple[dict[bytes, int], list[Pair]]:
    """Byte-pair encoding learned from a text: the vocabulary, and the merges in their order.

    Again and again the most frequent pair becomes a token, until there are `vocab_size` tokens or
    no pairs. Of pairs equally frequent, that of the smaller token ids is taken: the first token's
    id decides, then the second's. A new token's id is the number of tokens before it.
    """
    vocab = {bytes([b]): i for i, b in enumerate(BYTES)}
    merges: list[Pair] = []
    words = Counter(tuple(bytes([b]) for b in word) for word in split(text))
    # hole 2: until vocab is full: count, choose, add to merges and vocab, merge in all words
    while len(vocab) < vocab_size:
        counts = count_pairs(words)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], vocab[pair[0]], vocab[pair[1]]))
        merges.append(best)
        vocab[best[0] + best[1]] = len(vocab)
        words = Counter({merge(word, best): times for word, times in words.items()})
    return vocab, merges
    # end of hole


def encode_word(word: bytes, ranks: dict[Pair, int]) -> Word:
    """The tokens of one word, as their bytes: its merges made in the order they were learned in.

    Args:
        ranks: the number of each merge; that learned first is 0.
    """
    tokens = tuple(bytes([b]) for b in word)
    # hole 3: while a pair of neighbours is in ranks, merge the one of lowest rank
    while pairs := [pair for pair in zip(tokens, tokens[1:]) if pair in ranks]:
        tokens = merge(tokens, min(pairs, key=lambda pair: ranks[pair]))
    return tokens
    # end of hole


def encode(text: str, vocab: dict[bytes, int], merges: list[Pair]) -> list[int]:
    """The token ids of a text. Each distinct word is worked out once."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    words = split(text)
    known = {word: [vocab[token] for token in encode_word(word, ranks)] for word in set(words)}
    return [i for word in words for i in known[word]]


def decode(ids: list[int], vocab: dict[bytes, int]) -> str:
    """The text of token ids; bytes that are no UTF-8, half a character say, become U+FFFD."""
    # hole 3: from ids to bytes, all joined, then to text with errors="replace"
    tokens = {i: token for token, i in vocab.items()}
    return b"".join(tokens[int(i)] for i in ids).decode("utf-8", errors="replace")
    # end of hole


# --- sharding -------------------------------------------------------------------------------------


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that leaves nothing of an order: SplitMix64's finalizer."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def block(n: int, rank: int, ranks: int) -> tuple[int, int]:
    """(start, stop), integers: rank's samples are start to stop - 1. The blocks follow one another
    in the order of the ranks, and their sizes differ by at most 1."""
    # hole 4: every sample has one owner, also where ranks does not divide n
    return n * rank // ranks, n * (rank + 1) // ranks
    # end of hole


def hashed(n: int, key: int, rank: int, ranks: int) -> np.ndarray:
    """The samples i < n with mix(i ^ key) mod ranks = rank: an int64 array, ascending.

    Args:
        key: a uint64 that stands for the seed.
    """
    i = np.arange(n, dtype=np.uint64)
    # hole 4: who owns each of the n samples, and which are this rank's
    owner = mix(i ^ np.uint64(key)) % np.uint64(ranks)
    return np.flatnonzero(owner == rank)
    # end of hole


def feistel(i: np.ndarray, a: int, keys: np.ndarray) -> np.ndarray:
    """A bijection of the numbers below a^2: equation (7) of the text, one round for each key.

    Args:
        i: (n,) uint64, below a^2; not changed.
        keys: (rounds,) uint64. A sum of uint64 that reaches 2^64 wraps around: let none get there.
    """
    root = np.uint64(a)
    # hole 5: i = a x + y; in each round the new x is y, the new y is (x + mix(y ^ key)) mod a
    x, y = i // root, i % root
    for key in keys:
        x, y = y, (x + mix(y ^ key) % root) % root
    return x * root + y
    # end of hole


def permuted(i: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """What stands at positions i of a random order of 0 ... n - 1: int64; i is not changed.

    `a` is the smallest integer with a^2 >= n, but at least 4.
    """
    a = max(4, isqrt(n - 1) + 1)
    out = feistel(np.asarray(i, np.uint64), a, keys)
    # hole 5: cycle walking: what came out at n or above goes in again, until none is left
    while (over := out >= np.uint64(n)).any():
        out[over] = feistel(out[over], a, keys)
    return out.astype(np.int64)
    # end of hole
