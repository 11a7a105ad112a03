"""What `minillm doctor` looks at, one file a subject. A check takes nothing that it cannot find out
by itself, never raises for what it finds wrong, and never waits longer than a fixed time."""

import shlex
import sys
from dataclasses import dataclass
from typing import Literal

PIP = f"{shlex.quote(sys.executable)} -m pip"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        status: "FAIL" keeps train.py from running as the README says, "warn" costs speed or a
            feature.
        subject: what was looked at, in a word or two.
        what: what was found.
        fix: the command that mends it; never empty unless the status is "ok".
    """

    status: Literal["ok", "warn", "FAIL"]
    subject: str
    what: str
    fix: str = ""
