"""Measure every CUDA implementation of every kernel on this machine's GPU, beside PyTorch.

    python bench/gpu.py
    python bench/gpu.py --op layer_norm,softmax --dtype bfloat16 --parts limits,kernels

In: the shapes `bench_gpu` of the declarations in kernels/. Out: NAME.txt, NAME.json and NAME.svg,
by default bench/results/kernels-<gpu>-<date>, text and JSON after every measurement; NAME.log, what
libraries said.
Measured in one run: the GPU's copy and matmul rates, the cost of a launch, kernels (checked first),
the training step. Each part runs in processes of its own (gpu_worker.py). bench/README.md says how
to read it. Without a GPU: one line, exit status 2.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # `minillm` and `bench` of this checkout, installed or not

from bench import gpu_report, machine  # noqa: E402
from bench.gpu_worker import run_jobs  # noqa: E402
from minillm import env  # noqa: E402
from minillm.cli.checks.process import user_environment  # noqa: E402
from minillm.device import module  # noqa: E402
from minillm.errors import UserError  # noqa: E402
from minillm.kernels.registry import Kernel, declared  # noqa: E402

PARTS = ("limits", "launches", "kernels", "step")
DTYPES = ("bfloat16", "float32")
RIVALS = ("torch", "compile", "compile-max")
GPT2 = dict(
    block_size=1024, vocab_size=50304, n_layer=12, n_head=12, n_embd=768, bias=True,
    position="learned", norm="layer_norm", activation="gelu", tie_embeddings=True,
)  # fmt: skip
# torch.compile leaves these to the library calls that eager PyTorch makes.
NOT_COMPILED = ("matmul", "attention_forward", "attention_backward", "adamw")
_CLOCKS = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,"
    "temperature.gpu"
)


def parse(argv: list[str]) -> argparse.Namespace:
    """The options, lists split.

    Raises:
        UserError: one that names nothing.
    """
    say = argparse.ArgumentParser("python bench/gpu.py", description=__doc__.partition("\n")[0])
    say.add_argument("--op", default="", help="folders of kernels/, with commas; all by default")
    say.add_argument("--dtype", default=",".join(DTYPES), help="bfloat16, float32 (default: both)")
    say.add_argument(
        "--against", default="torch,compile",
        help="torch (eager), compile, compile-max (autotuned: slow to compile); '' for nothing",
    )  # fmt: skip
    say.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    say.add_argument("--batch", type=int, default=8, help="B of the training step, halved to fit")
    say.add_argument("--minutes", type=float, default=8.0, help="begin nothing after so long")
    say.add_argument("--out", default="", help="path of the results, without an ending")
    options = say.parse_args(argv)
    ops = sorted({kernel.op for kernel in declared().values()})
    for name, known in (("op", ops), ("dtype", DTYPES), ("against", RIVALS), ("parts", PARTS)):
        chosen = tuple(filter(None, getattr(options, name).split(",")))
        if wrong := [one for one in chosen if one not in known]:
            raise UserError(f"--{name} {','.join(wrong)}: choose from {', '.join(known)}")
        setattr(options, name, chosen)
    if options.batch < 1 or options.minutes <= 0:
        raise UserError("--batch and --minutes must be above 0")
    return options


def kernels_of(ops: Iterable[str]) -> list[Kernel]:
    """Kernels of some op folders, or all, by name."""
    chosen = [k for k in declared().values() if not ops or k.op in ops]
    return sorted(chosen, key=lambda k: (k.op, k.name))


def implementations(kernel: Kernel) -> list[str]:
    """Those for a GPU, and the reference; without Numba's where Numba does not load."""
    try:
        return [n for n in kernel.implementations() if n == "reference" or kernel.for_gpu(n)]
    except ImportError as error:
        env.say_once(f"Numba's kernels are left out: {error}")
        return ["reference", *kernel.cuda_steps()]


