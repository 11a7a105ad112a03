"""`make notebooks`: build/notebooks/ch05_layer_norm.ipynb and so on, from the chapters' Markdown.

Python that runs becomes cells, shell commands `%%bash` cells (mpirun too: MPI inside a notebook's
own process would crash); excerpts of files, outputs and diagrams stay text. Nothing is run here.
Links lead to the other notebooks, or to the files of this checkout.
"""

import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^(?P<ticks>```+)(?P<language>[\w+-]+)(?P<words>[^\n`]*)\n(?P<body>.*?)^(?P=ticks)[ \t]*$",
    re.M | re.S,
)
_LINK = re.compile(r'(\]\(|src=")(?!\w+:|#)([^)#"\s]+)')
_EXCERPT = " .noeval"  # jupytext's word for "not a cell"
_KERNEL = """\
---
jupyter:
  kernelspec: {display_name: Python 3, language: python, name: python3}
---

"""
_START = """\
import os, sys
os.chdir({root!r})  # commands run from the repository's root,
sys.path.insert(0, {folder!r})  # code beside the chapter's files\
"""


def notebook(chapter: Path, out: Path) -> nbformat.NotebookNode:
    """The notebook of a chapter's README.md that will lie in the folder `out`."""
    text = (chapter / "README.md").read_text(encoding="utf-8")
    parts, end = [_KERNEL], 0
    for fence in FENCE.finditer(text):
        parts += [_relinked(text[end : fence.start()], chapter, out), _fence(fence)]
        end = fence.end()
    made = jupytext.reads("".join([*parts, _relinked(text[end:], chapter, out)]), fmt="md")
    start = _START.format(root=str(ROOT), folder=str(chapter))
    made.cells.insert(0, nbformat.v4.new_code_cell(start))
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number}", {}  # the same at each run
        cell.source = cell.source.replace(_EXCERPT + "\n", "\n")
    return made


def _fence(fence: re.Match[str]) -> str:
    """The fence with words that mean something to jupytext, in place of those for our tests."""
    words = ""
    if "file=" in fence["words"]:
        words = _EXCERPT
    elif "exit=" in fence["words"]:
        words = ' magic_args="--no-raise-error"'
    return f"{fence['ticks']}{fence['language']}{words}\n{fence['body']}{fence['ticks']}"


def _relinked(text: str, chapter: Path, out: Path) -> str:
    def target(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(chapter / link[2]))
        if path.name == "README.md" and re.match(r"ch\d\d_", path.parent.name):
            return f"{link[1]}{path.parent.name}.ipynb"
        return link[1] + os.path.relpath(path, out)

    return _LINK.sub(target, text)


def main() -> int:
    """Into build/notebooks, or into the folder named on the command line."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/notebooks"
    out.mkdir(parents=True, exist_ok=True)
    for text in sorted((ROOT / "tutorials").glob("ch*_*/README.md")):
        path = out / f"{text.parent.name}.ipynb"
        nbformat.write(notebook(text.parent, out), path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
