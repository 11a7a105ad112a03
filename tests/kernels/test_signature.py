"""Signatures: read from declarations, and kept to by calls of GPU kernels."""

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.registry import declared
from minillm.kernels.signature import arguments, check

KERNELS = declared()


def test_names_before_a_shape_share_it():
    found = arguments("q (B, H, T, D), k, v (B, G, S, D), scale, causal -> out (B, H, T, D)")
    assert [a.name for a in found] == ["q", "k", "v", "scale", "causal"]
    assert found[1].shape == found[2].shape == ("B", "G", "S", "D")
    assert found[3].shape is None


def test_words_after_a_shape_are_no_arguments():
    found = arguments("logits (N, V), targets (N,) int64, ignore_index -> losses (N,)")
    assert [a.name for a in found] == ["logits", "targets", "ignore_index"]
    assert found[1].shape == ("N",)


@pytest.mark.parametrize(
    ("signature", "shapes", "complaint"),
    [
        ("x (N, C), w (C,)", [(2, 3), (3,)], None),
        ("x (N, C), w (C,)", [(2, 3), (4,)], r"w \(4,\) must be \(C\) with C=3"),
        ("x (N, C), w (C,)", [(2,), (2,)], r"x \(2,\) must be \(N, C\)"),
        ("x (T, D), cos (T, D/2)", [(5, 6), (5, 3)], None),
        ("x (T, D), cos (T, D/2)", [(5, 7), (5, 3)], "cos .* with T=5, D=7"),
        ("x (T, D), cos (T, D/2)", [(5, 6), (5, 2)], "cos"),
        ("gate (...), up (...)", [(2, 3), (2, 3)], None),
        ("gate (...), up (...)", [(2, 3), (6,)], "up"),
        ("gate (...), up (...)", [(), ()], None),
        ("a (..., M, K), b (..., K, N)", [(7, 2, 3), (3, 4)], None),
        ("a (..., M, K), b (..., K, N)", [(2, 3), (4, 3)], "b .* with K=3"),
        ("a (..., M, K), b (..., K, N)", [(3,), (3, 4)], "a"),
        ("x (N,), y (N,)", [(2,)], None),
        ("x (N,)", [(2,), (2,)], "takes 1 arguments, not 2"),
    ],
)
def test_shapes_of_a_call(signature, shapes, complaint):
    args = tuple(np.zeros(shape) for shape in shapes)
    if complaint is None:
        check("kernel", arguments(signature), args)
    else:
        with pytest.raises(UserError, match=complaint):
            check("kernel", arguments(signature), args)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda k: k.name)
def test_every_declaration_names_its_arguments_and_their_shapes(kernel):
    for shape in kernel.shapes:
        args = kernel.drawn("float32", **shape)
        expected = arguments(kernel.signature)
        check(kernel.name, expected, args)
        assert len(args) <= len(expected)
        for argument, value in zip(expected, args):
            if isinstance(value, np.ndarray):
                assert argument.shape is not None, argument.name


@pytest.mark.parametrize("implementation", ["cuda", "numba_gpu"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda k: k.name)
def test_gpu_kernels_refuse_what_does_not_fit(kernel, implementation):
    """An array cut short in a size that it shares: an error in words, not an address."""
    if kernel._function(implementation) is None:
        pytest.skip(f"no {implementation} version")
    shape = max(kernel.shapes, key=lambda s: kernel.cost(*kernel.drawn("float32", **s)).bytes)
    earlier: set[str] = set()
    for i, argument in enumerate(arguments(kernel.signature)):
        sizes = argument.shape or ()
        if sizes and sizes[-1] in earlier:
            args = list(kernel.drawn("float32", **shape))
            args[i] = np.ascontiguousarray(args[i][..., :-1])
            with pytest.raises(UserError, match=kernel.name):
                kernel.implementation(implementation)(*args)
        earlier |= set(sizes)
