"""`make docs`: lay out the pages in build/pages, and let Sphinx make build/site of them.

The pages are a copy of the repository, so that every relative link finds what it names, with the
front page and the API reference added. A warning of Sphinx, as of a broken link, is an error.
"""

import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_PRODUCTS = {"build", "dist", "learn", "runs"}


def lay_out(pages: Path) -> None:
    """Fill the folder `pages`, replacing what was there."""
    from minillm.tutorials.site import reference

    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(ROOT, pages, ignore=_ignored)
    shutil.copy(HERE / "index.md", pages / "index.md")
    reference.write(pages / "api")


def _ignored(folder: str, names: list[str]) -> set[str]:
    """What is made, hidden, or there already under another name (links)."""
    made = _PRODUCTS if Path(folder) == ROOT else set()
    return {
        name
        for name in names
        if name in made
        or name == "__pycache__"
        or name.startswith(".")
        or name.endswith(".egg-info")
        or (Path(folder) / name).is_symlink()
    }


def sphinx(pages: Path, site: Path) -> int:
    """Build `site` from `pages`, from scratch; the exit status, 1 after a warning."""
    shutil.rmtree(site, ignore_errors=True)
    strict = ["-q", "-W", "--keep-going"]
    doctrees = str(site.with_name(f"{site.name}-doctrees"))
    return build_main(
        [*strict, "-E", "-b", "html", "-c", str(HERE), "-d", doctrees, str(pages), str(site)]
    )


def main() -> int:
    """Into build/, or into a folder outside the repository, named on the command line."""
    build = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    lay_out(build / "pages")
    status = sphinx(build / "pages", build / "site")
    index = build / "site/index.html"
    print("there are broken links or references: see above" if status else f"open {index}")
    return status


if __name__ == "__main__":
    sys.exit(main())
