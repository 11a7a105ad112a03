"""PyTorch's side of bench/gpu.py, a worker: what our kernels are measured against, eager and
compiled, at the same shapes and dtypes on inputs of the same distribution.

A job of JSON in, an answer out (gpu_worker.py):

    {"kernel", "shape", "dtype", "name", "device"} -> seconds ...

    name: "torch", "compile" (torch.compile, its default mode), "compile-max" (max-autotune without
    CUDA graphs), or a backend of scaled_dot_product_attention, "flash" or "cudnn"

Backward passes are timed alone, on a graph that is kept. This module must not import minillm, which
would set thread variables that PyTorch reads.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from bench import gpu_measure, gpu_worker  # noqa: E402
from bench.gpt_torch import rotary  # noqa: E402

MODES = {"compile": "default", "compile-max": "max-autotune-no-cudagraphs"}
EPS = 0.1  # of the norms, as our declarations have it


class TorchGPU:
    """What the timing needs of a GPU, through PyTorch (gpu_measure.CuPyGPU)."""

    def event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed(self, start: Any, stop: Any) -> float:
        return start.elapsed_time(stop) / 1e3

    def happened(self, event: Any) -> bool:
        return event.query()

    def spin(self, seconds: float) -> None:
        torch.cuda._sleep(int(seconds * 2e9))

    def wait(self) -> None:
        torch.cuda.current_stream().synchronize()

    @staticmethod
    def l2_bytes() -> int:
        return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)


class Reference(NamedTuple):
    """How PyTorch computes a kernel.

    Attributes:
        function: of the inputs.
        inputs: from a Draw and the shape: the function's arguments.
        part: "forward"; "backward", the gradients of all floating inputs alone; or "both".
    """

    function: Callable[..., Any]
    inputs: Callable[..., tuple]
    part: str = "forward"


class Draw:
    """Random inputs of a dtype on a device."""

    def __init__(self, dtype: str, device: str):
        self.dtype, self.device = getattr(torch, dtype), device

    def normal(self, *size: int) -> torch.Tensor:
        return torch.randn(size, dtype=self.dtype, device=self.device)

    def ids(self, count: int, below: int) -> torch.Tensor:
        return torch.randint(below, (count,), device=self.device)


def _norm(part: str, function: Callable, vectors: int, matrices: int = 1) -> Reference:
    def inputs(draw: Draw, N: int, C: int) -> tuple:
        rows = (draw.normal(N, C) for _ in range(matrices))
        return *rows, *(1 + 0.2 * draw.normal(C) for _ in range(vectors))

    return Reference(function, inputs, part)


def _layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def _rms_norm(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight, EPS)


def _add_rms_norm(x, residual, weight):
    total = x + residual
    return _rms_norm(total, weight), total


def _loss(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum")


def _swiglu(gate, up):
    return F.silu(gate) * up


def _attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _attention_inputs(draw: Draw, B, H, G, T, S, D, causal) -> tuple:
    if H != G or T != S or not causal:
        raise ValueError("only causal self-attention with as many heads of k and v is compared")
    return tuple(draw.normal(B, H, T, D) for _ in "qkv")


def _rotary_inputs(draw: Draw, B, H, T, D, **_: Any) -> tuple:
    angle = torch.outer(torch.arange(T), 100.0 ** (-torch.arange(D // 2) / (D // 2)))
    angle = angle.to(draw.device)
    return draw.normal(B, H, T, D), angle.cos().to(draw.dtype), angle.sin().to(draw.dtype)


def _product_inputs(draw: Draw, a, b, transpose="") -> tuple:
    a, b = draw.normal(*a), draw.normal(*b)
    return a.mT if "a" in transpose else a, b.mT if "b" in transpose else b


def _element_inputs(arrays: int) -> Callable[..., tuple]:
    def inputs(draw: Draw, shape, **_: Any) -> tuple:
        return tuple(draw.normal(*shape) for _ in range(arrays))

    return inputs


def _gelu(x):
    return F.gelu(x, approximate="tanh")


def _flat_inputs(arrays: int) -> Callable[..., tuple]:
    return lambda draw, n: tuple(draw.normal(n) for _ in range(arrays))


def _adamw_inputs(draw: Draw, n: int) -> tuple:
    """An optimiser whose one parameter has a gradient; its state is made by the first step."""
    p = torch.nn.Parameter(draw.normal(n))
    p.grad = draw.normal(n)
    fused = p.is_cuda or None
    return (torch.optim.AdamW([p], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=fused),)


def _classes(draw: Draw, N: int, V: int, **_: Any) -> tuple:
    return draw.normal(N, V), draw.ids(N, V)


def _table(draw: Draw, N: int, C: int, V: int) -> tuple:
    return draw.ids(N, V), draw.normal(V, C)


def _softmax(x):
    return F.softmax(x, -1)


def _embedding(ids, weight):
    return F.embedding(ids, weight)


REFERENCES = {
    "layer_norm_forward": _norm("forward", _layer_norm, 2),
    "layer_norm_backward": _norm("backward", _layer_norm, 2),
    "rms_norm_forward": _norm("forward", _rms_norm, 1),
    "rms_norm_backward": _norm("backward", _rms_norm, 1),
    "add_rms_norm_forward": _norm("forward", _add_rms_norm, 1, matrices=2),
    "add_rms_norm_backward": _norm("backward", _add_rms_norm, 1, matrices=2),
    "softmax_forward": _norm("forward", _softmax, 0),
    "softmax_backward": _norm("backward", _softmax, 0),
    "cross_entropy_forward": Reference(_loss, _classes),
    "cross_entropy_forward_backward": Reference(_loss, _classes, "both"),
    "gelu_forward": Reference(_gelu, _element_inputs(1)),
    "gelu_backward": Reference(_gelu, _element_inputs(1), "backward"),
    "swiglu_forward": Reference(_swiglu, _element_inputs(2)),
    "swiglu_backward": Reference(_swiglu, _element_inputs(2), "backward"),
    "dropout": Reference(lambda x: F.dropout(x, 0.1), _element_inputs(1)),
    "rotary": Reference(rotary, _rotary_inputs),
    "embedding_forward": Reference(_embedding, _table),
    "embedding_backward": Reference(_embedding, _table, "backward"),
    "adamw": Reference(lambda optimizer: optimizer.step(), _adamw_inputs),
    "sum_of_squares": Reference(lambda x: torch.linalg.vector_norm(x), _flat_inputs(1)),
    "accumulate": Reference(lambda a, b: a.add_(b), _flat_inputs(2)),
    "matmul": Reference(torch.matmul, _product_inputs),
    "attention_forward": Reference(_attention, _attention_inputs),
    "attention_backward": Reference(_attention, _attention_inputs, "backward"),
}


def prepare(reference: Reference, function: Callable, inputs: tuple) -> tuple[Callable, tuple]:
    """What to call and time, and with what."""
    if reference.part == "forward":
        return torch.no_grad()(function), inputs
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    if reference.part == "both":
        return lambda *x: torch.autograd.grad(function(*x), _with_gradient(x)), tuple(leaves)
    y = function(*leaves)
    y = y if isinstance(y, tuple) else (y,)
    graph = y, tuple(map(torch.randn_like, y)), *_with_gradient(leaves)
    return lambda y, dy, *x: torch.autograd.grad(y, x, dy, retain_graph=True), graph


def _with_gradient(inputs: Any) -> list[torch.Tensor]:
    return [x for x in inputs if x.requires_grad]


def _backend(name: str) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    return sdpa_kernel(backends[name]) if name in backends else nullcontext()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to a job."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")  # no TF32
    gpu = TorchGPU()
    reference = REFERENCES[job["kernel"]]
    function = reference.function
    if job["name"] in MODES:
        import torch._functorch.config as config

        config.donated_buffer = False  # else a compiled backward runs once only
        torch._dynamo.reset()
        function = torch.compile(function, dynamic=False, mode=MODES[job["name"]])
    draw = Draw(job["dtype"], job["device"])
    with _backend(job["name"]):
        inputs = reference.inputs(draw, **job["shape"])
        nbytes = sum(x.nbytes for x in inputs if isinstance(x, torch.Tensor)) or 1 << 30
        count = gpu_measure.sets_needed(nbytes, gpu.l2_bytes())
        rest = [reference.inputs(draw, **job["shape"]) for _ in range(count - 1)]
        sets = [prepare(reference, function, one) for one in (inputs, *rest)]
        call = sets[0][0]
        for _ in range(3):
            call(*sets[0][1])  # compiles
        return gpu_measure.time_calls(gpu, call, [one for _, one in sets])._asdict()


def broken() -> bool:
    """Whether CUDA refuses everything since an error."""
    try:
        torch.cuda.empty_cache()
        return int(torch.ones(8, device="cuda").sum()) != 8
    except Exception:
        return True


if __name__ == "__main__":
    gpu_worker.serve(run, broken)
