"""The embedded corpus: English prose from the documentation inside the running Python.

It needs no network and no file of our own: the language reference that `help()` shows
(`pydoc_data.topics`), the docstrings of a fixed list of standard-library modules, and the licence.
Sources are parsed by `ast` and never imported, so nothing runs. What remains is prose: doctests,
tables, signatures and grammar rules are dropped, and markup is taken off.

The text is the same on every machine that has the same Python; `digest` changes with it.
"""

import ast
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from minillm.errors import UserError

FORMAT = 1  # raise it when the text drawn from the same sources changes

# Modules written in Python with much prose for their size, of Python 3.10 to 3.14.
MODULES = """
__future__ _py_abc _pydecimal _pyio _threading_local abc argparse ast asyncio.base_events
asyncio.events asyncio.futures asyncio.locks asyncio.protocols asyncio.queues asyncio.runners
asyncio.streams asyncio.tasks asyncio.transports base64 bdb bz2 calendar cmd code codecs collections
concurrent.futures._base concurrent.futures.process configparser contextlib csv dataclasses dbm
difflib doctest email.charset email.errors email.generator email.header email.headerregistry
email.message email.parser email.policy email.utils enum filecmp fileinput fnmatch fractions ftplib
functools genericpath getopt getpass graphlib gzip heapq hmac http.client http.cookiejar
http.cookies http.server imaplib importlib.abc importlib.metadata inspect io ipaddress json
json.decoder json.encoder linecache locale logging logging.config logging.handlers lzma mailbox
mimetypes multiprocessing.shared_memory numbers operator optparse os pathlib pdb pickle pkgutil
platform poplib py_compile pyclbr pydoc queue random re sched selectors shelve shutil site smtplib
socket socketserver ssl statistics subprocess symtable tarfile tempfile textwrap threading timeit
tkinter tkinter.dnd tkinter.ttk tokenize traceback turtle typing unittest unittest.case
unittest.mock unittest.result urllib.parse urllib.request uuid warnings wave weakref
wsgiref.handlers wsgiref.headers wsgiref.util xml.dom xml.etree.ElementTree xml.sax xml.sax.handler
xml.sax.xmlreader xmlrpc.server zipfile zipimport
"""

_TOPICS, _LICENSE = "pydoc_data.topics", "LICENSE"
_ASCII = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "—": "-", "–": "-"})
_NOT_PROSE = re.compile(r"^(>>>|\.\.\.? |[|+]|[-=*~^]{3,}$|(def|class|import|from) \S+$)|::=", re.M)
_MARKUP = [
    (re.compile(r":[a-z:]+:`~?([^`]+)`"), r"\1"),  # :func:`name`
    (re.compile(r"``([^`]+)``|`([^`'\n]+)[`']"), r"\1\2"),  # ``code``, `name', `name`
    (re.compile(r"(?<!\w)(\*\*?)(?=\w)([^*\n]*?\w)\1(?!\w)"), r"\2"),  # *emphasis*, **strong**
    (re.compile(r'"([\w.]+(?:\(\))?)"'), r"\1"),  # "name" and "name()" in the language reference
    (re.compile(r"(?<=\S) {2,}"), " "),
    (re.compile(r"::$"), ":"),
]


def sources() -> dict[str, Path]:
    """Name -> file of every source this Python has, in order of name; absent ones are left out."""
    library = Path(os.__file__).parent
    found = {_LICENSE: library / "LICENSE.txt"}
    for name in (_TOPICS, *MODULES.split()):
        stem = library.joinpath(*name.split("."))
        package = stem / "__init__.py"
        found[name] = package if package.is_file() else stem.with_suffix(".py")
    return {name: path for name, path in sorted(found.items()) if path.is_file()}


def digest() -> str:
    """Identifies the text without making it: Python's version, and every source with its size."""
    sizes = [(name, path.stat().st_size) for name, path in sources().items()]
    return hashlib.sha256(repr((FORMAT, sys.version_info[:3], sizes)).encode()).hexdigest()


def describe() -> str:
    """What the corpus is made of here, in a few words."""
    found = sources()
    parts = [
        "language reference" if _TOPICS in found else "",
        f"docstrings of {len(found.keys() & set(MODULES.split()))} modules",
        "licence" if _LICENSE in found else "",
    ]
    version = ".".join(map(str, sys.version_info[:3]))
    return f"Python {version}'s own documentation ({', '.join(filter(None, parts))})"


def read_text() -> str:
    """The corpus: paragraphs separated by blank lines, no paragraph twice.

    Documents are ordered by a hash of their names, so that the end of the text (the validation
    split) is drawn from the same mixture as its beginning.
    """
    documents = {}
    for name, path in sources().items():
        text = path.read_text(encoding="utf-8")
        if name == _LICENSE:
            documents[name] = [text]
        elif name == _TOPICS:
            tables = [n.value for n in ast.parse(text).body if isinstance(n, ast.Assign)]
            documents |= {
                f"topic {topic}": [body] for topic, body in ast.literal_eval(tables[0]).items()
            }
        else:
            documents[name] = list(_docstrings(ast.parse(text)))  # frees the tree
    order = sorted(documents, key=lambda name: hashlib.sha256(name.encode()).digest())
    unique = dict.fromkeys(p for name in order for text in documents[name] for p in prose(text))
    if not unique:
        raise UserError("this Python comes without its library's sources: pass a text with --data")
    return "\n\n".join(unique) + "\n"


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of a module, its classes and their functions, in the order of the source."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
        for child in node.body:
            yield from _docstrings(child)


def prose(text: str) -> Iterator[str]:
    """The paragraphs of `text` that read as English sentences, without indentation or markup."""
    for block in re.split(r"\n\s*\n", text.translate(_ASCII)):
        lines = [line.strip() for line in block.splitlines()]
        paragraph = "\n".join(line for line in lines if line)
        if _NOT_PROSE.search(paragraph):
            continue
        for pattern, replacement in _MARKUP:
            paragraph = pattern.sub(replacement, paragraph)
        if _reads_as_prose(paragraph):
            yield paragraph


def _reads_as_prose(paragraph: str) -> bool:
    """A sentence: starts like one, ends like one, has words, and few signs other than letters."""
    if len(paragraph.split()) < 5 or not paragraph.endswith((".", ":", "!", "?", ".)", '."')):
        return False
    if not (paragraph[0].isupper() or paragraph.startswith(('"', "(", "* ", "- "))):
        return False
    visible = "".join(paragraph.split())
    letters = sum(map(str.isalpha, visible))
    common = sum(map(visible.count, ".,'\"()_-"))
    return letters >= 0.8 * len(visible) and letters + common >= 0.95 * len(visible)
