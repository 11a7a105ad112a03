"""Checks, hints and wrong answers of chapter 02."""

from collections import Counter

import numpy as np

from minillm.data import cleaning, sharding
from minillm.data.tokenization import train_bpe
from minillm.learn import Exercise, Wrong, expect, same
from minillm.tutorials.ch02_data.plugs import PLUGS as PLUGS
from minillm.tutorials.ch02_data.plugs import merges_and_vocab

FILES = ("pipeline.py",)

HIGH = 0xCF9A04AFFA6BADC0  # mix(HIGH) is 2^64 - 1
WORDS = "low low low low low lower lower newest newest newest newest newest newest widest widest"
TRICKY = [
    "", " ", "a", "  two  spaces ", "it's, they'll; x=1234.5\n\n\tif not", "_under_score__",
    "Größe, naïve, señor", "日本語のテキスト", "🙂🙂 family", "e\u0301 is two",
    "tab\tand\u00a0nbsp\u2003em", "aaaaaaa baaaa abababab", WORDS,
]  # fmt: skip


def check_clean(work):
    samples = [
        "a\r\nb", "a\rb\r\r\nc", "one\ttwo", "e\u0301", "bell\x07 and\x00 nul\x85", "e\x00\u0301",
        "half \ud83d", "ﬁne ½", "soft\u00adhyphen, zero\u200dwidth, own\ue000, no\u00a0break",
        "same\nother\nsame\n\n\n \nend\n \n", " same\nsame\n", "", "\n",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    letters = np.array(list("aeo \n\r\t\x00\x1f\x7f\x9f\u0301\u0308é"))
    samples += ["".join(letters[rng.integers(len(letters), size=40)]) for _ in range(200)]
    samples.append("".join(map(chr, range(32, 127))))
    for dedup in (False, True):
        for text in samples:
            wanted = cleaning.clean(text, cleaning.Cleaning(dedup=dedup))
            got = work.clean(text, dedup)
            call = f"clean({text!a}{', dedup=True' * dedup})"
            expect(got is not None, f"{call} is None: is a `return` missing?")
            expect(got == wanted, f"{call} is {got!a}, expected {wanted!a}")
            expect(work.clean(got, dedup) == got, f"{call}: cleaning twice changes more")


def check_train(work):
    a, b, aa = b"a", b"b", b"aa"
    counts = work.count_pairs({(a, a, a): 2, (a, b): 3, (b,): 5})
    expect(counts is not None, "count_pairs returns None: is a `return` missing?")
    wanted = {(a, a): 4, (a, b): 3}
    expect(dict(counts) == wanted, f"count_pairs: {dict(counts)}, expected {wanted}")
    for word, pair, wanted in (
        ((a, a, a), (a, a), (aa, a)),
        ((b, a, a, a, a, b), (a, a), (b, aa, aa, b)),
        ((a, b, a, b), (a, b), (b"ab", b"ab")),
        ((a, b, a), (b, b), (a, b, a)),
        ((aa, b), (a, b), (aa, b)),
        ((aa, b), (a, b"ab"), (aa, b)),
    ):
        got = work.merge(word, pair)
        got = None if got is None else tuple(got)
        expect(got == wanted, f"merge({word}, {pair}) is {got}, expected {wanted}")
    for text, size in ((WORDS, 270), ("ab ab ba ba", 300), (" ".join(TRICKY), 330), ("", 300)):
        vocab, merges = work.train(text, size)
        wanted, ranks = merges_and_vocab(train_bpe(text, size))
        for i, (one, other) in enumerate(zip(merges, wanted)):
            expect(tuple(one) == other, f"merge {i} of {text[:20]!r} is {one}, expected {other}")
        count = f"{len(merges)} merges of {text[:20]!r}, expected {len(wanted)}"
        expect(len(merges) == len(wanted), count)
        expect(vocab == ranks, "the merges are right, but vocab is not: an id for each new token")


def check_encode(work):
    first = {(b"a", b"b"): 1, (b"b", b"c"): 0, (b"ab", b"c"): 2}
    for word, ranks, wanted in (
        (b"abc", first, (b"a", b"bc")),
        (b"aab", first, (b"a", b"ab")),
        (b"", first, ()),
        (b"\xff\x00", {}, (b"\xff", b"\x00")),
        (b"aaaaa", {(b"a", b"a"): 0, (b"aa", b"aa"): 1}, (b"aaaa", b"a")),
    ):
        got = work.encode_word(word, ranks)
        got = None if got is None else tuple(got)
        expect(got == wanted, f"encode_word({word}, {ranks}) is {got}, expected {wanted}")
    ids = work.encode("abc", {b"a": 7, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4}, list(first)[1::-1])
    expect(ids == [7, 3], f"encode('abc') is {ids}, expected [7, 3]: a, bc")
    trained = train_bpe(" ".join(TRICKY), 350)
    merges, vocab = merges_and_vocab(trained)
    for text in TRICKY:
        ids = work.encode(text, vocab, merges)
        same(f"encode({text!r})", np.array(ids, np.int64), trained.encode(text))
        back = work.decode(ids, vocab)
        expect(back == text, f"decode(encode({text!r})) is {back!r}")
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 50):
        ids = rng.integers(len(vocab), size=size)
        got, wanted = work.decode(ids, vocab), trained.decode(ids)
        expect(got == wanted, f"decode({ids.tolist()}) is {got!r}, expected {wanted!r}")


