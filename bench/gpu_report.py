"""What bench/gpu.py found, as text, JSON and a picture.

In: the result, a dict: "header" (lines), "limits", "launches", "cases" (a kernel at a shape and
dtype with its rows), "steps", "left_out". Out: NAME.txt, NAME.json, NAME.svg, beside each other.
"""

import json
import os
from pathlib import Path
from typing import Any

from bench.machine import Limits

FOOT = """
GB/s and TFLOP/s: the bytes and operations that the declaration says a call must at least move and
do, over the median time on the GPU; beside the time, its 20th and 80th percentile. % is the time at
the limit that binds (copy, or the fastest matmul of this dtype, CuPy's or PyTorch's) over the time
taken: the roofline. Inputs do not come from the L2 cache. The error is the largest of any output
against the reference in float64, relative to that output's largest element; ! marks one outside the
tolerance. w: the call waits for the GPU, or the host was slower than the GPU, and that is in the
time. Checks of ids and targets are left out of it. torch: PyTorch eager; compile: torch.compile;
flash, cudnn: PyTorch's attention by that backend.
"""


def limits_of(result: dict[str, Any], dtype: str) -> Limits | None:
    """The limits for kernels of a dtype, where they were measured."""
    limits = result.get("limits") or {}
    if "copy" not in limits or dtype not in limits.get("gemm", {}):
        return None
    return Limits(limits["copy"], limits["gemm"][dtype])


def text(result: dict[str, Any]) -> str:
    """The result as tables."""
    lines = [*result["header"], "", *_limits(result.get("limits")), ""]
    lines += _launches(result.get("launches"))
    for case in result["cases"]:
        lines += ["", *_case(result, case)]
    if result["cases"]:
        lines += FOOT.splitlines()
    lines += _steps(result["steps"])
    if result["left_out"]:
        lines += ["", f"out of time: {result['left_out']} measurements left out"]
    return "\n".join(lines) + "\n"


def _limits(limits: dict[str, Any] | None) -> list[str]:
    if not limits or "error" in limits:
        return [f"limits: {(limits or {}).get('error', 'not measured')}"]
    lines = [f"limits: copy {limits['copy'] / 1e9:,.0f} GB/s (read and written together)"]
    for dtype, rate in limits["gemm"].items():
        lines[0] += f", {dtype} matmul {rate / 1e12:,.1f} TFLOP/s"
    for one in limits["copies"]:
        rate = one["bytes_per_second"] / 1e9
        lines.append(f"  copy of {one['megabytes']} MiB by {one['way']}: {rate:,.0f} GB/s")
    for one in limits["products"]:
        rate = one["flops_per_second"] / 1e12
        lines.append(
            f"  CuPy's cuBLAS, {one['dtype']} {one['size']} x {one['size']}: {rate:,.1f} TFLOP/s"
        )
    return lines


def _launches(launches: dict[str, Any] | None) -> list[str]:
    if not launches or "error" in launches:
        return [f"launches: {(launches or {}).get('error', 'not measured')}"]
    lines = [f"{'an empty launch':<32} {'in Python':>12} {'on the GPU':>12}"]
    for way, took in launches.items():
        if isinstance(took, str):
            lines.append(f"  {way:<30} {took}")
        else:
            lines.append(f"  {way:<30} {took['host_us']:>9.2f} us {took['gpu_us']:>9.2f} us")
    return lines


def _case(result: dict[str, Any], case: dict[str, Any]) -> list[str]:
    limits = limits_of(result, case["dtype"])
    lines = [f"{case['kernel']}  {case['shape']}  {case['dtype']}"]
    known = "bytes" in case
    if known:
        lines[0] += f"  ({case['bytes'] / 1e6:,.0f} MB, {case['flops'] / 1e9:,.1f} GFLOP)"
    for row in case["rows"]:
        if "error" in row:
            lines.append(f"  {row['name']:<16} failed: {row['error']}")
            continue
        seconds = row["seconds"]
        line = f"  {row['name']:<16} {seconds * 1e3:10.4f} ms"
        line += f" ({row['p20'] * 1e3:.4f} - {row['p80'] * 1e3:.4f})"
        line = f"{line:<54}{' ' if row['queued'] else 'w'}"
        if known:
            line += f" {case['bytes'] / seconds / 1e9:8.1f} GB/s"
            line += f" {case['flops'] / seconds / 1e12:8.2f} TFLOP/s"
        if known and limits:
            share, bound = limits.share(case["bytes"], case["flops"], seconds)
            line += f" {share:6.1%} of {'copy' if bound == 'copy' else 'matmul'}"
        if "max_error" in row:
            line += f"   error {row['max_error']:.0e}{'!' if row.get('wrong') else ''}"
        lines.append(line)
        if row.get("wrong"):
            lines.append(f"    ! {row['wrong']}")
    return lines


