"""What rank 0 shows while it trains: a bar with ETA on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any


class Progress:
    """Progress over `steps`, from step `start`; a silent stand-in on every rank but 0."""

    def __init__(self, steps: int, start: int = 0, show: bool = True):
        self.steps, self.start, self.show = steps, start, show
        self.began = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self.show and sys.stdout.isatty():
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar
            from rich.text import Text

            latest = self._latest = Text(no_wrap=True, overflow="ellipsis")

            class TwoLines(Bar):
                """The bar, and the latest metrics below it: side by side they need 120 columns."""

                def get_renderables(self) -> Iterator[Any]:
                    yield self.make_tasks_table(self.tasks)
                    yield latest

            self._bar = TwoLines(
                TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=30),
                TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(),
            )  # fmt: skip
            self._task = self._bar.add_task("", total=self.steps, completed=self.start)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def metrics(self, step: int, text: str) -> None:
        """Show the latest metrics, and without a bar how far the run is and when it ends."""
        if self._bar is not None:
            self._latest.plain = text
            self._bar.update(self._task, completed=step)
        elif self.show:
            done = max(step - self.start, 1)
            remaining = (time.monotonic() - self.began) / done * (self.steps - step)
            print(f"step {step:>6}/{self.steps}  {text}  eta {clock(remaining)}", flush=True)

    def say(self, text: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self.show:
            print(text, flush=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
