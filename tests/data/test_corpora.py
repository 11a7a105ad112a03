import hashlib
import os
import sys

import pytest

from minillm.data.corpora import SHAKESPEARE_SHA256, open_corpus
from minillm.errors import UserError


def read(data, cache):
    return open_corpus(str(data), cache).read()


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "book"
    path.write_bytes("\ufeffé\r\nb".encode())
    assert read(path, tmp_path) == "é\r\nb"


def test_a_folder_in_order_of_paths_without_hidden_and_foreign_files(tmp_path):
    for name, text in {
        "b.txt": "second", "a/z.MD": "first", ".git/x.txt": "no", ".x.txt": "no", "c.png": "no",
        "d.txt": "", "e.py": "third",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read(tmp_path, tmp_path) == "first\n\nsecond\n\nthird"
    assert open_corpus(str(tmp_path), tmp_path).source.endswith("(4 files)")


def test_a_glob(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("1.log", "sub/2.log", "3.txt"):
        (tmp_path / name).write_text(name)
    assert read(tmp_path / "**" / "*.log", tmp_path) == "1.log\n\nsub/2.log"


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "[x].txt").write_text("x")
    assert read(tmp_path / "[x].txt", tmp_path) == "x"


def test_digest_follows_the_content_alone(tmp_path):
    one, two, other = (tmp_path / name for name in ("1", "2", "3"))
    one.write_text("same")
    two.write_text("same")
    other.write_text("more")
    digests = [open_corpus(str(p), tmp_path).digest for p in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty", b"", "empty"),
        ("blank", b" \n\n", "empty"),
        ("binary", b"ELF\x00\x01", "binary"),
        ("latin1", "caf\xe9".encode("latin1"), "not UTF-8"),
    ],
)
def test_bad_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    "name, message", [("none.txt", "no such file"), ("*.txt", "no file match")]
)
def test_nothing_there(name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_corpus(str(tmp_path / name), tmp_path)


def test_folder_without_text(tmp_path):
    (tmp_path / "image.png").write_bytes(b"x")
    with pytest.raises(UserError, match="no text files"):
        open_corpus(str(tmp_path), tmp_path)


def test_device_is_not_a_text(tmp_path):
    with pytest.raises(UserError, match="neither a file nor a folder"):
        open_corpus("/dev/null", tmp_path)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(UserError, match="cannot read"):
        open_corpus(str(path), tmp_path)


def test_file_that_fails_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("x")
    corpus = open_corpus(str(path), tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="cannot read .*text.txt: No such file"):
        corpus.read()


def test_shakespeare_without_a_network(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")

    def no_network(*args, **kwargs):
        raise ConnectionError("nobody\nthere")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    corpus = open_corpus("shakespeare", tmp_path)  # its key needs no download
    assert corpus.digest == SHAKESPEARE_SHA256
    with pytest.raises(UserError, match="without a network pass a text file") as caught:
        corpus.read()
    assert "\n" not in str(caught.value)


def test_shakespeare_already_there_needs_no_network(tmp_path, shakespeare):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "shakespeare.txt").write_bytes(shakespeare.read_bytes())
    text = open_corpus("shakespeare", tmp_path).read()
    assert hashlib.sha256(text.encode()).hexdigest() == SHAKESPEARE_SHA256
