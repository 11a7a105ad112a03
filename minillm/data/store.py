"""Encode once, map into memory ever after.

A prepared text is a folder `<cache>/data/<key>`:

    train.bin val.bin   token ids, uint16 where the vocabulary allows it, else uint32
    tokenizer.json      what encoded them
    meta.json           their sizes, and what is known about the text

The key is a hash of everything the tokens follow from, so that an entry never goes stale. Entries
are written under a temporary name, behind a lock, and renamed when complete: processes that want
the same text at once share one encoding, and one killed at any moment leaves nothing half-done
behind that would be used.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minillm import env
from minillm.data.cleaning import Cleaning, clean
from minillm.data.corpora import open_corpus
from minillm.data.tokenization import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
    split_text,
    train_bpe,
)
from minillm.errors import UserError

BPE_VOCAB_SIZE = 1024  # enough for 1 MB of text
FORMAT = 1  # raise it when the same inputs give other tokens, or the files change

FILES = ("train.bin", "val.bin", "tokenizer.json")
_PIECE = 1 << 22  # characters encoded at once, which bounds the memory it takes


@dataclass(frozen=True)
class Dataset:
    """A text as tokens, split into training and validation.

    Attributes:
        train, val: (n,) uint16 or uint32, read-only and memory-mapped.
        tokenizer: what encoded them.
        bytes_per_token: UTF-8 bytes a token in the validation split; loss in nats / ln 2 divided by
            it is bits per byte, which compares across tokenizers.
        key: name of the cache entry; equal keys mean equal tokens.
        source: where the text came from, for people.
    """

    train: np.memmap
    val: np.memmap
    tokenizer: Tokenizer
    bytes_per_token: float
    key: str
    source: str

    def unigram_entropy(self) -> float:
        """Entropy of the validation split's token frequencies, in nats per token.

        No model that ignores context has a smaller validation loss, however well it knows the
        frequencies: to get below is to have learned from context.
        """
        counts = np.bincount(self.val)
        p = counts[counts > 0] / self.val.size
        return float(-(p * np.log(p)).sum())


def prepare(
    data: str = "",
    tokenizer: str = "bpe",
    vocab_size: int = 0,
    val_fraction: float = 0.1,
    lowercase: bool = False,
    dedup: bool = False,
    cache: Path | None = None,
) -> Dataset:
    """The text that `data` names, cleaned, split and encoded; from the cache if it is there.

    The first 1 - val_fraction of the characters train, the rest validates. "char" takes its
    vocabulary from both (as the usual 65 characters of Shakespeare), "bpe" learns its merges from
    the training part alone.

    Args:
        data: "" (embedded corpus), "shakespeare", or a file, folder or glob; see corpora.py.
        tokenizer: "byte", "char", "bpe", or the path of a Hugging Face tokenizer.json.
        vocab_size: tokens that "bpe" is trained to have; 0 for 1024. Other tokenizers bring their
            own number; any but that one, or 0, is refused.
        val_fraction: in (0, 1).
        lowercase, dedup: see cleaning.py.
        cache: folder of the cache; `env.CACHE` by default.

    Raises:
        UserError: no such text, not text, too short to split, a vocabulary size that the tokenizer
            cannot have, or a cache that cannot be written.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction {val_fraction} must lie between 0 and 1, such as 0.1")
    if tokenizer == "bpe":
        vocab_size = vocab_size or BPE_VOCAB_SIZE
        if vocab_size < 256:
            raise UserError(
                f"vocab_size {vocab_size} is too small for bpe, whose first 256 tokens are the "
                "bytes: pass 256 or more, or --tokenizer char"
            )
        spec = f"bpe {vocab_size}"
    elif tokenizer in ("byte", "char"):
        spec = tokenizer
    else:
        spec = load_tokenizer(tokenizer).fingerprint
    cache = cache or env.CACHE
    corpus = open_corpus(data, cache)
    options = Cleaning(lowercase, dedup)
    recipe = (FORMAT, corpus.digest, asdict(options), spec, val_fraction)
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:20]
    entry = cache / "data" / key
    found = _load(entry, corpus.source)
    if found is None:
        with locked(cache):
            found = _load(entry, corpus.source)  # another process may have made it meanwhile
            if found is None:
                text = clean(corpus.read(), options)
                _encode(text, corpus.source, tokenizer, vocab_size, val_fraction, entry)
                found = _load(entry, corpus.source)
    if found is not None and vocab_size not in (0, found.tokenizer.vocab_size):
        raise UserError(
            f"vocab_size {vocab_size}, but the {tokenizer} tokenizer has"
            f" {found.tokenizer.vocab_size} tokens: leave vocab_size out, or use --tokenizer bpe"
        )
    if found is None:
        raise UserError(f"the data cache {cache} loses what is written to it: set MINILLM_CACHE")
    return found