def our_jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What gpu_kernels.py is to do: for each case the reference, the steps, Numba."""
    jobs: list[dict[str, Any]] = [
        {"what": what} for what in ("limits", "launches") if what in options.parts
    ]
    if "kernels" not in options.parts:
        return jobs
    for kernel in kernels_of(options.op):
        names = implementations(kernel)
        for case in range(len(kernel.bench_gpu)):
            for dtype in options.dtype:
                jobs += [
                    {"what": "kernel", "kernel": kernel.name, "case": case, "dtype": dtype,
                     "name": name}
                    for name in names if kernel.supports(name, dtype)
                ]  # fmt: skip
    return jobs


def torch_jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What gpu_torch.py is to do: first all that is eager, then all that is compiled."""
    if "kernels" not in options.parts or not options.against:
        return []
    jobs = [
        {"kernel": kernel.name, "case": case, "shape": shape, "dtype": dtype, "name": name,
         "device": "cuda"}
        for kernel in kernels_of(options.op)
        for case, shape in enumerate(kernel.bench_gpu)
        for dtype in options.dtype
        for name in rivals(kernel.name, dtype, options.against)
    ]  # fmt: skip
    return sorted(jobs, key=lambda job: job["name"].startswith("compile"))


def rivals(kernel: str, dtype: str, against: Iterable[str]) -> list[str]:
    """What a kernel is compared with, out of `against`: names that gpu_torch.py knows."""
    chosen = [name for name in against if name == "torch" or kernel not in NOT_COMPILED]
    if kernel.startswith("attention") and dtype == "bfloat16" and "torch" in chosen:
        chosen += ["flash", "cudnn"]
    return chosen


