"""From a .cu file to a shared library of CPU code: g++ with the emulator's header in front.

Two things are rewritten, each on its own line so that line numbers stay: `__shared__` declarations,
which become references into the block's shared memory, and `extern __shared__` arrays. The rest is
compiled as it stands, with `-fsanitize=thread` for the announcement of every load and store to
memory.cpp (no sanitizer library is linked). Libraries are kept in the cache by all that made them.
"""

import atexit
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from minillm import env
from minillm.errors import UserError

_HERE = Path(__file__).parent
INCLUDE = _HERE.parent / "include"
_FLAGS = ["-std=c++17", "-O2", "-g1", "-gdwarf-4", "-fPIC", "-fno-exceptions", "-fno-rtti"]
# What would merge or hide single accesses, and what CUDA promises that C++ does not.
_KERNEL_FLAGS = [
    *_FLAGS, "-fsanitize=thread", "-fno-tree-vectorize", "-fno-tree-slp-vectorize",
    "-fno-tree-loop-distribute-patterns", "-fno-strict-aliasing", "-fwrapv",
    "-fno-optimize-sibling-calls",  # a call's return address says where it stands
    "--param=tsan-instrument-func-entry-exit=0",
    "-Werror=frame-larger-than=49152",  # of a fiber's stack of 64 KB
]  # fmt: skip
_SHARED = re.compile(
    r"(?P<extern>extern\s+)?__shared__\s+(?:(?:__align__|alignas)\(\s*(?P<align>\d+)\s*\)\s*)?"
    r"(?P<type>[\w:]+(?:\s+(?!\w+\s*[\[;,])\w+)*(?:<[^;<>]*>)?)\s+(?P<names>\w[^;()=]*);"
)
_HASH = 32  # bytes
_DECLARED = re.compile(r"\s*(\w+)\s*((?:\[[^\]]*\]\s*)*)$")


class CompileError(UserError):
    """g++ refused a kernel; the message has file, line and its words."""


@functools.cache
def compiler() -> tuple[str, ...]:
    """GNU g++: its path, and flags if CXX has some.

    Raises:
        UserError: there is none.
    """
    name, *flags = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    path = shutil.which(name)
    if path is None:
        raise UserError(
            "the CUDA emulator needs a C++ compiler: install g++, or name another with CXX"
        )
    asked = [path, *flags, "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(asked, capture_output=True, text=True).stdout
    if "__GNUC__" not in macros or "__clang__" in macros:
        raise UserError(
            f"the CUDA emulator needs GNU g++, which {shlex.join([path, *flags])} is not: install"
            " it, or name it with CXX"
        )
    return path, *flags


def _declarations(match: re.Match) -> str:
    kind = match["type"]
    out = []
    for part in re.split(r",(?![^\[]*\])", match["names"]):
        found = _DECLARED.match(part)
        if found is None:
            raise CompileError(f"emulator: cannot read the declaration `{match[0]}`")
        name, sizes = found[1], "".join(found[2].split("\n"))
        if match["extern"]:
            out.append(f"{kind}* const {name} = reinterpret_cast<{kind}*>(emu_dynamic_shared());")
        else:
            out.append(
                f"static char {name}_key; auto& {name} ="
                f' emu::shared<{kind}{sizes}>(&{name}_key, {match["align"] or 1}, "{name}",'
                " __LINE__);"
            )
    return " ".join(out)


def rewrite(source: str) -> str:
    """CUDA C++ with its shared memory in the emulator's words; comments are left alone.

    Raises:
        CompileError: a `__shared__` that is not a plain declaration.
    """
    lines, depth = [], 0  # of braces: outside all of them, no thread is there to ask for memory
    for number, line in enumerate(source.splitlines(), 1):
        code, slashes, comment = line.partition("//")
        if "__shared__" in code and depth == 0 and "{" not in code.partition("__shared__")[0]:
            raise CompileError(
                f"emulator: line {number}: declare it in the function that uses it: {line.strip()}"
            )
        depth += code.count("{") - code.count("}")
        code = _SHARED.sub(_declarations, code)
        if "__shared__" in code:
            raise CompileError(
                f"emulator: line {number}: write `__shared__ TYPE NAME[SIZE];` on one line, without"
                f" an initial value: {line.strip()}"
            )
        lines.append(code + slashes + comment)
    return "\n".join(lines) + "\n"


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:20]


@functools.cache
def _headers() -> str:
    """Digest of everything a kernel may include."""
    files = sorted([*INCLUDE.glob("*.cuh"), *_HERE.glob("*.h"), *_HERE.glob("*.cpp")])
    return _digest(*(p.read_text(encoding="utf-8") for p in files))


