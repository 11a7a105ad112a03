"""`minillm emulate`: run a CUDA kernel's steps on the CPU and show what each would move on a GPU.

Every access is checked for races and bounds, the result is compared with the reference, and the
sectors and bank conflicts of each source line are counted. No GPU is needed; no time is predicted.
"""

import ast
from dataclasses import dataclass
from typing import Literal

from minillm.errors import UserError
from minillm.kernels import registry
from minillm.kernels.instrument import KernelCheckError, compare, outputs
from minillm.kernels.registry import Kernel
from minillm.kernels.runtime import emulator, nvrtc
from minillm.kernels.runtime.cubins import has_tools, inspect
from minillm.kernels.runtime.cuda import program
from minillm.kernels.runtime.emulator import report

_ARCH = "sm_90a"


@dataclass(frozen=True)
class Options:
    """Count what the CUDA steps of a kernel move, line by line, on any CPU."""

    step: str = ""
    """One implementation, v1_naive say; empty: all of them, one after the other."""
    shape: str = ""
    """Sizes as the kernel's declaration names them: "N=256, C=768". Empty: one of its tests'."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Element type T."""
    order: Literal["forward", "reverse", "random"] = "forward"
    """In which order a block's threads run."""
    seed: int = 0
    """Of the inputs and of the random order."""
    lines: bool = False
    """A row for each source line, not only the totals."""


def main(argv: list[str]) -> int:
    """Parse `KERNEL [options]` and print a table a step."""
    import tyro

    kernels = registry.declared()
    with_cuda = {name: k for name, k in kernels.items() if k.cuda_steps()}
    if not argv or argv[0].startswith("-"):
        tyro.cli(Options, args=argv, prog="minillm emulate KERNEL", use_underscores=True)
        raise UserError(f"name a kernel: {', '.join(with_cuda)}")
    name, options = (
        argv[0],
        tyro.cli(Options, args=argv[1:], prog=f"minillm emulate {argv[0]}", use_underscores=True),
    )
    chosen = [k for k in with_cuda.values() if name in (k.name, k.op)]
    if not chosen:
        raise UserError(f"no CUDA kernel is called {name!r}: choose {', '.join(with_cuda)}")
    emulator.runtime()  # no g++: said here, before anything is printed
    for kernel in chosen:
        _emulate(kernel, options)
    return 0


def _emulate(kernel: Kernel, options: Options) -> None:
    shape = _shape(kernel, options.shape)
    words = ", ".join(f"{key}={value}" for key, value in shape.items())
    print(f"{kernel.name}: {kernel.signature}\n{words}, {options.dtype}")
    steps = kernel.cuda_steps()
    if options.step and options.step not in steps:
        raise UserError(f"{kernel.name} has no step {options.step!r}: it has {', '.join(steps)}")
    for step in [options.step] if options.step else steps:
        args = kernel.drawn(options.dtype, options.seed, **shape)
        want = outputs(kernel, kernel.implementation("reference")(*args), args)
        args = kernel.drawn(options.dtype, options.seed, **shape)  # some are changed in place
        try:
            with emulator.options(options.order, options.seed), emulator.profiled() as log:
                result = kernel.implementation(step)(*args)
            compare(kernel, step, outputs(kernel, result, args), want)
        except (emulator.KernelFault, KernelCheckError) as error:
            raise UserError(str(error)) from None
        print(f"\n{step}: as the reference, no race, nothing out of bounds")
        print(report.table(log, options.lines))
        print(_machine_code(kernel, step, options.dtype, {launched.kernel for launched in log}))
    print()


def _machine_code(kernel: Kernel, step: str, dtype: str, launched: set[str]) -> str:
    """Registers and memory of a step's launched kernels on a Hopper, or why they are not known."""
    source = program(kernel.folder / f"{step}.cu")
    try:
        cubin = nvrtc.compile(source.path, source.expressions(dtype), _ARCH)
    except nvrtc.CompileError:
        raise
    except UserError as error:
        return f"machine code: not shown; {error}"
    if not has_tools():
        return "machine code: not shown; cuobjdump and nvdisasm: pip install 'minillm[toolkit]'"
    usages = inspect(cubin.image)
    lines = [
        f"  {expression}: {u.registers} registers a thread, {u.spills} spills,"
        f" {u.shared} bytes of static shared memory, {len(u.opcodes)} instructions"
        for expression, name in cubin.names.items()
        for u in [usages[name]]
        if expression in launched
    ]
    return "\n".join([f"machine code for {_ARCH}", *lines])


def _shape(kernel: Kernel, given: str) -> dict:
    """The declaration's own shape with most elements to move, changed by what was given."""
    shape = dict(max(kernel.shapes, key=lambda s: kernel.cost(*kernel.drawn("float32", **s)).bytes))
    try:
        call = ast.parse(f"shape({given})", mode="eval").body
        changes = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        if call.args or None in changes:
            raise ValueError
    except (SyntaxError, ValueError):
        raise UserError(f'--shape {given!r}: write it as "N=256, C=768"') from None
    if unknown := sorted(changes.keys() - shape.keys()):
        raise UserError(
            f"--shape: {kernel.name} has no {', '.join(unknown)}; its sizes are {', '.join(shape)}"
        )
    for key, value in changes.items():
        sizes, kind = value if isinstance(value, tuple) else (value,), type(shape[key])
        if type(value) is not kind or (kind in (int, tuple) and not all(map(_is_size, sizes))):
            raise UserError(f"--shape: {key}={value!r}: write it like {key}={shape[key]!r}")
    return shape | changes


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0