def check_shards(work):
    for n, ranks in ((10, 1), (10, 2), (10, 3), (7, 7), (3, 5), (0, 2), (1000, 7), (2**40 + 1, 6)):
        where, sizes = 0, []
        for rank in range(ranks):
            start, stop = work.block(n, rank, ranks)
            call = f"block({n}, {rank}, {ranks})"
            expect(isinstance(start, int), f"{call} starts at {start!r}: use // for integers")
            expect(start == where, f"{call} starts at {start}, expected {where}")
            sizes.append(stop - start)
            where = stop
        expect(where == n, f"block: {ranks} ranks have {where} of {n} samples")
        expect(max(sizes) - min(sizes) <= 1, f"block: {n} samples over {ranks} ranks: {sizes}")
    for n, key, ranks in ((20, 1, 3), (1000, 2**63 + 5, 2), (999, 12345, 7), (0, 3, 2), (5, 9, 1)):
        i = np.arange(n, dtype=np.uint64)
        owner = sharding.mix(i ^ np.uint64(key)) % np.uint64(ranks)
        for rank in range(ranks):
            got = work.hashed(n, key, rank, ranks)
            call = f"hashed({n}, {key}, {rank}, {ranks})"
            same(call, got, np.flatnonzero(owner == rank))
            kind = getattr(got, "dtype", type(got).__name__)
            expect(kind == np.int64, f"{call} is {kind}, expected an array of int64")
    counts = [len(work.hashed(100_000, 7, rank, 4)) for rank in range(4)]
    return f"100,000 samples hashed to 4 ranks: {counts}"


def check_permutation(work):
    rng = np.random.default_rng(0)
    for a, rounds in ((4, 1), (4, 8), (9, 3), (31, 8)):
        keys = rng.integers(2**63, size=rounds).astype(np.uint64)
        i = np.arange(a * a, dtype=np.uint64)
        got, wanted = work.feistel(i, a, keys), sharding.Permutation(a * a, keys)(i)
        same(f"feistel(0 ... {a * a - 1}, {a}, {rounds} keys)", got, wanted)
    i, keys = np.arange(81, dtype=np.uint64), np.array([HIGH], np.uint64)
    got, wanted = work.feistel(i, 9, keys), sharding.Permutation(81, keys)(i)
    same("where mix(y ^ key) is 2^64 - 1 and x + mix wraps around: feistel(...)", got, wanted)
    for n in (1, 2, 3, 10, 16, 17, 97, 1000, 1025):
        keys = rng.integers(2**63, size=8).astype(np.uint64)
        i = np.arange(n, dtype=np.uint64)
        got = work.permuted(i, n, keys)
        expect(got is not None, "permuted returns None: is a `return` missing?")
        times = Counter(np.asarray(got).tolist())
        twice = [x for x, count in times.items() if count > 1]
        expect(not twice, f"permuted of all {n} positions has {twice[:1]} more than once")
        expect(set(times) == set(range(n)), f"permuted({n}) has {max(times)}, not below {n}")
        same(f"permuted(0 ... {n - 1})", got, sharding.Permutation(n, keys)(i))
        expect(got.dtype == np.int64, f"permuted is {got.dtype}, expected int64")
        expect(np.array_equal(i, np.arange(n)), "permuted must not change i")
        same("permuted of some positions", work.permuted(i[3:6], n, keys), got[3:6])