def _load(entry: Path, source: str) -> Dataset | None:
    """The entry, or None if it is absent, cut short or damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if any((entry / name).stat().st_size != meta["sizes"][name] for name in FILES):
            return None
        tokenizer = load_tokenizer(entry / "tokenizer.json")
        if tokenizer.fingerprint != meta["fingerprint"]:
            return None
        train, val = (np.memmap(entry / name, meta["dtype"], mode="r") for name in FILES[:2])
        return Dataset(train, val, tokenizer, meta["bytes_per_token"], entry.name, source)
    except (OSError, ValueError, KeyError, TypeError):  # UserError is a ValueError
        return None


def _encode(
    text: str, source: str, tokenizer: str, vocab_size: int, val_fraction: float, entry: Path
) -> None:
    """Split and encode `text` into `entry`. The caller holds the lock."""
    cut = int(len(text) * (1 - val_fraction))
    made = _make_tokenizer(tokenizer, vocab_size, text, text[:cut])
    dtype = np.dtype(np.uint16 if made.vocab_size <= 1 << 16 else np.uint32)
    partial = entry.parent / ".partial"  # the lock makes it ours; a killed process may leave it
    shutil.rmtree(partial, ignore_errors=True)
    with _saying_what_failed(entry.parent):
        try:
            partial.mkdir()
            for name, part in zip(FILES, (text[:cut], text[cut:])):
                with open(partial / name, "wb") as file:
                    for piece in split_text(part, _PIECE):
                        file.write(made.encode(piece).astype(dtype).tobytes())
            made.save(partial / "tokenizer.json")
            sizes = {name: (partial / name).stat().st_size for name in FILES}
            train, val = (sizes[name] // dtype.itemsize for name in FILES[:2])
            if not (train and val):
                raise UserError(
                    f"{source}: {len(text)} characters are too few to split into training and "
                    "validation; pass a longer text with --data"
                )
            meta = {
                "source": source,
                "tokenizer": tokenizer,
                "vocab_size": made.vocab_size,
                "tokens": train + val,
                "dtype": dtype.name,
                "bytes_per_token": len(text[cut:].encode()) / val,
                "fingerprint": made.fingerprint,
                "sizes": sizes,
            }
            (partial / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
            shutil.rmtree(entry, ignore_errors=True)  # a damaged one
            os.replace(partial, entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _make_tokenizer(kind: str, vocab_size: int, text: str, train: str) -> Tokenizer:
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharTokenizer(text)
    if kind != "bpe":
        return load_tokenizer(kind)
    made = train_bpe(train, vocab_size)
    if made.vocab_size < vocab_size:
        raise UserError(
            f"vocab_size {vocab_size} is too large: this text has pairs for only {made.vocab_size} "
            f"bpe tokens; pass --vocab_size {made.vocab_size} or less, or a longer text"
        )
    return made


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the lock on the encoded data in `cache`; the system drops it when its holder dies."""
    folder = cache / "data"
    with _saying_what_failed(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115 (the flock needs it open)
        fcntl.flock(file, fcntl.LOCK_EX)
    with file:
        yield


@contextmanager
def _saying_what_failed(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the data cache {folder}: {error.strerror}; set MINILLM_CACHE to a "
            "folder with room where you may write and lock files"
        ) from None
