"""Optimisers: the same numbers as PyTorch's over 20 steps; groups, state, arguments."""

import math
import tracemalloc
from functools import partial

import numpy as np
import pytest

from minillm import nn
from minillm.errors import UserError
from minillm.nn import Parameter
from minillm.optim import SGD, Adam, AdamW, clip_grad_norm, param_groups
from minillm.tensor import Tensor

RNG = np.random.default_rng(0)
SHAPES = [(3, 4), (5,), (2, 2, 2)]


def _parameters(dtype=np.float64):
    rng = np.random.default_rng(1)
    return [Parameter(rng.normal(size=shape).astype(dtype)) for shape in SHAPES]


def _run(optimizer, params, start, stop):
    """Steps along gradients that depend on the values, ours or PyTorch's."""
    for step in range(start, stop):
        optimizer.zero_grad()
        for i, p in enumerate(params):
            (p * p * (0.3 + i) + p * math.cos(step + i)).sum().backward()
        optimizer.step()


CASES = {
    "sgd": (SGD, "SGD", dict(lr=0.05)),
    "sgd with momentum": (SGD, "SGD", dict(lr=0.05, momentum=0.9)),
    "sgd with everything": (
        SGD,
        "SGD",
        dict(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "adam": (Adam, "Adam", dict(lr=0.05, betas=(0.8, 0.95))),
    "adam with decay": (Adam, "Adam", dict(lr=0.05, weight_decay=0.2)),
    "adamw": (AdamW, "AdamW", dict(lr=0.05)),
    "adamw with everything": (
        AdamW,
        "AdamW",
        dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_against_pytorch(case):
    torch = pytest.importorskip("torch")
    ours_type, theirs_name, options = CASES[case]
    params = _parameters()
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in params]
    optimizer = getattr(torch.optim, theirs_name)(theirs, **options)
    _run(ours_type(params, **options), params, 0, 20)
    _run(optimizer, theirs, 0, 20)
    for p, want in zip(params, theirs):
        np.testing.assert_allclose(p.data, want.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_scales_act_as_smaller_gradients_and_learning_rates(make):
    scaled, plain = _parameters(), _parameters()
    a = make(scaled, lr=0.2, weight_decay=0.1)
    b = make(plain, lr=0.05, weight_decay=0.1)
    for _ in range(3):
        for optimizer, params, factor in ((a, scaled, 1.0), (b, plain, 0.5)):
            optimizer.zero_grad()
            for p in params:
                (p * p * factor).sum().backward()
        a.step(grad_scale=0.5, lr_scale=0.25)
        b.step()
    for p, q in zip(scaled, plain):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-13)


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_a_step_leaves_the_gradient_as_it_is(make):
    params = _parameters()
    optimizer = make(params, lr=0.1, weight_decay=0.1)
    for p in params:
        (p * 3).sum().backward()
    optimizer.step(grad_scale=0.5)
    for p in params:
        np.testing.assert_array_equal(p.grad.data, np.full(p.shape, 3.0))


def test_a_missing_gradient_counts_as_zeros():
    used, unused = _parameters()[:2]
    before = unused.data.copy()
    optimizer = AdamW([used, unused], lr=0.1, weight_decay=0.5)
    used.sum().backward()
    optimizer.step()
    np.testing.assert_allclose(unused.data, before * (1 - 0.1 * 0.5), rtol=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.05, momentum=0.9),
        lambda p: Adam(p, lr=0.05),
        lambda p: AdamW([{"params": p[1:]}, {"params": p[:1], "lr": 0.01}], lr=0.05),
    ],
)
def test_resumed_steps_are_bit_identical(make):
    whole, parts = _parameters(np.float32), _parameters(np.float32)
    _run(make(whole), whole, 0, 7)
    optimizer = make(parts)
    _run(optimizer, parts, 0, 3)
    state = {name: array.copy() for name, array in optimizer.state_dict().items()}
    resumed = [Parameter(p.data.copy()) for p in parts]
    optimizer = make(resumed)
    optimizer.load_state_dict(state)
    assert optimizer.steps == 3
    _run(optimizer, resumed, 3, 7)
    for p, q in zip(whole, resumed):
        np.testing.assert_array_equal(p.data, q.data)


def test_state_survives_safetensors():
    from safetensors.numpy import load, save

    params = _parameters()
    optimizer = AdamW(params, lr=0.1)
    _run(optimizer, params, 0, 2)
    state = load(save(optimizer.state_dict()))
    other = AdamW(_parameters(), lr=0.1)
    other.load_state_dict(state)
    assert other.steps == 2
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)


def test_foreign_state_is_refused_and_changes_nothing():
    optimizer = AdamW(_parameters(), lr=0.1)
    with pytest.raises(UserError, match="not one of AdamW for these parameters"):
        optimizer.load_state_dict(SGD(_parameters(), lr=0.1).state_dict())
    other = AdamW(_parameters()[::-1], lr=0.1).state_dict()
    with pytest.raises(UserError, match="belongs to another model"):
        optimizer.load_state_dict({**other, "step": np.array([9])})
    assert optimizer.steps == 0


