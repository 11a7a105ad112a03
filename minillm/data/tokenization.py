"""Text to integers and back: bytes, characters, byte-level BPE, or any Hugging Face tokenizer.json.

Every tokenizer is one JSON file, `tokenizer.json`, that `load_tokenizer` recognises; the sha256 of
that file is its fingerprint, by which a checkpoint knows the tokenizer it was trained with.

`decode` never raises on token ids of the vocabulary: bytes that are not valid UTF-8, such as the
first half of a character, become U+FFFD.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from minillm.errors import UserError

_PIECE = 1 << 18  # characters that the tokenizers library encodes at once, on one thread


class Tokenizer(ABC):
    """A vocabulary of `vocab_size` tokens, and the two ways through it."""

    vocab_size: int

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Token ids of `text`: (n,) int64. No special tokens are added."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids in [0, vocab_size)."""

    def opening(self, prompt: str) -> np.ndarray:
        """Token ids for generation to go on from: those of `prompt`, at least one.

        An empty prompt stands for a line break, or for token 0 where that is no token.

        Raises:
            UserError: the prompt has characters that are no tokens, or nothing that is one.
        """
        try:
            ids = self.encode(prompt or "\n")
        except UserError as error:
            if prompt:
                raise UserError(f"prompt {prompt!r}: {error}") from None
            ids = np.empty(0, np.int64)
        if prompt and not ids.size:
            raise UserError(f"prompt {prompt!r} has no token in this vocabulary: give another")
        return ids if ids.size else np.zeros(1, np.int64)

    @abstractmethod
    def to_json(self) -> str:
        """The content of its file."""

    @property
    def fingerprint(self) -> str:
        """sha256 of its file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it as one file, for `load_tokenizer`."""
        Path(path).write_text(self.to_json(), encoding="utf-8", newline="\n")

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(ids, dtype=np.int64)
        if array.size and not 0 <= array.min() <= array.max() < self.vocab_size:
            raise UserError(
                f"token id {array.min() if array.min() < 0 else array.max()} is outside the "
                f"vocabulary of {self.vocab_size}: this is not the tokenizer the ids came from"
            )
        return array


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes: 256 tokens, any text, nothing to train."""

    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._checked(ids).astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def to_json(self) -> str:
        return json.dumps({"type": "byte"})


class CharTokenizer(Tokenizer):
    """One token a character; the vocabulary is the sorted set of the characters of a text."""

    def __init__(self, characters: str):
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = len(self.characters)
        points = _code_points(self.characters)
        self._points = points  # (V,) token id -> code point
        self._ids = np.full(int(points.max(initial=0)) + 1, -1)  # code point -> token id, or -1
        self._ids[points] = np.arange(self.vocab_size)

    def encode(self, text: str) -> np.ndarray:
        points = _code_points(text)
        known = points < self._ids.size
        ids = np.where(known, self._ids[np.where(known, points, 0)], -1)
        if ids.size and ids.min() < 0:
            character = text[int(ids.argmin())]
            raise UserError(
                f"character {character!r} (U+{ord(character):04X}) is not in this tokenizer's "
                f"{self.vocab_size} characters: leave it out, or train with --tokenizer byte or bpe"
            )
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._points[self._checked(ids)].tobytes().decode("utf-32-le")

    def to_json(self) -> str:
        return json.dumps({"type": "char", "characters": self.characters})


class HuggingFaceTokenizer(Tokenizer):
    """What a Hugging Face tokenizer.json describes, run by the `tokenizers` library.

    Padding and truncation that the file may ask for are switched off.
    """

    def __init__(self, content: str):
        import tokenizers

        self._content = content
        self._tokenizer = tokenizers.Tokenizer.from_str(content)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Ids may have holes, so the size of the vocabulary is not the count of tokens.
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> np.ndarray:
        _utf8(text)
        pieces = list(split_text(text, _PIECE))
        encodings = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        return np.concatenate([np.empty(0, np.int64), *(e.ids for e in encodings)])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._tokenizer.decode(self._checked(ids).tolist(), skip_special_tokens=False)

    def to_json(self) -> str:
        return self._content


def train_bpe(text: str, vocab_size: int) -> HuggingFaceTokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; GPT-2's variant) learned from `text`.

    All 256 bytes are tokens, so that any text can be encoded and comes back as it was. A short text
    may run out of pairs to merge and yield fewer than `vocab_size` tokens.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(split_text(text, 1 << 16), trainer)
    return HuggingFaceTokenizer(tokenizer.to_str())


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer saved at `path`: one of ours, or any Hugging Face tokenizer.json.

    Raises:
        UserError: no such file, or not a tokenizer.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
        fields = json.loads(content)
        kind = fields.get("type") if isinstance(fields, dict) else None
        if kind == "byte":
            return ByteTokenizer()
        if kind == "char":
            return CharTokenizer(fields["characters"])
        return HuggingFaceTokenizer(content)
    except OSError as error:
        raise UserError(
            f"cannot read tokenizer {path}: {error.strerror}; pass byte, char, bpe, or a "
            "tokenizer.json"
        ) from None
    except Exception as error:  # the library raises bare Exception for a file it cannot use
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a tokenizer.json ({reason}); pass another") from None


def split_text(text: str, size: int) -> Iterator[str]:
    """Cut `text` into pieces of about `size` characters, at single ends of lines where possible.

    A byte-level BPE yields the same tokens in pieces as in one, since it never merges across the
    newline of "x\\ny".
    """
    boundary, start = re.compile(r"(?<=\S\n)(?=\S)"), 0
    while start < len(text):
        cut = boundary.search(text, start + size, start + 2 * size)
        stop = cut.start() if cut else start + size
        yield text[start:stop]
        start = stop


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of the text is no Unicode character "
            f"({text[error.start]!r}): pass valid UTF-8"
        ) from None


def _code_points(text: str) -> np.ndarray:
    """(n,) little-endian uint32, one element a character."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4")
