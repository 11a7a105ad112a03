"""The ladder of every CUDA kernel without a GPU: what each step asks of memory, and its registers.

    python bench/ladder.py [KERNEL or OP ...] > bench/results/ladder-DATE.md

Counted by the emulator, which also checks each step for races and against its reference, and read
from NVRTC's machine code. These are counts, the same on every machine, not times: caches, latency
and tensor cores are not in them.
"""

import argparse
import datetime
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `minillm` of this checkout, installed or not

from minillm.kernels.instrument import compare, outputs  # noqa: E402
from minillm.kernels.registry import Kernel, declared  # noqa: E402
from minillm.kernels.runtime import emulator, nvrtc  # noqa: E402
from minillm.kernels.runtime.cubins import has_tools, inspect  # noqa: E402
from minillm.kernels.runtime.cuda import program  # noqa: E402
from minillm.kernels.runtime.emulator import report  # noqa: E402

ARCH = "sm_90a"
DTYPE = "bfloat16"
# Shapes where a kernel's own for a benchmark would take the emulator minutes.
SHAPES = {
    "matmul": dict(a=(256, 128), b=(128, 256)),
    "attention_forward": dict(B=1, H=2, G=2, T=64, S=64, D=64, causal=True),
    "attention_backward": dict(B=1, H=2, G=2, T=64, S=64, D=64, causal=True),
}


def measure(kernel: Kernel, step: str, dtype: str = DTYPE) -> dict[str, object]:
    """Counts of one step, as the columns of the table."""
    shape = SHAPES.get(kernel.name, kernel.bench[0])
    args = kernel.drawn(dtype, **shape)
    want = outputs(kernel, kernel.implementation("reference")(*args), args)
    args = kernel.drawn(dtype, **shape)
    with emulator.profiled() as log:
        result = kernel.implementation(step)(*args)
    compare(kernel, step, outputs(kernel, result, args), want)
    total = report.totals([row for of in report.rows(log).values() for row in of])
    in_global = [row for row in total if row.what.startswith("global")]
    in_shared = [row for row in total if row.what.startswith("shared")]
    waves, best = (sum(getattr(row, name) for row in in_shared) for name in ("units", "best"))
    moved = 32 * sum(row.units for row in in_global) / kernel.cost(*args).bytes
    return {
        "kernel": f"`{kernel.name}`",
        "step": f"`{step}`",
        "requests": f"{sum(row.requests for row in in_global):,}",
        "moved / least": f"{moved:.2f}",
        "bank conflicts": f"{waves / best - 1:.0%}" if best else "",
        "registers": registers(kernel, step, dtype),
        "shape": ", ".join(f"{key}={value}" for key, value in shape.items()),
    }


def registers(kernel: Kernel, step: str, dtype: str) -> str:
    """Of the step's main kernel on a Hopper; empty where NVRTC or its tools are missing."""
    if not has_tools():
        return ""
    source = program(kernel.folder / f"{step}.cu")
    expressions = source.expressions(dtype)
    expression = next(e for e in expressions if e.partition("<")[0] == kernel.name)
    cubin = nvrtc.compile(source.path, expressions, ARCH)
    return str(inspect(cubin.image)[cubin.names[expression]].registers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kernels", nargs="*", help="kernels or ops; none: all")
    names = parser.parse_args().kernels
    kernels = [k for k in declared().values() if k.cuda_steps()]
    unknown = sorted(set(names) - {n for k in kernels for n in (k.name, k.op)})
    if unknown:
        parser.error(f"no CUDA kernel or op is called {', '.join(unknown)}")
    kernels = [k for k in kernels if not names or {k.name, k.op} & set(names)]
    rows = []
    for kernel in sorted(kernels, key=lambda k: (k.op, k.name)):
        for step in kernel.cuda_steps():
            print(f"{kernel.name} {step}", file=sys.stderr, flush=True)
            rows.append(measure(kernel, step))
    print(
        f"What each step asks of memory, in {DTYPE}: counted by the emulator, registers of {ARCH}"
        f" by NVRTC {nvrtc.version() if has_tools() else '(missing)'}, {datetime.date.today()}.\n"
    )
    print("|", " | ".join(rows[0]), "|")
    print("|", " | ".join("---" for _ in rows[0]), "|")
    for row in rows:
        print("|", " | ".join(map(str, row.values())), "|")


if __name__ == "__main__":
    main()
