"""The house's docstrings as reStructuredText, which is what Sphinx takes.

The rule: a block of lines with an indented line in it is a formula, a table or code, and stays as
it is, character for character; so does `>>>` with what follows. Exceptions are lists, whose items
go on indented, and Google's sections (`Args:` ...), which become lists. All else is prose, where
only backticks mean something: a name is a link if the reference has something of that name, a name
that begins with `minillm.` must exist, anything else is code.
"""

import re
from collections.abc import Iterator
from typing import Any

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
_ITEM = re.compile(r"([-*]|\d+\.) ")
_ENTRY = re.compile(r" {4}([*\w.]+(?:, [*\w.]+)*): (.*)")
# ``code`` of our own making, :role:`name`, `code`
_MARKUP = re.compile(r"(``[^`]+``)|(:[\w:]+:`[^`]+`)|`([^`]+)`")
_NAME = re.compile(r"[A-Za-z_][\w.]*(\(\))?")
_NUMBER = re.compile(r"\(?\w+[.)](?=\s|$)")  # "V." alone would be item 5 of a list
_SPECIAL = re.compile(r"[\\*|]|_(?!\w)")


def to_rest(lines: list[str]) -> list[str]:
    """The lines of one docstring, rewritten."""
    out: list[str] = []
    section = ""
    for block in _blocks(lines):
        if not block[0].startswith(" "):
            heading = _SECTION.match(block[0])
            section = heading[1] if heading else ""
            if section:
                out += [f":{section}:"]
                block = block[1:]
        if section:
            out += _entries(block, section)
        elif _ITEM.match(block[0]):
            out += [*prose(block), ""]
        elif block[0].startswith(">>>") or any(line.startswith(" ") for line in block):
            out += ["::", "", *(f"    {line}" for line in block), ""]
        else:
            first, *rest = prose(block)
            out += ["\\" * bool(_NUMBER.match(first)) + first, *rest, ""]
    return out


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines without an empty one between them."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def _entries(block: list[str], section: str) -> list[str]:
    """`    x, y: text` and its further lines as an item of a list; other lines as a paragraph."""
    out: list[str] = []
    for line in block:
        entry = _ENTRY.fullmatch(line)
        if entry:
            style = ":py:exc:`{}`" if section == "Raises" else "``{}``"
            names = ", ".join(style.format(name) for name in entry[1].split(", "))
            out.append(f"    - {names}: {entry[2]}")
        else:
            deeper = bool(out) and out[-1].startswith(("    - ", "      "))
            out.append(" " * (6 if deeper else 4) + line.strip())
    return [*prose(out), ""]


def prose(lines: list[str]) -> list[str]:
    """Lines whose markup is taken literally, but for backticks."""
    text, out, end = "\n".join(lines), "", 0
    for found in _MARKUP.finditer(text):
        out += _literally(text[end : found.start()])
        out += r"\ " if out and not out[-1].isspace() else ""  # else reST would not see a role
        out += found[1] or found[2] or _code(" ".join(found[3].split()))
        end = found.end()
        out += r"\ " if text[end : end + 1].isalnum() else ""
    return (out + _literally(text[end:])).split("\n")


def _literally(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def _code(text: str) -> str:
    if not _NAME.fullmatch(text):
        return f"``{text}``"
    return f":py:obj:`{text}`" if text.startswith("minillm.") else f":name:`{text}`"


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rest(lines)


def _signature(
    app: Any, what: str, name: str, obj: Any, options: Any, args: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Defaults that are no Python, as `<factory>` of a dataclass, would break the parsing."""
    return args and re.sub("<[^<>]*>", "...", args), result


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of a NamedTuple: "Alias for field number 0" helps nobody."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _signature)
