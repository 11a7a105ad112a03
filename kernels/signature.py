"""Whether the shapes of a call fit its kernel's signature: asked before code that cannot ask runs.

A compiled kernel uses sizes as addresses. What a declaration says of its arguments,

    "x (N, C), weight (C,), bias (C,), eps -> y (N, C), mean (N,), rstd (N,)"

is therefore compared with the arrays of a call: a letter stands for one size throughout, `D/2` is
half of D, `...` any leading sizes (or a whole shape, the same wherever it stands alone); names that
stand together before a shape share it; a name without one may be anything.
"""

import re
from typing import Any, NamedTuple

from minillm.errors import UserError

_ARGUMENT = re.compile(r"\s*(?P<name>\w+)\s*(?:\((?P<shape>[^)]*)\))?[^,(]*(?:,|$)")


class Argument(NamedTuple):
    """An argument as the signature has it; `shape` is None where it may be anything."""

    name: str
    shape: tuple[str, ...] | None


def arguments(signature: str) -> list[Argument]:
    """The arguments of a signature, in their order."""
    found: list[Argument] = []
    waiting = 0  # names that take the next shape
    for match in _ARGUMENT.finditer(signature.partition("->")[0].strip()):
        shape = match["shape"]
        found.append(Argument(match["name"], None))
        waiting += 1
        if shape is not None:
            sizes = tuple(size.strip() for size in shape.split(",") if size.strip())
            for i in range(len(found) - waiting, len(found)):
                found[i] = Argument(found[i].name, sizes)
            waiting = 0
    return found


def check(kernel: str, expected: list[Argument], args: tuple) -> None:
    """Compare the shapes of a call with its signature's.

    Raises:
        UserError: too few or too many arguments, or a shape that does not fit the ones before it.
    """
    if len(args) > len(expected):
        raise UserError(f"{kernel} takes {len(expected)} arguments, not {len(args)}")
    sizes: dict[str, Any] = {}
    for (name, wanted), value in zip(expected, args):
        if wanted is None:
            continue
        shape = getattr(value, "shape", None)
        if shape is None:
            raise UserError(f"{kernel}: {name} must be an array ({', '.join(wanted)})")
        if not _fits(wanted, shape, sizes):
            known = ", ".join(f"{k}={v}" for k, v in sizes.items() if k in " ".join(wanted))
            where = f" with {known}" if known else ""
            raise UserError(f"{kernel}: {name} {shape} must be ({', '.join(wanted)}){where}")


def _fits(wanted: tuple[str, ...], shape: tuple[int, ...], sizes: dict[str, Any]) -> bool:
    if wanted == ("...",):
        return sizes.setdefault("...", shape) == shape
    if wanted[0] == "...":
        wanted = wanted[1:]
        if len(shape) < len(wanted):
            return False
        shape = shape[len(shape) - len(wanted) :]
    if len(shape) != len(wanted):
        return False
    for letter, size in zip(wanted, shape):
        whole, half, _ = letter.partition("/2")
        size *= 2 if half else 1
        if sizes.setdefault(whole, size) != size:
            return False
    return True