def _whole(target: Path) -> bool:
    """Whether a library, which ends in a hash of the rest, is as it was made; a folder, there."""
    if target.is_dir():
        return True
    try:
        content = target.read_bytes()
    except OSError:
        return False
    if content[-_HASH:] == _hash(content[:-_HASH]):
        return True
    env.say_once(f"{target} is damaged: compiled again")
    return False


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _install(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made by `make(temporary path)` if it is not there; never seen half-written."""
    if _whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=target.parent)
    except OSError as error:
        env.say_once(f"what the emulator compiles is not kept: {error}")
        target = _unkept() / target.name
        temporary = tempfile.TemporaryDirectory(dir=target.parent)
    with temporary as folder:
        made = Path(folder) / target.name
        make(made)
        if made.is_file():
            with made.open("r+b") as file:
                content = file.read()
                file.write(_hash(content))
        try:
            os.replace(made, target)
        except OSError:  # a folder that another process has put there meanwhile
            if not target.is_dir():
                raise
    return target


@functools.cache
def _unkept() -> Path:
    """A folder for this process alone."""
    folder = Path(tempfile.mkdtemp(prefix="minillm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _run(command: list, what: str) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if ": error:" in line]
        words = "\n  ".join(errors[:5] or done.stderr.splitlines()[-5:])
        raise CompileError(f"{what} does not compile for the emulator:\n  {words}")


def _folder() -> Path:
    return env.CACHE / "emulator" / _digest(_headers(), *compiler(), *_KERNEL_FLAGS)


@functools.cache
def runtime_library() -> Path:
    """The runtime (scheduler, shadow memory, counts), built at its first use in about 2 s."""

    def make(to: Path) -> None:
        sources = sorted(_HERE.glob("*.cpp"))
        # Kernels ask for it by this name, and get the one that is loaded, wherever the cache moved.
        name = f"-Wl,-soname,minillm-emulator-{_folder().name}.so"
        _run([*compiler(), *_FLAGS, "-shared", *sources, name, "-o", to, "-ldl"], "the runtime")

    return _install(_folder() / "runtime.so", make)


@functools.cache
def _include_folder() -> Path:
    """The house headers, rewritten like the kernels that include them."""

    def make(to: Path) -> None:
        to.mkdir()
        for path in INCLUDE.glob("*.cuh"):
            text = rewrite(path.read_text(encoding="utf-8"))
            (to / path.name).write_text(f'#line 1 "{path.name}"\n{text}', encoding="utf-8")

    return _install(_folder() / "include", make)


def kernel_library(path: Path, expressions: tuple[str, ...]) -> Path:
    """The library of the kernels `expressions`, e.g. ("layer_norm_forward<float>",), of a file.

    It exports `emu_entry_0`, `emu_entry_1`, ... in their order, each an emu_entry (runtime.h).

    Raises:
        CompileError: g++ refuses the file. UserError: there is no g++.
    """
    source = path.read_text(encoding="utf-8")
    name = f"{path.parent.name}/{path.name}"
    text = f'#include "cuda.h"\n#line 1 "{name}"\n{rewrite(source)}'
    for i, expression in enumerate(expressions):
        text += f'extern "C" void emu_entry_{i}(void** a) {{ emu::call(&{expression}, a); }}\n'
    key = f"{path.parent.name}-{path.stem}-{_digest(name, text)}"

    def make(to: Path) -> None:
        code, unlinked = to.with_suffix(".cpp"), to.with_suffix(".o")
        code.write_text(text, encoding="utf-8")
        include = ["-I", _HERE, "-I", _include_folder()]
        _run([*compiler(), *_KERNEL_FLAGS, *include, "-c", code, "-o", unlinked], name)
        _run([*compiler(), "-shared", unlinked, runtime_library(), "-o", to], name)

    return _install(_folder() / f"{key}.so", make)


def source_lines(library: Path, addresses: list[int]) -> list[str]:
    """`file:line` of return addresses in a library, from where it was inlined to where it stands.

    Args:
        addresses: offsets in the library; the call before each is meant.
    """
    tool = shutil.which("addr2line")
    if tool is None or not addresses:
        return ["(no addr2line)"] * len(addresses)
    given = [hex(address - 1) for address in addresses]
    done = subprocess.run([tool, "-i", "-a", "-e", library, *given], capture_output=True, text=True)
    blocks = re.split(r"^0x[0-9a-f]+\n", done.stdout, flags=re.M)[1:]
    return [_chain(block) for block in blocks]


def _chain(block: str) -> str:
    """The lines of one address that are ours, innermost first: `a.cuh:12, called at op/v1.cu:9`."""
    kept = []
    for line in block.splitlines():
        file, _, number = line.partition(" (discriminator")[0].rpartition(":")
        if file.endswith((".cu", ".cuh")):
            short = "/".join(Path(file).parts[-2:]) if file.endswith(".cu") else Path(file).name
            kept.append(f"{short}:{number}")
    return ", called at ".join(kept) or "(unknown line)"
