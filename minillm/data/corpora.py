"""Where text comes from: what `--data` names, opened without reading more than needed.

    ""             the embedded corpus (see python_docs.py)
    "shakespeare"  the usual 1.1 MB of Shakespeare's plays, fetched once
    a path         a text file; or a folder: its text files at any depth, hidden ones left out
    a glob         every file it matches ("books/*.txt", "notes/**/*.md")

Files are UTF-8. Several of them are read in order of their paths, a blank line between two.
"""

import glob
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minillm.data import python_docs
from minillm.errors import UserError

# What counts as text in a folder. A glob takes whatever it matches.
SUFFIXES = (".txt", ".md", ".rst", ".tex", ".py", ".c", ".h", ".cpp", ".cu", ".js", ".rs", ".go")

SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True)
class Corpus:
    """A text that can be recognised before it is read.

    Attributes:
        source: what it is, for people.
        digest: sha256 that stands for the content.
        read: returns the text, as it is in the files.
    """

    source: str
    digest: str
    read: Callable[[], str]


def open_corpus(data: str, cache: Path) -> Corpus:
    """The corpus that `data` names; see the top of this file. Downloads go to `cache/downloads`.

    Raises:
        UserError: nothing there, nothing in it, or something other than text.
    """
    if not data:
        return Corpus(python_docs.describe(), python_docs.digest(), python_docs.read_text)
    if data == "shakespeare":
        return Corpus("Shakespeare's plays", SHAKESPEARE_SHA256, lambda: _fetch(cache))
    try:
        files = _find_files(data)
        digests = b"".join(map(_hash_file, files))
    except OSError as error:
        raise _unreadable(data, error) from None
    source = data if len(files) == 1 else f"{data} ({len(files)} files)"
    return Corpus(source, hashlib.sha256(digests).hexdigest(), lambda: _read_files(data, files))


def _find_files(data: str) -> list[Path]:
    path = Path(data).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(_walk(path))
        if not files:
            raise UserError(
                f"--data {data}: no text files in this folder ({' '.join(SUFFIXES)}); "
                f"for others pass a glob such as '{path / '*.log'}'"
            )
        return files
    if path.exists():
        raise UserError(f"--data {data}: neither a file nor a folder; pass a text file")
    files = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not files:
        raise UserError(
            f"--data {data}: no such file or folder, and no file matches it as a glob; pass one "
            "that exists, 'shakespeare', or nothing for the embedded corpus"
        )
    return files


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]  # not into .git
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(here, name)


def _hash_file(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _read_files(data: str, files: list[Path]) -> str:
    try:
        text = "\n\n".join(filter(None, map(_read_text, files)))
    except OSError as error:
        raise _unreadable(data, error) from None
    if not text.strip():
        raise UserError(f"--data {data}: empty; pass a file with text in it")
    return text


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    if b"\0" in content:
        raise UserError(f"--data {path}: a binary file; pass UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--data {path}: not UTF-8 (byte {error.start}); "
            f"convert it, for example: iconv -f latin1 -t utf-8 {path.name} > utf8.txt"
        ) from None


def _unreadable(data: str, error: OSError) -> UserError:
    where = error.filename or data
    return UserError(f"--data {data}: cannot read {where}: {error.strerror}; check its permissions")


def _fetch(cache: Path) -> str:
    import pooch

    folder = cache / "downloads"
    try:
        path = pooch.retrieve(
            SHAKESPEARE_URL, f"sha256:{SHAKESPEARE_SHA256}", fname="shakespeare.txt", path=folder
        )
    except Exception as error:  # whatever requests, urllib3 and the hash check may raise
        raise UserError(
            f"--data shakespeare: cannot download it ({type(error).__name__}); without a network "
            f"pass a text file, or put the text of {SHAKESPEARE_URL} at {folder}/shakespeare.txt"
        ) from error
    return Path(path).read_text(encoding="utf-8")
