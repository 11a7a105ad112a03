"""`make docs` and `make notebooks`: nothing in the site is broken, and what breaks is noticed."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests import programs

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "tutorials").glob("ch*_*/README.md"))
SPHINX = ("sphinx", "myst_parser", "furo", "sphinxcontrib.mermaid")

needs_sphinx = pytest.mark.skipif(
    any(not find_spec(name.partition(".")[0]) for name in SPHINX),
    reason='no Sphinx: pip install -e ".[docs]"',
)

SOUND = {
    "index.md": """# Front

[a page](folder/page.md), [its part](folder/page.md#a-part), [here](#front), [a file](planted.py),
[a folder](folder), [a bare one](data), {py:func}`planted.sound`

$$\\begin{aligned} a &= b \\\\ c &= d \\end{aligned} \\tag{1}$$

```mermaid
flowchart LR
    a --> b
```

```cuda file=reduce.cu
__global__ void reduce();
```

```nolanguage with=words
plain
```
""",
    "folder/README.md": "# Folder\n",
    "folder/page.md": "# Page\n\n## A part\n\n[up](../index.md), [code](../planted.py)\n",
    "data/hosts": "localhost\n",
    "api/code.md": "# Code\n\n```{eval-rst}\n.. automodule:: planted\n   :members:\n```\n",
    "planted.py": '''"""A module."""


def sound(x: int, *rest: str) -> None:
    """Return |x|* as x_, by `sound` or `minillm.nn.Linear`, or `b c`s.

        table   of *two* |columns|
        a_      `b`

    V.

    - an item that
      goes on

    Args:
        x, rest: numbers_ and
            so on.

    Raises:
        UserError: always.
    """
''',
}
BROKEN = {  # a text, and what is said of it
    "a page that is not there": ("[x](gone.md)", "'gone.md'"),
    "a file that is not there": ("[x](../gone.py)", "'../gone.py'"),
    "a folder that is not there": ("[x](gone/)", "'gone/'"),
    "a heading of another page": ("[x](index.md#gone)", "'index': 'gone'"),
    "a heading of this page": ("[x](#gone-too)", "'gone-too'"),
    "an image": ("![x](gone.svg)", "image file not readable: gone.svg"),
    "a name in a text": ("{py:func}`minillm.nn.gone`", "minillm.nn.gone"),
}
BROKEN_DOCSTRINGS = {
    "a name": ("See `minillm.nn.Gone`.", "minillm.nn.Gone"),
    "a role": ("See :py:func:`gone_role`.", "gone_role"),
    "an exception": ("Run.\n\nRaises:\n    GoneError: ever.", "GoneError"),
}


def sphinx(pages: Path, files: dict[str, str]):
    """Build a site of these files, with the settings of ours."""
    for name, text in files.items():
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        (pages / name).write_text(text, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from minillm.tutorials.site import build;"
        f"sys.path.insert(0, {str(pages)!r});"
        f"sys.exit(build.sphinx(Path({str(pages)!r}), Path({str(pages) + '-site'!r})))"
    )
    return programs.run([sys.executable, "-c", code])


@needs_sphinx
def test_what_the_settings_promise(tmp_path):
    done = sphinx(tmp_path / "sound", SOUND)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    site = tmp_path / "sound-site"
    index, code = ((site / name).read_text() for name in ("index.html", "api/code.html"))
    assert 'href="source/planted.py.html"' in index and 'href="folder/README.html"' in index
    assert 'href="source/data.html"' in index and (site / "source/data/hosts.html").exists()
    assert r"\[\begin{aligned} a &amp;= b \\ c &amp;= d \end{aligned} \tag{1}\]" in index
    assert 'class="mermaid"' in index
    assert "Return |x|* as x_, by" in code and "table   of *two* |columns|\na_      `b`" in code
    assert "<p>V.</p>" in code and 'href="#planted.sound"' in code


@needs_sphinx
def test_what_is_broken_is_noticed(tmp_path):
    pages = {f"page{i}.md": text for i, (text, _) in enumerate(BROKEN.values())}
    docs = [text for text, _ in BROKEN_DOCSTRINGS.values()]
    functions = "".join(f"def f{i}():\n    {text!r}\n\n" for i, text in enumerate(docs))
    api = "# Code\n\n```{eval-rst}\n.. automodule:: planted\n   :members:\n```\n"
    planted = {"index.md": "# Front\n", "api.md": api, "planted.py": functions}
    done = sphinx(tmp_path / "broken", pages | planted)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    for i, (what, (_, expected)) in enumerate(BROKEN.items()):
        assert re.search(rf"page{i}\.md:.*WARNING: .*{re.escape(expected)}", said), (what, said)
    for what, (_, expected) in BROKEN_DOCSTRINGS.items():
        assert re.search(rf"docstring of planted.*WARNING: .*{expected}", said), (what, said)
    assert said.count("WARNING") == len(BROKEN) + len(BROKEN_DOCSTRINGS)


@needs_sphinx
@pytest.mark.timeout(400)
def test_the_site_builds_without_a_warning(tmp_path):
    done = programs.python("tutorials/site/build.py", tmp_path, limit=390)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    for page in [*CHAPTERS, ROOT / "bench/README.md", ROOT / "kernels/README.md"]:
        assert (site / page.relative_to(ROOT).with_suffix(".html")).exists()
    for name in ("minillm", "minillm.distributed.sync", "minillm.kernels.layer_norm"):
        assert (site / f"api/{name}.html").exists()
    assert not sorted(dead_links(site))


def dead_links(site: Path) -> set[str]:
    """Links of the site to files of its own that are not there."""
    dead, tag = set(), re.compile(r'<(?:a|img|link|script)\b[^>]*? (?:href|src)="([^"]*)"')
    for page in site.rglob("*.html"):
        for link in tag.findall(page.read_text(encoding="utf-8")):
            address = urlsplit(link)
            target = os.path.normpath(page.parent / unquote(address.path))
            if not address.scheme and address.path and not os.path.exists(target):
                dead.add(f"{page.relative_to(site)}: {link}")
    return dead


def test_every_piece_of_python_is_a_cell_of_its_notebook(tmp_path):
    pytest.importorskip("jupytext", reason='no jupytext: pip install -e ".[docs]"')
    nbformat = pytest.importorskip("nbformat")
    done = programs.python("tutorials/site/notebooks.py", tmp_path)
    assert done.returncode == 0, done.stderr
    for chapter in CHAPTERS:
        made = nbformat.read(tmp_path / f"{chapter.parent.name}.ipynb", 4)
        nbformat.validate(made)
        _, *cells = [cell.source for cell in made.cells if cell.cell_type == "code"]
        shell = [cell.partition("\n")[2] for cell in cells if cell.startswith("%%bash")]
        python = [cell for cell in cells if not cell.startswith("%%bash")]
        assert python == fences(chapter, "python"), chapter
        assert shell == fences(chapter, "bash"), chapter


def fences(chapter: Path, language: str) -> list[str]:
    """The code of a chapter that runs, excerpts of files aside."""
    fence = rf"^```{language}((?: [^\n]*)?)\n(.*?)\n```$"
    found = re.findall(fence, chapter.read_text(encoding="utf-8"), re.M | re.S)
    return [body.strip("\n") for words, body in found if "file=" not in words]


MATH = re.compile(r"\$\$.+?\$\$|\$[^$]+\$", re.DOTALL)


@needs_sphinx
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.parent.name)
def test_equations_survive_githubs_markdown(path):
    """There, Markdown comes first: a backslash before a sign goes, and `*` may be emphasis."""
    from markdown_it import MarkdownIt

    text, tokens = path.read_text(encoding="utf-8"), MarkdownIt("commonmark").enable("table")
    assert "\\operatorname" not in text  # not allowed
    for token in tokens.parse(text):
        if token.type != "inline":
            continue
        left = "".join(child.content or child.type for child in token.children)
        for equation in MATH.findall(re.sub(r"`[^`]*`", "", token.content)):
            assert squeezed(equation) in squeezed(left)


def squeezed(text: str) -> str:
    return re.sub(r"\s|softbreak", "", text)
