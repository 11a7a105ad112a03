"""The learner's own folder: work files, which exercises were right when last checked, hints taken.

learn/                  here, around us, or wherever MINILLM_LEARN says
  progress.json
  ch05/layer_norm.py    laid out by `start`, never overwritten
  ch05/layer_norm.py.1  what `reset` found there
"""

import json
import os
from pathlib import Path

from minillm.errors import UserError
from minillm.learn.chapters import Chapter
from minillm.learn.judge import Verdict, judge


class Desk:
    """One learner's folder.

    Args:
        folder: where it is; made when something is first laid out.

    Raises:
        UserError: its progress.json cannot be read.

    Methods that write raise OSError where that is not allowed.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or _folder()
        self._file = self.folder / "progress.json"
        self._progress: dict[str, dict] = {}
        if self._file.exists():
            try:
                self._progress = json.loads(self._file.read_text(encoding="utf-8"))
                for kept in self._progress.values():
                    list(kept.get("passed", [])), dict(kept.get("hints", {}))
            except (OSError, ValueError, TypeError, AttributeError):
                raise UserError(
                    f"{self._file} is damaged: delete it (your work files stay) and check again"
                ) from None

    def place(self, of: Chapter) -> Path:
        """Where the chapter's work files are, or would be."""
        return self.folder / of.name

    def started(self, of: Chapter) -> bool:
        """Whether the chapter has been laid out."""
        return self.place(of).is_dir()

    def start(self, of: Chapter) -> list[Path]:
        """Lay the chapter's files out; which.

        Raises:
            UserError: it has been started before.
        """
        if self.started(of):
            raise UserError(
                f"{of.name} is started already, in {self.place(of)}; to begin again:"
                f" minillm learn reset {of.name} (your files are kept)"
            )
        return self._write(of)

    def reset(self, of: Chapter) -> list[tuple[Path, Path]]:
        """Lay the files out again; each that had been changed, and what it is called now."""
        kept = []
        for file, text in of.starts().items():
            path = self.place(of) / file
            if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
                number = 1
                while (old := path.with_name(f"{file}.{number}")).exists():
                    number += 1
                path.rename(old)
                kept.append((path, old))
        self._write(of)
        self._note(of, "passed", [])
        self._note(of, "hints", {})
        return kept

    def check(self, of: Chapter, number: int) -> Verdict:
        """Judge one exercise, and remember the verdict.

        Raises:
            UserError: the chapter has not been started.
        """
        if not self.started(of):
            here = self.folder.absolute()
            raise UserError(f"{of.name} is not started in {here}: minillm learn start {of.name}")
        verdict = judge(of, self.place(of), number)
        if verdict.state != "not checked":
            passed = set(self.passed(of)) - {number} | ({number} if verdict.passed else set())
            self._note(of, "passed", sorted(passed))
        return verdict

    def passed(self, of: Chapter) -> list[int]:
        """Numbers of the exercises that were right when last checked."""
        passed = self._progress.get(of.name, {}).get("passed", [])
        return [number for number in range(1, len(of.exercises) + 1) if number in passed]

    def hints(self, of: Chapter, number: int) -> tuple[str, ...]:
        """One hint more than the last time, up to all of them."""
        taken = dict(self._progress.get(of.name, {}).get("hints", {}))
        count = min(taken.get(str(number), 0) + 1, len(of.exercises[number - 1].hints))
        self._note(of, "hints", taken | {str(number): count})
        return of.exercises[number - 1].hints[:count]

    def _write(self, of: Chapter) -> list[Path]:
        place, paths = self.place(of), []
        place.mkdir(parents=True, exist_ok=True)
        for file, text in of.starts().items():
            paths.append(place / file)
            paths[-1].write_text(text, encoding="utf-8")
        return paths

    def _note(self, of: Chapter, key: str, value: list | dict) -> None:
        """Into progress.json, which is whole at any moment."""
        self._progress.setdefault(of.name, {})[key] = value
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(self._progress, indent=1), encoding="utf-8")
        new.replace(self._file)


def _folder() -> Path:
    """Where MINILLM_LEARN says; else, to one who stands in learn/ch05, that learn/; else ./learn"""
    if named := os.environ.get("MINILLM_LEARN"):
        return Path(named)
    here = Path.cwd()
    around = (p for p in (here, *here.parents) if p.name == "learn" and any(p.glob("ch[0-9][0-9]")))
    return next(around, Path("learn"))
