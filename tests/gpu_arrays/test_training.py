"""A whole GPT on arrays of a GPU (the stand-in of tests/fake_cupy): training, waiting, generating,
moving between devices."""

import math

import numpy as np
import pytest

import minillm
from minillm import Tensor, UserError
from minillm.device import module
from minillm.kernels.runtime import emulator
from minillm.models.generate import generate
from minillm.models.gpt import GPT, GPTConfig
from minillm.optim import SGD, Adam, AdamW, clip_grad_norm, param_groups
from minillm.train import checkpoint
from tests import fake_cupy

CONFIG = GPTConfig(block_size=8, vocab_size=13, n_layer=2, n_head=2, n_embd=12, dropout=0.1)
LLAMA = GPTConfig(
    block_size=8, vocab_size=13, n_layer=2, n_head=4, n_kv_head=2, n_embd=16, bias=False,
    position="rotary", norm="rms_norm", activation="swiglu", tie_embeddings=False,
)  # fmt: skip


@pytest.fixture
def gpu():
    """A machine with a stand-in GPU; kernels are the formulas."""
    with fake_cupy.installed(), minillm.kernels.use("reference"):
        yield module("cuda")


def build(device, config=CONFIG, kind=AdamW, **options):
    minillm.manual_seed(3)
    model = GPT(config).to(device)
    return model, kind(param_groups(model, 0.1), 1e-2, **options)


def batch(xp, step=0):
    ids = np.random.default_rng(step).integers(0, 13, (3, 9))
    ids[0, -1] = -100 if step % 2 else ids[0, -1]  # a target that does not count
    return xp.asarray(ids[:, :-1]), xp.asarray(ids[:, 1:])


def train(device, steps=3, **options):
    """Losses, norms and the parameters on the host after some steps."""
    model, optimizer = build(device, **options)
    numbers = []
    for step in range(steps):
        minillm.manual_seed((7, step))
        loss = model(*batch(module(device), step))[1]
        loss.backward()
        norm, clip = clip_grad_norm(optimizer.groups, 1.0)
        optimizer.step(clip)
        optimizer.zero_grad()
        numbers += [loss.item(), norm]
    return numbers, model.state_dict()


def assert_same(got, want, tolerance):
    np.testing.assert_allclose(got[0], want[0], rtol=tolerance)
    for name, array in want[1].items():
        assert isinstance(got[1][name], np.ndarray)
        np.testing.assert_allclose(got[1][name], array, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [AdamW, Adam, SGD])
@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
def test_training_is_the_cpus(gpu, config, kind):
    options = {"config": config, "kind": kind, **({"momentum": 0.9} if kind is SGD else {})}
    assert_same(train("cuda", **options), train("cpu", **options), 1e-5)


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_the_test_for_real_gpus_finds_the_cpus_step(gpu, variant):
    """tests/gpu runs where there is a GPU alone: so its own mistakes would go unseen here."""
    from tests.gpu.test_training_step import test_equals_the_cpus as on_a_gpu

    on_a_gpu(None, variant, "reference")


@pytest.mark.skipif(not emulator.available(), reason="no g++ to build the emulator with")
def test_training_with_cuda_kernels_is_the_cpus():
    want = train("cpu", steps=2)
    with fake_cupy.installed():
        assert_same(train("cuda", steps=2), want, 1e-3)


def test_a_step_waits_for_the_gpu_only_to_read_the_norm(gpu, monkeypatch):
    """But for the checks of ids and targets, which read one truth value each: left out here."""
    from minillm.kernels.cross_entropy import reference as cross_entropy
    from minillm.kernels.embedding import reference as embedding

    monkeypatch.setattr(embedding, "check_ids", lambda *args: None)
    monkeypatch.setattr(cross_entropy, "check_targets", lambda *args: None)
    model, optimizer = build("cuda")
    x, y = batch(gpu)
    for _ in range(2):
        before = fake_cupy.waits()
        loss = model(x, y)[1]
        loss.backward()
        assert fake_cupy.waits() == before
        _, clip = clip_grad_norm(optimizer.groups, 1.0)
        assert fake_cupy.waits() == before + len(optimizer.groups)
        optimizer.step(clip)
        optimizer.zero_grad()
        assert fake_cupy.waits() == before + len(optimizer.groups)
    assert math.isfinite(loss.item()) and fake_cupy.waits() == before + len(optimizer.groups) + 1


