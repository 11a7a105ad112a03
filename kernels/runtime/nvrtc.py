"""CUDA C++ to machine code: NVRTC and a disk cache that is never stale. Needs no GPU, no driver.

In: a .cu file, the kernels wanted of it as C++ names (`layer_norm_forward<float>`), a GPU's
architecture. Out: a `Cubin`, and in MINILLM_CACHE/cubin a copy under a name that is a hash of all
that went into it: source, headers, flags, NVRTC's version.
"""

import functools
import hashlib
import json
import os
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from minillm import env
from minillm.errors import UserError

KERNELS = Path(__file__).resolve().parents[1]
INCLUDE = KERNELS / "runtime" / "include"

# IEEE arithmetic but for fused multiply-adds, as NVRTC does without flags: said aloud, so that a
# kernel's numbers do not hang on a default. Functions state __device__ themselves, and includes are
# looked up in INCLUDE alone, never in the folder where Python happens to run.
FLAGS = (
    "--std=c++17",
    "--fmad=true",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--generate-line-info",
    "--no-source-include",
    "--diag-suppress=177",  # "never referenced": constants that only the host reads
)
_INCLUDED = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]', re.MULTILINE)
_LOG_LINES = 40


class Cubin(NamedTuple):
    """Machine code of one file for one architecture.

    Attributes:
        image: an ELF file, as cuModuleLoadData and cuobjdump take it.
        names: each expression's name in the image.
    """

    image: bytes
    names: dict[str, str]


class CompileError(UserError):
    """A .cu file that NVRTC refuses, in the compiler's words."""


def compile(path: Path, expressions: tuple[str, ...], arch: str) -> Cubin:
    """Kernels of a .cu file as machine code; from the disk cache where nothing has changed.

    Args:
        path: the file; messages name it relative to kernels/.
        expressions: template instances to compile, as `layer_norm_forward<float>`.
        arch: a real architecture: "sm_80", "sm_90a".

    Raises:
        CompileError: with the file, line and words of the compiler.
        UserError: NVRTC is not installed, or does not know `arch`.
    """
    path = Path(path).resolve()
    source = path.read_bytes()
    name = str(path.relative_to(KERNELS) if path.is_relative_to(KERNELS) else path.name)
    expressions = tuple(sorted(set(expressions)))
    key = [name, arch, version(), *FLAGS, *expressions, *_digests(source)]
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
    kept = env.CACHE / "cubin" / arch / f"{path.stem}-{digest}.cubin"
    cubin = _read(kept, expressions)
    if cubin is None:
        env.debug(1, f"nvrtc {name}: {', '.join(expressions)} for {arch}")
        cubin = _compile(name, source, expressions, arch)
        _keep(kept, cubin)
    return cubin


def version() -> str:
    """NVRTC's version: "13.0.88" if it came from pip, else what it tells, "13.0".

    Raises:
        UserError: NVRTC is not installed.
    """
    nvrtc = _nvrtc()
    major, minor = _call(nvrtc.nvrtcVersion)
    for distribution in ("nvidia-cuda-nvrtc", f"nvidia-cuda-nvrtc-cu{major}"):
        try:
            found = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        if found.startswith(f"{major}.{minor}."):
            return found
    return f"{major}.{minor}"


def architectures() -> list[int]:
    """Compute capabilities that NVRTC compiles for, without the point: 80, 90, 100."""
    return list(_call(_nvrtc().nvrtcGetSupportedArchs)[0])


def arch_of_device() -> str:
    """Architecture of CuPy's current device: "sm_80"; "sm_90a" from 9.0 on, where wgmma, TMA and
    their successors belong to the exact model."""
    capability = sys.modules["cupy"].cuda.Device().compute_capability
    return f"sm_{capability}a" if int(capability) >= 90 else f"sm_{capability}"


@functools.cache
def _nvrtc() -> ModuleType:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # loads the library
    except (ImportError, RuntimeError) as error:
        said = str(error).strip().partition("\n")[0]
        raise UserError(
            f"CUDA C++ kernels need NVRTC ({said}): pip install 'minillm[cuda13]' (or cuda12;"
            " 'minillm[toolkit]' compiles without a GPU)"
        ) from None
    return nvrtc


