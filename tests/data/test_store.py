import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minillm
from minillm.data import prepare, store
from minillm.errors import UserError

TEXT = "".join(f"line {i}: the cat sat on the mat, é {i * i} times\n" for i in range(500))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(minillm.__file__).parents[1])}


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_split_encoded_and_decoded(tokenizer, book, cache):
    d = prepare(book, tokenizer, 300 if tokenizer == "bpe" else 0, 0.2, cache=cache)
    cut = int(len(TEXT) * 0.8)
    assert d.tokenizer.decode(d.train) == TEXT[:cut]
    assert d.tokenizer.decode(d.val) == TEXT[cut:]
    assert isinstance(d.train, np.memmap) and d.train.dtype == d.val.dtype == np.uint16
    assert d.bytes_per_token == len(TEXT[cut:].encode()) / d.val.size
    assert d.source == book
    with pytest.raises(ValueError, match="read-only"):
        d.train[0] = 1


def test_second_time_nothing_is_encoded(book, cache, monkeypatch):
    first = prepare(book, "bpe", 300, cache=cache)
    monkeypatch.setattr(store, "_encode", None)
    monkeypatch.setattr(store, "locked", None)  # a cache that may only be read will do
    second = prepare(book, "bpe", 300, cache=cache)
    assert second.key == first.key and np.array_equal(second.train, first.train)
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint


def test_long_text_is_encoded_in_pieces(book, cache, monkeypatch):
    whole = prepare(book, "bpe", 300, cache=cache / "1")
    monkeypatch.setattr(store, "_PIECE", 1000)
    pieces = prepare(book, "bpe", 300, cache=cache / "2")
    assert np.array_equal(whole.train, pieces.train) and np.array_equal(whole.val, pieces.val)


def test_key_follows_what_the_tokens_follow_from(book, cache, tmp_path):
    ways = [
        {}, {"tokenizer": "char"}, {"tokenizer": "bpe", "vocab_size": 300},
        {"tokenizer": "bpe", "vocab_size": 301}, {"val_fraction": 0.2}, {"lowercase": True},
        {"dedup": True},
    ]  # fmt: skip
    keys = [prepare(book, **{"tokenizer": "byte", **way}, cache=cache).key for way in ways]
    (tmp_path / "other.txt").write_text(TEXT + "x", encoding="utf-8")
    keys.append(prepare(str(tmp_path / "other.txt"), "byte", cache=cache).key)
    assert len(set(keys)) == len(keys)
    (tmp_path / "copy.txt").write_text(TEXT, encoding="utf-8")
    copy = prepare(str(tmp_path / "copy.txt"), "byte", cache=cache)
    assert copy.key == keys[0] and copy.source.endswith("copy.txt")


def test_char_knows_characters_of_both_splits_and_bpe_trains_on_the_first(tmp_path, cache):
    path = tmp_path / "text.txt"
    path.write_text("ab " * 400 + "zq" * 60)
    assert prepare(str(path), "char", cache=cache).tokenizer.vocab_size == 5
    bpe = prepare(str(path), "bpe", 258, cache=cache)
    assert bpe.tokenizer.encode("zq").size == 2 and bpe.tokenizer.encode("ab").size == 1


def test_wide_vocabulary_takes_32_bits(tmp_path, cache):
    from tokenizers import Tokenizer, models, pre_tokenizers

    theirs = Tokenizer(models.WordLevel({"a": 0, "b": 70_000}, unk_token="a"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.save(str(tmp_path / "wide.json"))
    (tmp_path / "text.txt").write_text("a b " * 50)
    d = prepare(str(tmp_path / "text.txt"), str(tmp_path / "wide.json"), cache=cache)
    assert d.train.dtype == np.uint32 and d.train[:3].tolist() == [0, 70_000, 0]


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "delete", "empty"])
def test_damaged_entry_is_made_again(name, damage, book, cache):
    first = prepare(book, "char", cache=cache)
    train = np.array(first.train)
    path = cache / "data" / first.key / name
    content = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(content[:-3] if damage == "cut" else b"")
    again = prepare(book, "char", cache=cache)
    assert np.array_equal(again.train, train) and path.read_bytes() == content


def test_tokenizer_that_was_exchanged_is_noticed(book, cache):
    d = prepare(book, "char", cache=cache)
    path = cache / "data" / d.key / "tokenizer.json"
    content = path.read_text()
    path.write_text(content.replace("abc", "abC"))  # as long as before
    assert prepare(book, "char", cache=cache).tokenizer.fingerprint == d.tokenizer.fingerprint