@pytest.mark.parametrize("make", [partial(SGD, momentum=0.9), Adam, AdamW])
def test_shards_on_several_processes_update_as_one(make):
    """Each updates its stretches, which begin and end inside parameters; then they swap them."""
    whole, *copies = (_parameters(np.float32) for _ in range(3))
    optimizers = [make(params, lr=0.05, weight_decay=0.1) for params in (whole, *copies)]
    n = optimizers[0].groups[0].flat.data.size
    cuts = [[slice(0, 3), slice(7, n - 2)], [slice(3, 7), slice(n - 2, n)]]
    for optimizer, parts in zip(optimizers[1:], cuts):
        optimizer.groups[0].shard(parts)
    for step in range(3):
        for optimizer, params in zip(optimizers, (whole, *copies)):
            _run(optimizer, params, step, step + 1)
        flats = [optimizer.groups[0].flat.data for optimizer in optimizers]
        for parts, mine, other in ((cuts[0], *flats[1:]), (cuts[1], *flats[:0:-1])):
            for part in parts:
                other[part] = mine[part]
        np.testing.assert_array_equal(flats[1], flats[0])
    total = dict.fromkeys(optimizers[0].state_dict(), 0)
    for optimizer in optimizers[1:]:
        for name, array in optimizer.state_dict().items():
            total[name] = total[name] + array
    for name, array in optimizers[0].state_dict().items():
        np.testing.assert_array_equal(total[name], 2 * array if name == "step" else array)
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    assert optimizers[1].steps == 3


def test_a_process_with_a_share_never_takes_memory_for_all_state():
    n = 1 << 20
    w = Tensor(np.ones(n), requires_grad=True)
    tracemalloc.start()
    try:
        optimizer = AdamW([w], lr=0.1)
        optimizer.groups[0].shard([slice(0, n // 4)])
        assert len(optimizer.groups[0].shards[0].state) == 2  # made by now
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    flat, state = 2 * 8 * n, 2 * 8 * n // 4  # parameters and gradients; two moments of a quarter
    assert flat + state <= most < flat + state + n


def test_param_groups_decay_matrices_and_embeddings_only():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    decayed, rest = param_groups(model, 0.3)
    assert decayed["params"] == [model[0].weight, model[2].weight]
    assert rest["params"] == [model[1].weight, model[1].bias, model[2].bias]
    optimizer = AdamW([decayed, rest], lr=0.1)
    assert [group.weight_decay for group in optimizer.groups] == [0.3, 0.0]
    assert [group.lr for group in optimizer.groups] == [0.1, 0.1]


def test_frozen_parameters_and_empty_groups_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = SGD(param_groups(model, 0.3), lr=0.1)
    assert [group.flat.params for group in optimizer.groups] == [[model.weight]]
    model.weight.requires_grad_(False)
    with pytest.raises(UserError, match="no parameters"):
        SGD(param_groups(model, 0.3), lr=0.1)


def test_bad_arguments_are_refused():
    params = _parameters()
    for make, options, message in [
        (SGD, dict(lr=-1), "lr is -1"),
        (SGD, dict(lr=math.nan), "lr is nan"),
        (SGD, dict(lr=1, momentum=1.0), "momentum is 1.0"),
        (SGD, dict(lr=1, nesterov=True), "nesterov"),
        (AdamW, dict(betas=(0.9, 1.5)), "beta2 is 1.5"),
        (AdamW, dict(weight_decay=-0.1), "weight_decay is -0.1"),
        (Adam, dict(eps=-1), "eps is -1"),
    ]:
        with pytest.raises(UserError, match=message):
            make(params, **options)
    with pytest.raises(UserError, match="twice"):
        SGD([params[0], params[0]], lr=1)
    with pytest.raises(UserError, match="no parameters"):
        SGD([], lr=1)


def test_clipping_measures_over_all_groups_and_writes_nothing():
    a, b = Parameter(np.zeros(2, np.float32)), Parameter(np.zeros(1, np.float32))
    optimizer = SGD([{"params": [a]}, {"params": [b]}], lr=1.0)
    (a * Tensor(np.array([3.0, 4.0], np.float32))).sum().backward()
    (b * 12).sum().backward()
    norm, factor = clip_grad_norm(optimizer.groups, 6.5)
    assert norm == pytest.approx(13)
    assert factor == pytest.approx(0.5, rel=1e-6)
    np.testing.assert_array_equal(a.grad.data, [3, 4])
    assert clip_grad_norm(optimizer.groups, 20.0)[1] == 1.0
    assert clip_grad_norm(optimizer.groups) == (norm, 1.0)
    optimizer.step(grad_scale=factor)
    np.testing.assert_allclose(np.append(a.data, b.data), [-1.5, -2, -6], rtol=1e-6)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_gradients_that_are_not_finite_show_in_the_norm(bad):
    (p,) = _parameters()[:1]
    optimizer = SGD([p], lr=1.0)
    (p * p * bad).sum().backward()
    norm, _ = clip_grad_norm(optimizer.groups, 1.0)
    assert not math.isfinite(norm)
