import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm
from minillm.data import load_tokenizer, tokenization
from minillm.data.tokenization import ByteTokenizer, CharTokenizer, split_text, train_bpe
from minillm.errors import UserError

TEXT = "the cat sat on the mat, the dog sat on the cat.\n" * 40 + "Ünïcödé 漢字 🙂\n"
TOKENIZERS = {"byte": ByteTokenizer(), "char": CharTokenizer(TEXT), "bpe": train_bpe(TEXT, 300)}


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@given(text=st.text(max_size=300))
def test_any_text_comes_back(kind, text):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64 and ids.ndim == 1
    assert tokenizer.decode(ids) == text
    assert not ids.size or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size


@given(text=st.text())
def test_char_knows_its_own_text(text):
    tokenizer = CharTokenizer(text)
    assert tokenizer.vocab_size == len(set(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_char_ids_follow_code_points():
    assert CharTokenizer("cab\n").encode("abc\n").tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("unknown", ["q", "é", "\U0010ffff", " "])
def test_char_names_what_it_does_not_know(unknown):
    with pytest.raises(UserError, match=f"U\\+{ord(unknown):04X}"):
        CharTokenizer("abc").encode("ab" + unknown + "c")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_saved_and_loaded_is_the_same(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.vocab_size == tokenizer.vocab_size
    assert np.array_equal(loaded.encode(TEXT), tokenizer.encode(TEXT))


def test_fingerprints_differ():
    others = [CharTokenizer(TEXT + "#"), train_bpe(TEXT, 290)]
    fingerprints = {t.fingerprint for t in [*TOKENIZERS.values(), *others]}
    assert len(fingerprints) == 5


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_half_a_character_does_not_raise(kind):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode("🦜")  # not in the training text: no token of its own
    assert ids.size > 2
    assert all("\ufffd" in tokenizer.decode(ids[:n]) for n in range(1, ids.size))
    assert tokenizer.decode(ids) == "🦜"


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("bad", [-1, 10_000])
def test_id_outside_the_vocabulary(kind, bad):
    with pytest.raises(UserError, match=f"token id {bad} "):
        TOKENIZERS[kind].decode([0, bad])


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_lone_surrogate_is_refused(kind):
    with pytest.raises(UserError, match="character 2"):
        TOKENIZERS[kind].encode("ab\udcff")


def test_bpe_is_the_same_in_every_process():
    code = (
        "import sys; from minillm.data.tokenization import train_bpe; "
        "print(train_bpe(sys.stdin.read(), 290).fingerprint)"
    )
    root = str(Path(minillm.__file__).parents[1])
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=TEXT, text=True, capture_output=True, check=True, timeout=60,
            env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert prints == {train_bpe(TEXT, 290).fingerprint}


def test_bpe_pieces_yield_the_tokens_of_the_whole(monkeypatch):
    tokenizer = TOKENIZERS["bpe"]
    text = (TEXT + "\n\n  indented\n\tand so on\n's\n") * 5
    whole = tokenizer.encode(text)
    monkeypatch.setattr(tokenization, "_PIECE", 50)
    assert len(list(split_text(text, 50))) > 10
    assert np.array_equal(tokenizer.encode(text), whole)


@given(st.text("a \n", max_size=100), st.integers(1, 20))
def test_pieces_are_the_text(text, size):
    pieces = list(split_text(text, size))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 2 * size for piece in pieces)


def test_hugging_face_file_with_holes_padding_and_special_tokens(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    theirs = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 70_000, "?": 2}, unk_token="?"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    theirs.enable_padding(length=8)
    theirs.enable_truncation(max_length=2)
    theirs.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("a b b c").tolist() == [1, 70_000, 70_000, 2]
    assert tokenizer.vocab_size == 70_001
    tokenizer.save(tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("content", ["", "not json", "[1]", "{}", json.dumps({"type": "char"})])
def test_not_a_tokenizer(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError, match="is not a tokenizer.json") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_no_such_tokenizer(tmp_path):
    with pytest.raises(UserError, match="pass byte, char, bpe"):
        load_tokenizer(tmp_path / "none.json")


def test_opening_always_has_a_token():
    letters = CharTokenizer("abc")
    assert letters.opening("ca").tolist() == [2, 0]
    assert letters.opening("").tolist() == [0]  # it knows no new line
    assert CharTokenizer("a\n").opening("").tolist() == [0] == CharTokenizer("a\n").encode("\n")
    assert ByteTokenizer().opening("").tolist() == [10]
    with pytest.raises(UserError, match="prompt 'ax': character 'x'"):
        letters.opening("ax")