PREPARE = """
import sys
from pathlib import Path
from minillm.data import prepare, store
encode = store._encode
store._encode = lambda *args: (print("encoded"), encode(*args))
d = prepare(sys.argv[1], "bpe", 400, cache=Path(sys.argv[2]))
print(d.key, d.tokenizer.fingerprint, d.train.size, int(d.train.sum()), int(d.val.sum()))
"""


def test_three_processes_at_once(book, cache):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, book, cache],
            env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in running]
    assert all(process.returncode == 0 for process in running)
    assert len({lines[-1] for lines in outputs}) == 1
    assert sum("encoded" in lines for lines in outputs) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from minillm.data import prepare, store, tokenization
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
owner, name = {"replace": (os, "replace"), "meta": (store.json, "dumps"),
               "save": (tokenization.Tokenizer, "save")}[sys.argv[3]]
encode = store._encode
def encode_and_die(*args):
    setattr(owner, name, die)
    encode(*args)
store._encode = encode_and_die
prepare(sys.argv[1], "byte", cache=Path(sys.argv[2]))
"""


@pytest.mark.parametrize("moment", ["save", "meta", "replace"])
def test_killed_while_writing(moment, book, cache):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, book, cache, moment], env=ENVIRONMENT, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    folder = cache / "data"
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")] == []
    d = prepare(book, "byte", cache=cache)  # neither stuck on the lock nor fooled by the leftover
    assert d.tokenizer.decode(d.train) + d.tokenizer.decode(d.val) == TEXT
    assert {p.name for p in folder.iterdir()} == {".lock", d.key}


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_val_fraction_outside_its_range(fraction, book, cache):
    with pytest.raises(UserError, match="val_fraction"):
        prepare(book, "byte", val_fraction=fraction, cache=cache)


@pytest.mark.parametrize(
    "size, message", [(1, "256 or more"), (255, "256 or more"), (100_000, "pairs for only")]
)
def test_bpe_vocabulary_that_cannot_be(size, message, book, cache):
    with pytest.raises(UserError, match=message):
        prepare(book, "bpe", size, cache=cache)
    assert not list((cache / "data").glob("*/meta.json"))


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_text_too_short_to_split(tokenizer, tmp_path, cache):
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(UserError, match="too few to split"):
        prepare(str(tmp_path / "short.txt"), tokenizer, 256, cache=cache)
    assert {p.name for p in (cache / "data").iterdir()} == {".lock"}


def test_cache_that_cannot_be_written(book, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="set MINILLM_CACHE"):
        prepare(book, "byte", cache=tmp_path / "file")


def test_full_disk(book, cache, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device; set MINILLM_CACHE"):
        prepare(book, "byte", cache=cache)
    assert {p.name for p in (cache / "data").iterdir()} == {".lock"}


def test_meta_tells_what_is_there(book, cache):
    d = prepare(book, "bpe", 300, cache=cache)
    meta = json.loads((cache / "data" / d.key / "meta.json").read_text())
    assert meta["tokens"] == d.train.size + d.val.size
    assert (meta["source"], meta["tokenizer"], meta["vocab_size"]) == (book, "bpe", 300)


def test_unigram_entropy(tmp_path, cache):
    (tmp_path / "text.txt").write_text("a" * 92 + "aaaabbcd")
    d = prepare(str(tmp_path / "text.txt"), "char", val_fraction=0.08, cache=cache)
    assert d.val.size == 8
    assert d.unigram_entropy() == pytest.approx(1.75 * np.log(2))  # 1/2, 1/4, 1/8, 1/8


def test_shakespeare_is_split_as_usual(shakespeare, cache):
    d = prepare(str(shakespeare), "char", cache=cache)
    assert (d.train.size, d.val.size, d.tokenizer.vocab_size) == (1_003_854, 111_540, 65)
    text = shakespeare.read_text(encoding="utf-8")
    assert d.tokenizer.decode(d.train) + d.tokenizer.decode(d.val) == text


def test_embedded_corpus_is_read_once(cache, monkeypatch):
    d = prepare("", "byte", cache=cache)
    assert d.train.size > 400_000 and "own documentation" in d.source
    monkeypatch.setattr(store, "_encode", None)
    assert prepare("", "byte", cache=cache).key == d.key


def test_heavy_libraries_wait_until_they_are_needed():
    code = (
        "import sys, minillm.data; "
        "print(*{'tokenizers', 'pooch', 'tyro', 'rich', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "\n", done.stderr


def test_a_vocabulary_size_that_the_tokenizer_has_not_is_refused(book, tmp_path):
    assert prepare(book, "byte", 256, cache=tmp_path).tokenizer.vocab_size == 256
    with pytest.raises(UserError, match="vocab_size 300, but the byte tokenizer has 256"):
        prepare(book, "byte", 300, cache=tmp_path)
