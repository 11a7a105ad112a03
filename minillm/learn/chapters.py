"""The chapters in `tutorials/`: titles from their texts, exercises from beside them."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from minillm.errors import UserError
from minillm.learn import holes
from minillm.learn.exercise import Exercise, Plug, Wrong

TUTORIALS = Path(__file__).parents[1] / "tutorials"  # a link to the folder at the top level
_FOLDER = re.compile(r"ch(\d\d)_\w+")


@dataclass(frozen=True)
class Chapter:
    """One chapter.

    Attributes:
        folder: tutorials/ch05_layer_norm.
        title: "Layer norm and softmax".
        minutes: a learner's time.
        files: names of its work files; checks are given the first .py, as a module.
        exercises, plugs: as declared in its exercises.py.
    """

    folder: Path
    title: str
    minutes: int
    files: tuple[str, ...]
    exercises: tuple[Exercise, ...]
    plugs: tuple[Plug, ...]

    @property
    def name(self) -> str:
        """ch05."""
        return self.folder.name[:4]

    @property
    def number(self) -> int:
        """5."""
        return int(self.folder.name[2:4])

    def source(self, file: str) -> str:
        """A work file with its holes marked and filled."""
        return (self.folder / file).read_text(encoding="utf-8")

    def starts(self) -> dict[str, str]:
        """The work files as a learner gets them."""
        return {file: holes.start(self.source(file), self.number) for file in self.files}

    def solutions(self) -> dict[str, str]:
        """The work files with every hole filled."""
        return {file: holes.solution(self.source(file)) for file in self.files}

    def wrongly(self, wrong: Wrong) -> dict[str, str]:
        """The solution with a mistake in it.

        Raises:
            ValueError: the text to replace is not in the file exactly once.
        """
        files = self.solutions()
        file = wrong.file or self.files[0]
        if (times := files[file].count(wrong.find)) != 1:
            raise ValueError(f"{self.name}: {file} has {wrong.find!r} {times} times, not once")
        return files | {file: files[file].replace(wrong.find, wrong.replace)}


def folders() -> dict[str, Path]:
    """Where each chapter is, by name, "ch05", in order.

    Raises:
        UserError: this installation has no tutorials.
    """
    found = [f for f in sorted(TUTORIALS.glob("ch*")) if (f / "exercises.py").exists()]
    if not found:
        raise UserError("no tutorials here: install from a clone of the repository")
    return {folder.name[:4]: folder for folder in found if _FOLDER.fullmatch(folder.name)}


def chapters() -> dict[str, Chapter]:
    """All chapters by name, "ch05", in order."""
    return {name: read(folder) for name, folder in folders().items()}


def chapter(word: str) -> Chapter:
    """The chapter called "ch05", "05", "5" or "ch05_layer_norm".

    Raises:
        UserError: there is none.
    """
    match = re.fullmatch(r"(?:ch)?(\d{1,2})(?:_\w*)?/?", word)
    name = f"ch{int(match[1]):02d}" if match else ""
    there = folders()
    if name not in there:
        raise UserError(f"no chapter {word!r}: choose one of {', '.join(there)}")
    return read(there[name])


def read(folder: Path) -> Chapter:
    """The chapter in a folder, from its README.md and its exercises.py.

    Raises:
        ValueError: the text does not begin as a chapter's does.
    """
    text = (folder / "README.md").read_text(encoding="utf-8")
    title = re.match(r"# \d\d · (.+)\n", text)
    minutes = re.search(r"^\*(\d+) minutes\.", text, re.M)
    if title is None or minutes is None:
        raise ValueError(f"{folder}/README.md: begin with `# NN · TITLE` and `*NN minutes.`")
    spec = importlib.util.spec_from_file_location(
        f"minillm.tutorials.{folder.name}.exercises", folder / "exercises.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plugs = tuple(getattr(module, "PLUGS", ()))
    return Chapter(
        folder, title[1], int(minutes[1]), tuple(module.FILES), tuple(module.EXERCISES), plugs
    )
