"""The house's docstrings as reStructuredText, which is what Sphinx takes.

The rule: a block of lines with an indented line in it is a formula, a table or code, and stays as it
is, character for character; so are `>>>` and what follows it. Exceptions are lists, whose items go
on indented, and Google's sections (`Args:` ...), which napoleon reads. All else is prose, where only
backticks mean something: `name` is a reference if there is something of that name in the
reference, `minillm.a.b` must be one, anything else is code.
"""

import re
from collections.abc import Iterator
from typing import Any

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
_ITEM = re.compile(r"([-*]|\d+\.) ")
_SPAN = re.compile(r"`([^`]+)`")
_NAME = re.compile(r"[A-Za-z_][\w.]*(\(\))?")
_ROLE = re.compile(r":[\w:]+:`[^`]+`")  # :func:`name`, for who wants it
_SPECIAL = re.compile(r"[\\*|]|_(?!\w)")


def to_rest(lines: list[str]) -> list[str]:
    """The lines of one docstring, rewritten."""
    out: list[str] = []
    section = False
    for block in _blocks(lines):
        first = block[0]
        if not first.startswith(" "):
            section = _SECTION.match(first) is not None
        indented = any(line.startswith(" ") for line in block)
        if not section and not _ITEM.match(first) and (indented or first.startswith(">>>")):
            out += ["::", "", *("    " + line for line in block), ""]
        else:
            out += ["" if not line else _inline(line) for line in block] + [""]
    return out


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines without an empty one between them; formulas that follow each other as one."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def _inline(line: str) -> str:
    """Prose with its markup taken literally, but for backticks."""
    out, end = "", 0
    for span in re.finditer(f"{_ROLE.pattern}|{_SPAN.pattern}", line):
        out += _SPECIAL.sub(r"\\\g<0>", line[end : span.start()])
        if out and (out[-1].isalnum() or out[-1] in "_)]"):
            out += r"\ "
        out += _span(span[0], span[1])
        end = span.end()
        if line[end : end + 1].isalnum():
            out += r"\ "
    return out + _SPECIAL.sub(r"\\\g<0>", line[end:])


def _span(whole: str, code: str | None) -> str:
    if code is None:
        return whole
    if not _NAME.fullmatch(code):
        return f"``{code}``"
    return f":py:obj:`{code}`" if code.startswith("minillm.") else f":name:`{code}`"


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rest(lines)


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of a NamedTuple: "Alias for field number 0" helps nobody."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Sphinx's hook: ahead of napoleon, whose place is 500."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-skip-member", _skip)
