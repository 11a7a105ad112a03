"""Cross-entropy: targets that name no class, ignored rows, and PyTorch's meaning of smoothing."""

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.cross_entropy import cross_entropy_forward, cross_entropy_forward_backward

BOTH = [cross_entropy_forward, cross_entropy_forward_backward]
IMPLEMENTATIONS = cross_entropy_forward.implementations()


@pytest.mark.parametrize("target", [-1, 5, -101, 2**40])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kernel", BOTH, ids=lambda k: k.name)
def test_target_that_names_no_class(kernel, implementation, target):
    logits, targets = np.zeros((3, 5), np.float32), np.array([0, -100, target])
    with pytest.raises(UserError, match=rf"target {target} \(row 2\) is outside \[0, 5\)"):
        kernel.implementation(implementation)(logits, targets, -100, 0.0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_ignored_rows_are_zero_whatever_they_hold(implementation, ignore_index):
    logits = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    logits[1] = np.nan
    run = cross_entropy_forward_backward.implementation(implementation)
    losses, dlogits = run(logits, np.array([4, ignore_index, 0]), ignore_index, 0.1)
    assert losses[1] == 0
    assert not dlogits[1].any()
    assert np.isfinite(losses).all()
    assert losses[[0, 2]].all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_same_as_pytorch(implementation, label_smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 5, (20, 7)), rng.integers(0, 7, 20)
    targets[::6] = -100
    if not label_smoothing:
        logits[:, 2] = -np.inf  # a masked class costs nothing unless it is a target
        targets[targets == 2] = 3
    x = torch.tensor(logits, requires_grad=True)
    want = torch.nn.functional.cross_entropy(
        x, torch.tensor(targets), reduction="none", label_smoothing=label_smoothing
    )
    want.sum().backward()
    run = cross_entropy_forward_backward.implementation(implementation)
    losses, dlogits = run(logits, targets, -100, label_smoothing)
    np.testing.assert_allclose(losses, want.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dlogits, x.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_logits_far_apart(implementation):
    """A loss of nothing keeps its digits, and one beyond e^88 does not overflow."""
    logits = np.array([[0, -20], [0, -1000]], np.float32)
    run = cross_entropy_forward.implementation(implementation)
    np.testing.assert_allclose(run(logits, np.array([1, 1]), -100, 0.0), [20, 1000], rtol=1e-6)
