"""A program on ranks whose end is watched: what it reports and when, and what it leaves behind.

In: mpirun, a number of ranks, a Python program. Out: `Launched`, once all has ended. For
`minillm failure-lab`.
"""

import os
import re
import subprocess
import sys
import threading
import time
import uuid

from minillm.cli.checks.process import kill, kill_marked, marked, user_environment
from minillm.cli.faults import train_script

_LIMIT = 240.0  # seconds: compiling the first time included
_MARK = "MINILLM_FAILURE_LAB"  # inherited by all: mpirun's children leave its process group
# How lines begin that mpirun adds of its own.
_LAUNCHERS = ("=", "YOUR APPLICATION", "This typically", "Please see", "Abort(", "[mpi")


class Launched:
    """A program under mpirun, from its start to its end; its stderr is shown line by line. Should
    something end us meanwhile, it ends too.

    Attributes:
        code: mpirun's exit code.
        reported: when the first line came that `pattern` matches, `time.time()` seconds, or None.
        wrong: a report of the watchdog's that `pattern` does not match, or nothing.
        ended: when mpirun ended.
        problems: took too long, left processes behind.
    """

    def __init__(self, mpirun: str, ranks: int, program: list, pattern: re.Pattern[str] | None):
        mark = uuid.uuid4().hex
        self.reported: float | None = None
        self.wrong = ""
        self.problems: list[str] = []
        root = str(train_script().parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [str(word) for word in (mpirun, "-n", ranks, sys.executable, *program)], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**user_environment(), "PYTHONPATH": path, _MARK: mark}, start_new_session=True,
        )  # fmt: skip
        late = threading.Timer(_LIMIT, self._too_long, (mark,))
        late.start()
        try:
            self._listen(process, pattern)
            deadline = time.time() + 3
            while (left := marked(mark)) and time.time() < deadline:
                time.sleep(0.05)
            if left:
                self.problems.append(f"{len(left)} processes left")
        finally:  # after Ctrl-C, too
            late.cancel()
            kill_marked(mark)

    def _listen(self, process: subprocess.Popen, pattern: re.Pattern[str] | None) -> None:
        """Until it ends."""
        assert process.stderr is not None
        for line in process.stderr:
            if pattern is not None and pattern.search(line):
                self.reported = self.reported or time.time()
            elif line.startswith("minillm: watchdog: ") and " is slow: " not in line:
                self.wrong = self.wrong or line.strip().removeprefix("minillm: watchdog: ")
            if not line.startswith(_LAUNCHERS) and line.strip():
                print(f"  | {line.rstrip()}", flush=True)
        self.code = process.wait()
        self.ended = time.time()

    def _too_long(self, mark: str) -> None:
        self.problems.append(f"took more than {_LIMIT:.0f} s")
        kill(marked(mark))
