"""Runs the code in a text: what a reader would type or paste, and what they are told it prints.

    ```python               runs, in one namespace a text
    ```bash                 runs in a shell, in a folder that looks like the repository's root
    ```output               what the fence before it prints: compared
    ```cuda file=sum.cu     an excerpt: must stand in that file, beside the text, as it stands here
    ```text, ```mermaid     nothing: neither is code

Words after the language say more:

    needs=torch             skipped where that module, that program, or "gpu" is missing
    exit=1                  the exit code of a shell fence, 0 otherwise
    rtol=0.01               numbers in the output may differ so much; text may not
    factor=10               ... or by so many times: times and rates, which are of a machine. With
                            rtol beside it, only numbers with a unit (s, GB/s, %, MB ...) may
    docs=3.11.7             ... of training on that Python's documentation, as train.py does by
                            default: with another Python only the words are compared
    limit=60                seconds that a shell fence may take

`...` in an output stands for anything, on a line of its own also for nothing. Numbers must be equal
where nothing is said.
"""

import contextlib
import io
import linecache
import os
import platform
import re
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

import numpy as np
from sybil import Document, Example, Region

from minillm import device
from minillm.errors import UserError
from minillm.learn import holes
from tests import programs

ROOT = Path(__file__).parents[1]
LIMIT = 120  # seconds a fence
_FENCE = re.compile(
    r"^(?P<ticks>```+)(?P<language>[\w+-]+)(?P<words>[^\n`]*)\n(?P<body>.*?)^(?P=ticks)[ \t]*$",
    re.M | re.S,
)
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:(?::\d\d)+|(?:\.\d+)?(?:e[-+]?\d+)?)")
_TOKEN = re.compile(rf"(\.\.\.|{_NUMBER.pattern})")
_UNIT = re.compile(r" ?(?:[mun]?s|min|h|[kKMGT]?i?B(?:/s)?|[GT]?FLOP/s|tok/s|%|x|times)(?!\w)")
_SILENT = {"text", "mermaid", "math", "json", "csv"}


class Fence:
    """One fence: its language, the words behind it, its body, and the output that follows it."""

    def __init__(self, match: re.Match[str]):
        self.language, self.body = match["language"], match["body"]
        self.words = dict(
            (word.split("=", 1) if "=" in word else (word, "")) for word in match["words"].split()
        )
        self.output: Fence | None = None


def parse(document: Document):
    """A region for each fence that is code."""
    last = None
    for match in _FENCE.finditer(document.text):
        fence = Fence(match)
        if fence.language == "output":
            if last is None or document.text[last[0].end() : match.start()].strip():
                raise ValueError(f"{document.path}: an output fence that follows no code")
            last[1].output = fence
            last = None
            continue
        last = (match, fence)
        if fence.language not in _SILENT:
            yield Region(match.start(), match.end(), fence, evaluate)


def evaluate(example: Example) -> str | None:
    """Run one fence; a sentence about what is wrong, or nothing."""
    fence: Fence = example.parsed
    if missing := [need for need in fence.words.get("needs", "").split(",") if not has(need)]:
        raise SkipTest(f"needs {', '.join(missing)}")
    if "file" in fence.words:
        return excerpt(fence, Path(example.path).parent / fence.words["file"])
    if fence.language == "python":
        printed = run_python(example, fence)
    elif fence.language == "bash":
        printed = run_shell(example, fence)
    else:
        return f"a fence in {fence.language}: say which file it is from, with file=NAME"
    if fence.output is None:
        return None
    return difference(printed, fence.output.body, fence.output.words)


def has(need: str) -> bool:
    """Whether a module, a program or a GPU is there."""
    if need == "gpu":
        try:
            return bool(device.module("cuda"))
        except UserError:
            return False
    return not need or shutil.which(need, path=path()) is not None or find_spec(need) is not None


def excerpt(fence: Fence, file: Path) -> str | None:
    """Whether the fence's lines stand in the file; how far they are indented does not matter."""

    def plain(text: str) -> str:
        return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())

    text = file.read_text(encoding="utf-8")
    if file.suffix in (".py", ".cu"):
        text = holes.solution(text)
    missing = [part for part in fence.body.split("...\n") if plain(part) not in plain(text)]
    return f"{file.name} does not contain:\n{missing[0]}" if missing else None