def test_gradients_lie_in_the_flat_array(gpu):
    model, optimizer = build("cuda")
    model(*batch(gpu))[1].backward()
    for group in optimizer.groups:
        for p, start in zip(group.flat.params, group.flat.offsets):
            assert p.data.base is group.flat.data and p.grad.data.base is group.flat.grad
            assert p.grad.data.data.ptr == group.flat.grad.data.ptr + 4 * start
    optimizer.step()
    model.blocks[0].mlp.up.weight.data = model.blocks[0].mlp.up.weight.data.copy()
    with pytest.raises(UserError, match="left the optimiser's flat array"):
        optimizer.step()


def test_changes_in_place_are_noticed_across_views(gpu):
    x = Tensor(np.ones(4), device="cuda")
    y = Tensor(np.ones(4), requires_grad=True, device="cuda") * x
    x.reshape(2, 2)[0].mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


@pytest.mark.parametrize("there, here", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_a_checkpoint_goes_on_anywhere(gpu, tmp_path, there, here):
    class Tokenizer:
        def save(self, path):
            path.write_text("{}")

    def advance(device, model, optimizer, step):
        minillm.manual_seed((7, step))
        model(*batch(module(device), step))[1].backward()
        optimizer.step()
        optimizer.zero_grad()

    first = build(there)
    advance(there, *first, 0)
    checkpoint.save(tmp_path, 1, *(x.state_dict() for x in first), Tokenizer(), {})
    saved = checkpoint.load(tmp_path)
    second = build(here)
    for x, state in zip(second, (saved.model, saved.optimizer)):
        x.load_state_dict(state)
    assert second[0].token_embedding.weight.device == here
    for device, run in ((there, first), (here, second)):
        advance(device, *run, 1)
    for name, array in first[0].state_dict().items():
        np.testing.assert_allclose(second[0].state_dict()[name], array, rtol=1e-5, atol=1e-6)
    if here == there:
        for name, array in first[1].state_dict().items():
            np.testing.assert_array_equal(second[1].state_dict()[name], array)


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generated_ids_are_the_cpus(gpu, config, use_cache):
    ids = []
    for device in ("cpu", "cuda"):
        model, _ = build(device, config)
        ids.append(list(generate(model, [1, 2, 3], 12, seed=5, use_cache=use_cache)))
    assert ids[0] == ids[1]


def test_moving_tensors(gpu):
    x = Tensor([[1.0, 2.0]], device="cuda")
    assert isinstance(x.data, gpu.ndarray) and x.to("cuda") is x
    assert repr(x) == "tensor([[1., 2.]], device='cuda')"
    back = x.to("cpu")
    assert back.device == "cpu" and back.tolist() == x.tolist() == [[1.0, 2.0]]
    assert x.copy_(back * 2).tolist() == [[2.0, 4.0]] and back.copy_(x).tolist() == [[2.0, 4.0]]
    assert [10, 20, 30][Tensor(1, device="cuda")] == 20
    assert (float(x[0, 1]), int(x[0, 0]), bool(x[0, 0] > 5), len(x)) == (4.0, 2, False, 1)
    assert np.asarray(x).tolist() == [[2.0, 4.0]]
    for made in (minillm.zeros(2, device="cuda"), minillm.arange(2, 5, device="cuda"),
                 minillm.full((2,), 3, device="cuda"), minillm.eye(2, device="cuda"),
                 minillm.randn(2, device="cuda"), minillm.ones_like(x)):  # fmt: skip
        assert made.device == "cuda"


def test_dropout_and_initial_weights_are_the_cpus(gpu):
    models = [build(device)[0].state_dict() for device in ("cpu", "cuda")]
    for name in models[0]:
        np.testing.assert_array_equal(models[0][name], models[1][name])
    kept = []
    for device in ("cpu", "cuda"):
        minillm.manual_seed(1)
        kept.append(minillm.functional.dropout(minillm.ones(99, device=device)).numpy())
    np.testing.assert_array_equal(*kept)


def test_gradcheck_runs_on_a_gpu(gpu):
    x = gpu.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    minillm.gradcheck(lambda x: minillm.functional.softmax(x.tanh() @ x.T, -1), x)


MIXED = {
    "add": lambda x, a: x + a,
    "sub": lambda x, a: a - x,
    "linear": lambda x, a: minillm.functional.linear(x, a),
    "mat_mul": lambda x, a: x @ a,
    "where": lambda x, a: minillm.where(x > 0, x, a),
    "cat": lambda x, a: minillm.cat([x, a]),
}


CHANGED = {
    "add_": lambda x, a: x.add_(a),
    "mul_": lambda x, a: x.mul_(a),
    "/=": lambda x, a: x.__itruediv__(a),
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_changes_in_place_by_another_device_are_refused_in_one_line(gpu, name, devices):
    x, a = (minillm.ones(2, 2, device=device) for device in devices)
    with pytest.raises(UserError, match=f"{name}: some inputs are on the CPU, others on a GPU"):
        CHANGED[name](x, a)
    assert x.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("there, here", [("cuda", "cpu"), ("cpu", "cuda")])
def test_indices_and_items_may_come_from_another_device(gpu, there, here):
    x, rows = minillm.arange(6, device=here).reshape(3, 2), Tensor([2, 0], device=there)
    assert x[rows].device == x.gather(0, rows.reshape(1, 2)).device == here
    assert x[rows].tolist() == [[4, 5], [0, 1]] and x[x.to(there) > 3].tolist() == [4, 5]
    assert x.gather(0, rows.reshape(1, 2)).tolist() == [[4, 1]]
    x[rows] = Tensor([[8, 9], [6, 7]], device=there)
    assert x.tolist() == [[6, 7], [2, 3], [8, 9]]


@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_two_devices_are_refused_in_one_line(gpu, name):
    x, a = minillm.ones(2, 2, device="cuda"), minillm.ones(2, 2)
    with pytest.raises(UserError, match=f"{name}: some inputs are on the CPU, others on a GPU"):
        MIXED[name](x, a)


def test_no_gpu_is_said_in_one_line(monkeypatch):
    import sys

    with fake_cupy.installed(gpus=0), pytest.raises(UserError, match="no usable GPU or driver"):
        Tensor(1.0, device="cuda")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(UserError, match="pip install 'minillm"):
        Tensor(1.0, device="cuda")


BROKEN = {
    "a library": ("OSError('libnvrtc.so.13: cannot open')", "libnvrtc.so.13: cannot open"),
    "a package": (
        "import a_package_that_cupy_needs",
        "No module named 'a_package_that_cupy_needs'",
    ),
}


@pytest.mark.parametrize("missing", BROKEN)
def test_a_cupy_that_does_not_load_says_why(monkeypatch, tmp_path, missing):
    """CuPy wraps the reason in lines of "=", as here; or lacks a package of its own."""
    import sys

    cause, words = BROKEN[missing]
    if cause.startswith("OSError"):
        text = "'\\n====\\nFailed to import CuPy.\\n\\nOriginal error:\\n  OSError: ...\\n====\\n'"
        cause = f"raise ImportError({text}) from {cause}"
    (tmp_path / "cupy.py").write_text(cause)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(UserError, match=rf"does not load \({words}\): see minillm doctor"):
        Tensor(1.0, device="cuda")


def test_out_of_memory_says_what_to_do():
    from minillm.device import explain_out_of_memory

    error = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})
    with pytest.raises(UserError, match="--micro_batch_size"), explain_out_of_memory():
        raise error("Out of memory allocating 1,024 bytes")
    with pytest.raises(MemoryError), explain_out_of_memory():
        raise MemoryError("of the host")