def _steps(steps: list[dict[str, Any]]) -> list[str]:
    if not steps:
        return []
    lines = [
        "",
        "training step: GPT-2 small, forward, backward, clipping, AdamW; bfloat16 is autocast",
    ]
    lines.append(
        f"  {'':<10} {'':<9} {'B':>3} {'median':>11} {'20 % - 80 %':>21} {'tokens/s':>10}"
        f" {'memory':>10}   losses of the first steps"
    )
    for step in steps:
        start = f"  {step['name']:<10} {step['dtype']:<9}"
        if "error" in step:
            lines.append(f"{start} failed: {step['error']}")
            continue
        spread = f"{step['p20'] * 1e3:.1f} - {step['p80'] * 1e3:.1f} ms"
        losses = " ".join(f"{loss:.4f}" for loss in step["first_losses"])
        lines.append(
            f"{start} {step['batch']:>3} {step['seconds'] * 1e3:>8.1f} ms {spread:>21}"
            f" {step['tokens_per_second']:>10,.0f} {step['peak_bytes'] / 1e9:>7.1f} GB   {losses}"
        )
    return lines


def write(result: dict[str, Any], base: Path) -> None:
    """Write text and JSON, whole or not at all, so that a run that is cut short leaves them."""
    base.parent.mkdir(parents=True, exist_ok=True)
    for ending, content in (
        (".json", json.dumps(result, indent=1) + "\n"),
        (".txt", text(result)),
    ):
        temporary = base.with_name(f"{base.name}{ending}.tmp")
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, base.with_name(base.name + ending))


# --- picture --------------------------------------------------------------------------------------

COLORS = {
    "ours, CUDA C++": "#1f5fa8", "ours, Numba CUDA": "#8db8e8", "PyTorch eager": "#c8c8c8",
    "torch.compile": "#7a7a7a",
}  # fmt: skip


def bars(result: dict[str, Any], dtype: str) -> list[tuple[str, dict[str, float]]]:
    """(kernel, {series: share of its limit}) of a dtype, each kernel at its first shape. Ours is
    the newest step; what failed or is wrong is left out."""
    found: dict[str, dict[str, float]] = {}
    limits = limits_of(result, dtype)
    for case in result["cases"]:
        if case["dtype"] != dtype or case["kernel"] in found or not limits or "bytes" not in case:
            continue
        shares = found[case["kernel"]] = {}
        for row in case["rows"]:
            name = _series(row["name"])
            if name and "error" not in row and not row.get("wrong"):
                shares[name] = limits.share(case["bytes"], case["flops"], row["seconds"])[0]
    return [(kernel, shares) for kernel, shares in found.items() if shares]


def _series(name: str) -> str | None:
    if name.startswith("v") and name[1:2].isdigit():
        return "ours, CUDA C++"  # rows come in the order of the steps: the last one stays
    known = ("ours, Numba CUDA", "PyTorch eager", "torch.compile")
    return dict(zip(("numba_gpu", "torch", "compile"), known)).get(name)


def picture(result: dict[str, Any], path: Path) -> bool:
    """Draw each kernel's share of its limit as an SVG, a panel a dtype; False if there is none."""
    dtypes = list(dict.fromkeys(case["dtype"] for case in result["cases"]))
    panels = [(dtype, found) for dtype in dtypes if (found := bars(result, dtype))]
    if not panels:
        return False
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = max(len(found) for _, found in panels)
    figure = Figure(figsize=(6 * len(panels), 1.2 + 0.55 * rows), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (dtype, found) in zip(axes, panels):
        for i, (_, shares) in enumerate(found):
            for j, (name, color) in enumerate(COLORS.items()):
                if name in shares:
                    y = i + 0.2 * (j - 1.5)
                    ax.barh(y, 100 * shares[name], 0.19, color=color)
                    ax.text(100 * shares[name] + 1, y, f"{100 * shares[name]:.0f}", fontsize=6,
                            va="center")  # fmt: skip
        ax.set_yticks(range(len(found)), [kernel for kernel, _ in found], fontsize=8)
        ax.set_ylim(len(found) - 0.5, -0.5)
        ax.axvline(100, color="#404040", linewidth=0.8, zorder=0)
        ax.set_xlabel("% of the limit that binds: copy or matmul rate", fontsize=8)
        ax.set_title(dtype, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    handles = [axes[0].barh(0, 0, color=color, label=name) for name, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(result["header"][0], fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none"}):  # letters, not outlines
        figure.savefig(path)
    return True