def run_python(example: Example, fence: Fence) -> str:
    """Run statements in the text's namespace, from the chapter's folder; what they print."""
    out, folder = io.StringIO(), Path(example.path).parent
    filename = f"{folder.name}/{Path(example.path).name}:{example.line}"
    linecache.cache[filename] = (len(fence.body), None, fence.body.splitlines(True), filename)
    home, before = os.getcwd(), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        # As far as the text has set them: another's are not for this one.
        options = example.namespace.setdefault("_printoptions", {})
        with contextlib.redirect_stdout(out), np.printoptions(**options):
            os.chdir(lookalike(example))
            exec(compile(fence.body, filename, "exec"), example.namespace)
            example.namespace["_printoptions"] = np.get_printoptions()
    finally:
        os.chdir(home)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:  # another chapter's files may have the same names
            if str(folder) in (getattr(sys.modules[name], "__file__", None) or ""):
                del sys.modules[name]
    return out.getvalue()


def run_shell(example: Example, fence: Fence) -> str:
    """Run commands as a reader would, from the repository's root; what they print, stderr too."""
    code, limit = int(fence.words.get("exit", 0)), float(fence.words.get("limit", LIMIT))
    settings = [f"PATH={path()}", "MPLBACKEND=agg", "COLUMNS=100", "NO_COLOR=1"]
    shell = ["bash", "-euo", "pipefail", "-c", "exec 2>&1\n" + fence.body]
    done = programs.run(["env", *settings, *shell], limit, lookalike(example))
    assert done.returncode == code, f"exit code {done.returncode}, not {code}:\n{done.stdout}"
    return done.stdout


def path() -> str:
    """Where commands are looked for: this environment's first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def lookalike(example: Example) -> Path:
    """This text's own folder, which looks like the repository's root; what is made stays there."""
    if "_lookalike" not in example.namespace:
        made = example.namespace["_lookalike"] = tempfile.TemporaryDirectory(prefix="minillm-")
        for name in ("train.py", "tutorials", "bench", "README.md"):
            (Path(made.name) / name).symlink_to(ROOT / name)
        # Not the package: found under another path, its kernels would all be compiled anew.
    return Path(example.namespace["_lookalike"].name)


def difference(printed: str, expected: str, words: dict[str, str]) -> str | None:
    """How what was printed differs from what the text says, or None."""
    rtol, factor = float(words.get("rtol", 0)), float(words.get("factor", 1))
    numbers = _NUMBER.findall(expected.replace("...", " "))
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else "".join(map(_pattern, _TOKEN.split(line))) + r"\n"
        for line in _lines(expected).split("\n")
    )
    text = _lines(printed) + "\n"
    match = re.fullmatch(pattern, text)
    if match is None:
        return f"expected:\n{expected}\nprinted:\n{printed}"
    if words.get("docs", platform.python_version()) != platform.python_version():
        return None
    for i, wanted in enumerate(numbers, 1):
        got = match[i]
        a, b = _value(wanted), _value(got)
        measured = "rtol" not in words or ":" in got or _UNIT.match(text, match.end(i))
        by = factor if measured else 1
        if not (abs(a - b) <= rtol * abs(a) or (a * b > 0 and 1 / by <= b / a <= by)):
            return (
                f"{got} is not near {wanted} ({words or 'equal'}) in what was printed:\n{printed}"
            )
    return None


def _value(number: str) -> float:
    """Of "1,024", "1e-3" or a time, "2:05"; seconds."""
    minutes, _, seconds = number.replace(",", "").rpartition(":")
    return float(seconds) + (60 * _value(minutes) if minutes else 0)


def _pattern(token: str) -> str:
    if token == "...":
        return r"[\s\S]*?"
    if _NUMBER.fullmatch(token):
        return f"({_NUMBER.pattern})"
    return re.sub(r"(?:\\? )+", r"[ ]+", re.escape(token))


def _lines(text: str) -> str:
    """Without space at the ends of lines and of the text."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()).strip()
