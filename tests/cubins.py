"""Whether the machine code of a .cu file is what the file says of it.

A .cu file states what must hold, in comment lines of their own:

    // asserts: no spills, registers <= 64
    // asserts layer_norm_forward: 128-bit loads, 128-bit stores
    // asserts layer_norm_forward<bf16>: registers <= 40

of all its kernels in all dtypes, of one kernel, or of one instance. 128 bits are asked of float and
bf16: those are the dtypes that must be fast.

Unsaid, it must be possible to launch every kernel: a multiprocessor has the registers for a block
of as many threads as the kernel may have (its __launch_bounds__, else 1024), and the block has no
more static shared memory than CUDA allows, which the compiler does not check for sm_90a.
"""

import functools
import re

from minillm.errors import UserError
from minillm.kernels.runtime import nvrtc
from minillm.kernels.runtime.cubins import Usage, inspect
from minillm.kernels.runtime.cuda import DTYPES, Program

_STATED = re.compile(r"^//[ \t]*asserts(?:[ \t]+(?P<whose>[^:\n]+?))?[ \t]*:(?P<what>.*)$", re.M)
_REGISTERS = re.compile(r"registers <= (\d+)")
_WIDE = {
    "128-bit loads": re.compile(r"(LDG|LDGSTS)\.E(\.\w+)*\.128\b"),
    "128-bit stores": re.compile(r"STG\.E(\.\w+)*\.128\b"),
}
# The warps of a block are shared out over four parts of a multiprocessor, with as many registers
# each, which a thread gets by the 8.
_PARTS, _REGISTERS_OF_PART = 4, 65536 // 4
_STATIC_SHARED = 48 << 10  # bytes


@functools.cache
def has_nvrtc() -> bool:
    """Whether .cu files can be compiled for a GPU here."""
    try:
        return bool(nvrtc.version())
    except UserError:
        return False


def compile_all(program: Program, arch: str) -> nvrtc.Cubin:
    """Every kernel of a file in every dtype, in one compilation."""
    expressions = [e for dtype in DTYPES for e in program.expressions(dtype)]
    return nvrtc.compile(program.path, tuple(expressions), arch)


def complaints(program: Program, cubin: nvrtc.Cubin) -> list[str]:
    """What the file of `program` asserts and its `cubin` does not keep, and why a kernel could not
    be launched, a line each.

    Raises:
        ValueError: the file asserts something that cannot be understood.
    """
    stated, usages = statements(program), inspect(cubin.image)
    broken = []
    for expression, name in cubin.names.items():
        threads = program.kernels[expression.partition("<")[0]].most_threads
        broken += [f"{expression}: {why}" for why in _refusals(usages[name], threads)]
    for whose, what in stated:
        for expression, name in cubin.names.items():
            if whose in ("", expression, expression.partition("<")[0]):
                wrong = _complaint(what, expression, usages[name])
                broken += [f"{expression}: asserts {what}, but {wrong}"] if wrong else []
    return broken


def statements(program: Program) -> list[tuple[str, str]]:
    """What a file asserts: (kernel, instance or "" for all, what).

    Raises:
        ValueError: an assertion, or a name in it, that is not known: it would never fail.
    """
    known = {e for dtype in DTYPES for e in program.expressions(dtype)} | {"", *program.kernels}
    found = []
    for line in _STATED.finditer(program.path.read_text(encoding="utf-8")):
        whose = line["whose"] or ""
        for what in map(str.strip, line["what"].split(",")):
            understood = what == "no spills" or what in _WIDE or _REGISTERS.fullmatch(what)
            if not understood or whose not in known:
                raise ValueError(f"{program.path.name}: cannot understand `{line[0]}`")
            found.append((whose, what))
    return found


def _refusals(usage: Usage, threads: int) -> list[str]:
    """Why CUDA would not launch a block of `threads` threads."""
    warps, registers = -(-threads // 32), -(-usage.registers // 8) * 8
    wrong = []
    if -(-warps // _PARTS) * 32 * registers > _REGISTERS_OF_PART:
        wrong.append(f"{usage.registers} registers are too many for a block of {threads} threads")
    if usage.shared > _STATIC_SHARED:
        wrong.append(f"{usage.shared} bytes of static shared memory, {_STATIC_SHARED} are allowed")
    return wrong


def _complaint(what: str, expression: str, usage: Usage) -> str:
    """What is wrong with `usage`; empty if it is as asserted."""
    if what == "no spills":
        if usage.spills or usage.stack:
            return f"has {usage.spills} local loads and stores, {usage.stack} bytes of stack"
    elif what in _WIDE:
        if "<double>" not in expression and not any(map(_WIDE[what].match, usage.opcodes)):
            kind = "LDG" if "loads" in what else "STG"
            have = sorted({o for o in usage.opcodes if o.startswith(kind)})
            return f"has only {', '.join(have) or 'none at all'}"
    elif usage.registers > (limit := int(_REGISTERS.fullmatch(what)[1])):
        return f"uses {usage.registers}, {usage.registers - limit} more"
    return ""