EXERCISES = (
    Exercise(
        "Clean a text",
        check_clean,
        hints=(
            "Keep to the order of the docstring. Why must NFC come after the controls have gone?",
            'text.replace("\\r\\n", "\\n") before the lone "\\r"; then keep the characters that are'
            ' in "\\n\\t" or whose category is neither Cc nor Cs; then normalize("NFC", text).',
            "For dedup walk through text.split('\\n') with a set `seen`; keep a line if"
            " `not line.strip() or line not in seen`; join with '\\n'.",
        ),
        wrong=(
            Wrong('"\\r" first', '.replace("\\r\\n", "\\n").replace("\\r", "\\n")',
                  '.replace("\\r", "\\n")', says="clean('a\\r\\nb') is 'a\\n\\nb'"),
            Wrong("tabs go too", 'c in "\\n\\t"', 'c in "\\n"', says="one\\ttwo"),
            Wrong("NFKC instead of NFC", '"NFC"', '"NFKC"', says="\\ufb01ne"),
            Wrong("NFC before the controls go", 'unicodedata.normalize("NFC", "".join(kept))',
                  '"".join(c for c in unicodedata.normalize("NFC", text) if c in "\\n\\t"'
                  ' or unicodedata.category(c) not in ("Cc", "Cs"))', says="e\\x00"),
            Wrong("invisible characters go too", 'unicodedata.category(c) not in ("Cc", "Cs")',
                  'unicodedata.category(c)[0] != "C"', says="soft\\xadhyphen"),
            Wrong("blank lines are duplicates", "not line.strip() or ", "", says="dedup=True"),
            Wrong("lines compared without their space", "line not in seen",
                  "line.strip() not in {s.strip() for s in seen}", says="' same\\nsame\\n'"),
        ),
    ),
    Exercise(
        "Train byte-pair encoding",
        check_train,
        hints=(
            "count_pairs: zip(word, word[1:]) are the neighbours of a word. merge: a `for` loop"
            " cannot skip the second token of a pair; a `while` with an index can.",
            "train: min(counts, key=...) with a key that is smallest for the pair to take: a tuple"
            " of minus the count and the two ids.",
            "best = min(counts, key=lambda p: (-counts[p], vocab[p[0]], vocab[p[1]])); append it to"
            " merges, vocab[best[0] + best[1]] = len(vocab), and make words anew with merge(word,"
            " best) for each.",
        ),
        wrong=(
            Wrong("words counted once", "counts[pair] += times", "counts[pair] += 1",
                  says="expected {(b'a', b'a'): 4"),
            Wrong("overlapping merges", "            i += 2\n", "            i += 1\n",
                  says="merge((b'a', b'a', b'a')"),
            Wrong("spelled alike is not the pair", "word[i : i + 2] == pair",
                  "b''.join(word[i : i + 2]) == b''.join(pair) and i + 1 < len(word)",
                  says="merge((b'aa', b'b'), (b'a', b'ab'))"),
            Wrong("ties by the bytes themselves", "vocab[pair[0]], vocab[pair[1]]",
                  "pair[0], pair[1]", says="merge "),
            Wrong("ties by first seen", "(-counts[pair], vocab[pair[0]], vocab[pair[1]])",
                  "-counts[pair]", says="merge "),
        ),
    ),
    Exercise(
        "Encode and decode",
        check_encode,
        hints=(
            "Encoding repeats what training did to this word. Which merge came first in training?",
            "While any pair of neighbours is in ranks: take the pair with the smallest rank, and"
            " merge() it. decode turns the vocabulary round: id -> bytes.",
            "tokens = merge(tokens, min(pairs, key=lambda pair: ranks[pair])); and b''.join of all"
            " bytes before .decode('utf-8', errors='replace'), not token by token.",
        ),
        wrong=(
            Wrong("first pair from the left", "min(pairs, key=lambda pair: ranks[pair])",
                  "pairs[0]", says="encode_word(b'abc'"),
            Wrong("decodes token by token",
                  'b"".join(tokens[int(i)] for i in ids).decode("utf-8", errors="replace")',
                  '"".join(tokens[int(i)].decode("utf-8", errors="replace") for i in ids)',
                  says="decode(encode("),
            Wrong("drops what is no UTF-8", '"utf-8", errors="replace"', '"utf-8", errors="ignore"',
                  says="�"),
        ),
    ),
    Exercise(
        "Block and hash",
        check_shards,
        hints=(
            "Where rank r's block begins, rank r - 1's ends. Which formula gives 0 for rank 0 and n"
            " for rank `ranks`?",
            "n * rank // ranks. For the hash: owner = mix(i ^ key) % ranks, all in uint64.",
            "return n * rank // ranks, n * (rank + 1) // ranks; and"
            " np.flatnonzero(mix(i ^ np.uint64(key)) % np.uint64(ranks) == rank).",
        ),
        wrong=(
            Wrong("the tail belongs to nobody", "n * rank // ranks, n * (rank + 1) // ranks",
                  "n // ranks * rank, n // ranks * (rank + 1)", says="of 10 samples"),
            Wrong("rounded up, the last ranks have less",
                  "n * rank // ranks, n * (rank + 1) // ranks",
                  "min(-(-n // ranks) * rank, n), min(-(-n // ranks) * (rank + 1), n)",
                  says="samples over"),
            Wrong("floating point", "return n * rank // ranks,", "return n * rank / ranks,",
                  says="use // for integers"),
            Wrong("not int64", "np.flatnonzero(owner == rank)", "i[owner == rank]",
                  says="expected an array of int64"),
            Wrong("the key forgotten", "mix(i ^ np.uint64(key))", "mix(i)", says="hashed(20, 1"),
        ),
    ),
    Exercise(
        "A random order without a list",
        check_permutation,
        hints=(
            "x = i // a and y = i % a; after the last round i = a x + y again. In a round both"
            " letters change at once.",
            "x, y = y, (x + mix(y ^ key) % root) % root. In permuted: while any element of out is"
            " n or more, those, and only those, go through feistel again.",
            "while (over := out >= np.uint64(n)).any(): out[over] = feistel(out[over], a, keys)",
        ),
        wrong=(
            Wrong("modulo instead of walking", "while (over := out >= np.uint64(n)).any():",
                  "out %= np.uint64(n)\n    while (over := out >= np.uint64(n)).any():",
                  says="more than once"),
            Wrong("walks one step only", "while (over :=", "if (over :=", says="not below"),
            Wrong("the new y hides the new x",
                  "x, y = y, (x + mix(y ^ key) % root) % root",
                  "y = (x + mix(y ^ key) % root) % root\n        x = y", says="feistel("),
            Wrong("one key for all rounds", "in keys:", "in keys[:1].repeat(len(keys)):",
                  says="feistel("),
            Wrong("the sum is not reduced", "(x + mix(y ^ key) % root) % root",
                  "x + mix(y ^ key) % root", says="feistel("),
            Wrong("the sum wraps around", "(x + mix(y ^ key) % root) % root",
                  "(x + mix(y ^ key)) % root", says="wraps around"),
            Wrong("uint64 comes out", "out.astype(np.int64)", "out", says="expected int64"),
        ),
    ),
)  # fmt: skip
