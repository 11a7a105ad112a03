"""bench/gpu_torch.py and gpu_step.py without a GPU: PyTorch's counterparts of our kernels, and both
sides of the training step, on the CPU."""

import json

import numpy as np
import pytest

from bench import gpu, gpu_measure, gpu_step
from minillm.kernels.registry import declared
from tests.bench_host import Clock, reduced

torch = pytest.importorskip("torch")

from bench import gpu_torch  # noqa: E402
from bench.gpu_torch import REFERENCES, Draw, prepare  # noqa: E402

KERNELS = declared()


# --- PyTorch --------------------------------------------------------------------------------------


def test_pytorch_has_a_counterpart_of_every_kernel(monkeypatch):
    monkeypatch.setattr(gpu_torch, "TorchGPU", Clock)
    monkeypatch.setattr(gpu_measure, "BATCH", 1e-6)
    monkeypatch.setattr(gpu_measure, "MOST_SPIN", 0.0)
    assert gpu_torch.REFERENCES.keys() == KERNELS.keys()
    for kernel in KERNELS.values():
        shape = json.loads(json.dumps(reduced(kernel.bench_gpu[0])))
        ask = {"kernel": kernel.name, "shape": shape, "dtype": "bfloat16", "name": "torch"}
        assert gpu_torch.run({**ask, "device": "cpu"})["seconds"] > 0, kernel.name


def test_what_pytorch_computes_is_what_the_kernels_compute():
    """The formulas agree, on the inputs that PyTorch's side draws."""
    draw = Draw("float64", "cpu")

    def both(name, shape, *rest):
        function, inputs = prepare(REFERENCES[name], REFERENCES[name].function,
                                   REFERENCES[name].inputs(draw, **shape))  # fmt: skip
        theirs = function(*inputs)
        arrays = [x.detach().numpy() for x in inputs if isinstance(x, torch.Tensor)]
        ours = KERNELS[name].implementation("reference")(*arrays, *rest)
        first = [x[0] if isinstance(x, tuple) else x for x in (ours, theirs)]
        np.testing.assert_allclose(first[0], first[1].detach().numpy(), rtol=1e-9, atol=1e-12)

    both("layer_norm_forward", dict(N=3, C=5), 0.1)
    both("rms_norm_forward", dict(N=3, C=5), 0.1)
    both("softmax_forward", dict(N=3, C=5))
    both("gelu_forward", dict(shape=(3, 5)), True)
    both("swiglu_forward", dict(shape=(3, 5)))
    both("rotary", dict(B=1, H=2, T=3, D=4), False)
    both("matmul", dict(a=(3, 4), b=(5, 4), transpose="b"))
    both("attention_forward", dict(B=1, H=2, G=2, T=5, S=5, D=4, causal=True), 4**-0.5, True)


# --- the training step ----------------------------------------------------------------------------


def test_both_sides_of_the_training_step_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 1)
    monkeypatch.setattr(gpu_step.Ours, "peak_bytes", lambda self: 1)
    tiny = dict(block_size=8, vocab_size=17, n_layer=2, n_head=2, n_embd=16, bias=True)
    config = {**gpu.GPT2, **tiny}
    ask = dict(batch=2, config=config, device="cpu", weights=f"{tmp_path}/w.npz", seconds=0.0)
    losses = {}
    for dtype in gpu.DTYPES:
        for name in ("minillm", "torch"):
            answer = gpu_step.run({**ask, "name": name, "dtype": dtype})
            assert answer["tokens_per_second"] == pytest.approx(16 / answer["seconds"])
            losses[dtype, name] = answer["first_losses"]
    np.testing.assert_allclose(losses["float32", "minillm"], losses["float32", "torch"], rtol=1e-5)
    np.testing.assert_allclose(losses["bfloat16", "minillm"], losses["bfloat16", "torch"], 2e-2)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    class OutOfMemoryError(Exception):
        pass

    def measure(job, make):
        if job.batch > 2:
            raise OutOfMemoryError
        return {"batch": job.batch}

    monkeypatch.setattr(gpu_step, "measure", measure)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert gpu_step.run({"name": "torch", "batch": 16}) == {"batch": 2}