def step_jobs(options: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """What gpu_step.py is to do; minillm goes first, since it draws the weights."""
    if "step" not in options.parts:
        return []
    sides = ["minillm", *(name for name in options.against if name != "compile-max")]
    return [
        {"name": name, "dtype": dtype, "batch": options.batch, "config": GPT2, "device": "cuda",
         "weights": f"{folder}/weights.npz", "seconds": 4.0}
        for name in sides
        for dtype in options.dtype
    ]  # fmt: skip


class Run:
    """The result as it grows, on the screen and in the files."""

    def __init__(self, header: list[str], base: Path):
        self.base = base
        self.result: dict[str, Any] = {
            "header": header, "machine": machine.describe(), "limits": None, "launches": None,
            "cases": [], "steps": [], "left_out": 0,
        }  # fmt: skip

    def kernel(self, job: dict[str, Any], answer: dict[str, Any]) -> None:
        """Take in what gpu_kernels.py or gpu_torch.py answered."""
        if job.get("what") in ("limits", "launches"):
            self.result[job["what"]] = answer
            return self._keep(f"{job['what']}: {answer.get('error', 'done')}")
        shape = declared()[job["kernel"]].bench_gpu[job["case"]]
        words = " ".join(f"{key}={value}" for key, value in shape.items())
        key = {"kernel": job["kernel"], "shape": words, "dtype": job["dtype"]}
        cases = self.result["cases"]
        case = next((c for c in cases if key.items() <= c.items()), None)
        if case is None:
            cases.append(case := {**key, "rows": []})
        for fact in ("bytes", "flops"):
            if fact in answer:
                case[fact] = answer.pop(fact)
        case["rows"].append({"name": job["name"], **answer})
        if (job["kernel"], job["name"]) == ("matmul", "torch"):
            self._raise_the_limit(case, answer)
        return self._keep(f"{job['kernel']} {words} {job['dtype']} {job['name']}: {_told(answer)}")

    def _raise_the_limit(self, case: dict[str, Any], answer: dict[str, Any]) -> None:
        """PyTorch's product may be faster than CuPy's: the limit is the best that was seen."""
        limits = self.result["limits"] or {}
        if "seconds" in answer and "flops" in case and "gemm" in limits:
            dtype, rate = case["dtype"], case["flops"] / answer["seconds"]
            limits["gemm"][dtype] = max(rate, limits["gemm"].get(dtype, 0.0))

    def step(self, job: dict[str, Any], answer: dict[str, Any]) -> None:
        """Take in what gpu_step.py answered."""
        self.result["steps"].append({"name": job["name"], "dtype": job["dtype"], **answer})
        self._keep(f"training step {job['dtype']} {job['name']}: {_told(answer)}")

    def _keep(self, line: str) -> None:
        print(line, flush=True)
        gpu_report.write(self.result, self.base)


def _told(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"failed: {answer['error']}"
    wrong = f"  WRONG: {answer['wrong']}" if "wrong" in answer else ""
    return f"{answer['seconds'] * 1e3:.4f} ms{wrong}"


def gpu_state() -> str:
    """Name, driver, clocks, power limit and temperature, as nvidia-smi has them now."""
    command = ["nvidia-smi", f"--query-gpu={_CLOCKS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi: {error}"
    values = done.stdout.strip().partition("\n")[0].split(", ")
    if done.returncode or len(values) != 8:
        return f"nvidia-smi: {(done.stdout + done.stderr).strip().partition(chr(10))[0]}"
    name, driver, sm, memory, most_sm, most_memory, power, heat = values
    return (
        f"{name}, driver {driver}, clocks {sm} of {most_sm} (SM), {memory} of {most_memory}"
        f" (memory), {power} limit, {heat} C"
    )


def torch_is_missing(environment: dict[str, str]) -> str:
    """Why there is no PyTorch to compare with; empty if there is."""
    if find_spec("torch") is None:
        return "it is not installed (pip install torch)"
    ask = "import torch; assert torch.cuda.is_available(), 'it finds no GPU'"
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, env=environment, timeout=300
    )
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def describe(argv: list[str]) -> tuple[str, list[str]]:
    """The GPU's name and the lines at the head of the results.

    Raises:
        UserError: no GPU.
    """
    cupy = module("cuda")
    about = cupy.cuda.runtime.getDeviceProperties(0)
    name = about["name"].decode()
    now = machine.describe()
    versions = {**now["versions"], "cupy": cupy.__version__}
    cuda = [getattr(cupy.cuda.runtime, f"{part}GetVersion")() for part in ("driver", "runtime")]
    return name, [
        f"Kernels on {name}, {now['date'][:10]}",
        f"{now['date']}, commit {now['commit']}: {shlex.join(['python', 'bench/gpu.py', *argv])}",
        f"{about['multiProcessorCount']} multiprocessors, {about['totalGlobalMem'] / 1e9:.0f} GB,"
        f" L2 {about['l2CacheSize'] / 1e6:.0f} MB; CUDA {cuda[0]} (driver), {cuda[1]} (runtime)",
        f"before: {gpu_state()}",
        f"{now['cpu']}, {now['cores']} cores, {now['system']}",
        ", ".join(f"{library} {version}" for library, version in versions.items()),
    ]


def main(argv: list[str]) -> int:
    """Measure and write."""
    try:
        options = parse(argv)
        name, header = describe(argv)
    except UserError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    base = Path(options.out or ROOT / f"bench/results/kernels-{slug}-{header[0][-10:]}")
    base = base.with_name(re.sub(r"\.(txt|json|svg)$", "", base.name))
    run, deadline = Run(header, base), time.monotonic() + 60 * options.minutes
    user = user_environment()
    if options.against and (missing := torch_is_missing(user)):
        header.append(f"not compared with PyTorch: {missing}")
        print(header[-1], flush=True)
        options.against = ()
    log = base.with_name(base.name + ".log")
    measure = partial(run_jobs, deadline=deadline, log=log)
    left = measure("gpu_kernels.py", our_jobs(options), run.kernel)
    references = torch_jobs(options)
    eager = [job for job in references if not job["name"].startswith("compile")]
    left += measure("gpu_torch.py", eager, run.kernel, environment=user)
    with tempfile.TemporaryDirectory() as folder:
        for job in step_jobs(options, folder):  # a process each, which ends with its job
            left += measure("gpu_step.py", [job], run.step, environment=user, patience=240)
    compiled = references[len(eager) :]
    left += measure("gpu_torch.py", compiled, run.kernel, environment=user)
    run.result["left_out"] = left
    header.append(f"after:  {gpu_state()}")
    gpu_report.write(run.result, base)
    print()
    print(gpu_report.text(run.result), end="")
    drawn = gpu_report.picture(run.result, base.with_name(base.name + ".svg"))
    print(f"\nsaved {base}.txt and .json{' and .svg' if drawn else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
