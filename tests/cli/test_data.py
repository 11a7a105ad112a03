import re

import pytest

from minillm import env
from minillm.cli import data
from minillm.data import prepare
from minillm.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("the cat sat on the mat\n" * 1000)
    return str(path)


def test_encode_prints_statistics(book, capsys):
    argv = ["encode", "--data", book, "--tokenizer", "char", "--val_fraction", "0.2"]
    assert data.main(argv) == 0
    out = capsys.readouterr().out
    assert f"source           {book}" in out
    assert "tokens           18,400 training, 4,600 validation" in out
    assert "vocabulary       11 (uint16)" in out
    assert "bytes per token  1.000" in out
    nats, bits = map(
        float, re.search(r"entropy  ([\d.]+) nats per token, ([\d.]+) bits", out).groups()
    )
    assert 2.0 < nats < 2.3978953 and abs(nats / 0.693147 - bits) < 2e-3  # below ln 11


def test_encoded_text_is_what_prepare_takes(book, cache, capsys):
    data.main(
        ["encode", "--data", book, "--tokenizer", "bpe", "--vocab_size", "260", "--lowercase"]
    )
    key = prepare(book, "bpe", 260, lowercase=True).key
    assert str(cache / "data" / key) in capsys.readouterr().out


def test_list_and_clear(book, cache, capsys):
    data.main(["list"])
    assert "total" in capsys.readouterr().out
    one, two = (prepare(book, kind).key for kind in ("byte", "char"))
    (cache / "downloads").mkdir()
    (cache / "downloads" / "plays.txt").write_text("x" * 10_000)
    data.main(["list"])
    out = capsys.readouterr().out
    assert re.search(rf"{one} +0\.05 MB  23,000 tokens of byte 256, {book}", out)
    assert re.search(rf"{two} .* of char 11, {book}", out)
    assert re.search(r"download +0\.01 MB  .*plays.txt", out)

    data.main(["clear", "--keys", one])
    data.main(["list"])
    out = capsys.readouterr().out
    assert "deleted 1" in out and one not in out.split("deleted")[1] and two in out
    data.main(["clear"])
    assert "deleted 2" in capsys.readouterr().out
    assert not list((cache / "data").glob("*/*")) and not list((cache / "downloads").iterdir())


def test_clear_of_an_unknown_key_deletes_nothing(book, cache):
    key = prepare(book, "byte").key
    with pytest.raises(UserError, match="no entry abc"):
        data.main(["clear", "--keys", key, "abc"])
    assert (cache / "data" / key / "meta.json").is_file()


def test_bad_arguments_exit_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        data.main(["encode", "--tokeniser", "byte"])
    assert caught.value.code == 2
    assert "--tokenizer" in capsys.readouterr().err


def test_bad_data_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        data.main(["encode", "--data", str(tmp_path / "none")])


def test_a_damaged_entry_is_listed_and_can_be_cleared(book, cache, capsys):
    data.main(["encode", "--data", book, "--tokenizer", "byte"])
    (meta,) = (cache / "data").glob("*/meta.json")
    meta.write_text("{")
    capsys.readouterr()
    assert data.main(["list"]) == 0
    assert re.search(rf"{meta.parent.name} .* damaged", capsys.readouterr().out)
    assert data.main(["clear", "--keys", meta.parent.name]) == 0
    assert not meta.parent.exists()