def _call(function: Any, *args: Any) -> tuple:
    """The results of an NVRTC function without its status."""
    status, *results = function(*args)
    if status:
        raise RuntimeError(f"{function.__name__}: {status.name}")
    return tuple(results)


def _digests(source: bytes) -> list[str]:
    """Hashes of a source and of every file of INCLUDE that it includes, however deep."""
    texts, waiting = {"": source}, [source]
    while waiting:
        for found in _INCLUDED.findall(waiting.pop()):
            header = found.decode(errors="replace")
            if header not in texts and (INCLUDE / header).is_file():
                texts[header] = (INCLUDE / header).read_bytes()
                waiting.append(texts[header])
    return [f"{name} {hashlib.sha256(text).hexdigest()}" for name, text in sorted(texts.items())]


def _compile(name: str, source: bytes, expressions: tuple[str, ...], arch: str) -> Cubin:
    nvrtc = _nvrtc()
    flags = [flag.encode() for flag in (f"--gpu-architecture={arch}", f"-I{INCLUDE}", *FLAGS)]
    (program,) = _call(nvrtc.nvrtcCreateProgram, source, name.encode(), 0, [], [])
    try:
        for expression in expressions:
            _call(nvrtc.nvrtcAddNameExpression, program, expression.encode())
        (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
        log = _bytes(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        log = _readable(log.rstrip(b"\0").decode(errors="replace"), name)
        if "invalid value for --gpu-architecture" in log:
            known = ", ".join(f"sm_{number}" for number in architectures())
            raise UserError(f"NVRTC {version()} does not compile for {arch}, only for {known}")
        if status:
            what = log or status.name
            raise CompileError(f"{name} does not compile for {arch}, NVRTC {version()}:\n{what}")
        if log:
            env.debug(1, log)
        image = _bytes(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        names = {}
        for expression in expressions:
            (lowered,) = _call(nvrtc.nvrtcGetLoweredName, program, expression.encode())
            names[expression] = lowered.decode()
        return Cubin(image, names)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _bytes(size: Any, get: Any, program: Any) -> bytes:
    """What NVRTC writes into a buffer of the size that it first asks for."""
    (length,) = _call(size, program)
    buffer = bytes(length)  # zeros, so that a lone end mark lands on Python's shared b"\0" unseen
    _call(get, program, buffer)
    return buffer


def _readable(log: str, name: str) -> str:
    """The log with the house's names for files, and no longer than a screen."""
    # Names are looked up in a file of NVRTC's own, which is worth reading only if all else is well.
    blocks = log.replace(f"{KERNELS}{os.sep}", "").strip().split("\n\n")
    others = [block for block in blocks if "__nv_name_map(" not in block]
    if any("error:" in block for block in others):
        blocks = others
    lines = re.sub(r"__nv_name_map\(\d+\)", f"{name}, a kernel's name", "\n\n".join(blocks))
    lines = lines.splitlines()
    more = len(lines) - _LOG_LINES
    return "\n".join([*lines[:_LOG_LINES], *([f"... {more} more lines"] if more > 0 else [])])


# A kept file is the image, a newline, and JSON with the names and a hash of both: cuobjdump reads
# it as it is, and what is cut short or damaged does not pass.
def _keep(kept: Path, cubin: Cubin) -> None:
    """Write `cubin` for the next process, whole or not at all."""
    names = json.dumps(cubin.names, sort_keys=True)
    digest = hashlib.sha256(cubin.image + names.encode()).hexdigest()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=kept.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(cubin.image + b"\n" + json.dumps([names, digest]).encode())
            os.replace(temporary, kept)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        env.say_once(f"compiled CUDA kernels are not kept: {error}")


def _read(kept: Path, expressions: tuple[str, ...]) -> Cubin | None:
    """What `_keep` wrote; None if there is nothing, or it is damaged."""
    try:
        image, _, trailer = kept.read_bytes().rpartition(b"\n")
    except OSError:
        return None
    try:
        names, digest = json.loads(trailer)
        whole = hashlib.sha256(image + names.encode()).hexdigest() == digest
        found = json.loads(names)
    except (ValueError, TypeError, AttributeError):
        whole, found = False, {}
    if whole and tuple(sorted(found)) == expressions:
        return Cubin(image, found)
    env.say_once(f"{kept} is damaged: compiled again")
    return None
