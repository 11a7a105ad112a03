"""A function on our Tensors and PyTorch's on its own: same values, same gradients of all inputs."""

import numpy as np
import pytest

from minillm.kernels.tolerances import Tolerance, tolerance
from minillm.tensor import Tensor


def assert_close(got, want, tol: Tolerance, what: str) -> None:
    """As kernels/tolerances.py means it, `atol` relative to the largest element, but at least to 1:
    inputs are near 1, and so are the terms that may cancel."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, PyTorch has {want.shape}"
    assert str(got.dtype) == str(want.dtype), f"{what}: {got.dtype}, PyTorch has {want.dtype}"
    finite = want[np.isfinite(want)]
    scale = np.abs(finite).max(initial=1.0)
    np.testing.assert_allclose(
        got, want, rtol=tol.rtol, atol=tol.atol * scale, err_msg=f"{what} ({tol})"
    )


def compare(ours, theirs, *arrays, name="", dtypes=("float64", "float32"), seed=0) -> None:
    """Compare `ours(*Tensors)` with `theirs(*torch tensors)`: results and gradients of inputs.

    Args:
        ours, theirs: the functions; arrays that get no gradient are better closed over.
        arrays: float64 inputs are cast to each of `dtypes`; integers and booleans pass as they are.
        name: the tolerance to look up, by the kernel's or function's name.
    """
    torch = pytest.importorskip("torch")
    for dtype in dtypes:
        cast = [a.astype(dtype) if a.dtype == np.float64 else a for a in arrays]
        floating = [a.dtype.kind == "f" for a in cast]
        x = [Tensor(a.copy(), requires_grad=f) for a, f in zip(cast, floating)]
        t = [torch.tensor(a).requires_grad_(f) for a, f in zip(cast, floating)]
        y, want = ours(*x), theirs(*t)
        forward = tolerance(f"{name}_forward", dtype)
        assert_close(y.data, want.detach().numpy(), forward, f"{name} {dtype}")
        dy = np.asarray(np.random.default_rng(seed).normal(size=y.shape)).astype(dtype)
        y.backward(dy)
        want.backward(torch.tensor(dy))
        for i, (a, b) in enumerate(zip(x, t)):
            if b.grad is not None:
                assert a.grad is not None, f"{name}: input {i} got no gradient"
                backward = tolerance(f"{name}_backward", dtype)
                assert_close(a.grad.data, b.grad.numpy(), backward, f"{name} {dtype} d{i}")
