"""Cross-entropy in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

from minillm.device import xp_of
from minillm.kernels.cross_entropy import check_targets
from minillm.kernels.runtime.cuda import accum
from minillm.kernels.softmax.cuda import geometry


def cross_entropy_forward(program, logits, targets, ignore_index, label_smoothing):
    N, V = logits.shape
    check_targets(targets, V, ignore_index)
    losses, at = xp_of(logits).empty(N, accum(logits.dtype)), geometry(program, logits)
    program.launch(
        "cross_entropy_forward", logits.dtype, at.blocks, losses, logits, targets, ignore_index,
        label_smoothing, N, V, at.slots, block=at.block, shared=at.shared,
    )  # fmt: skip
    return losses


def cross_entropy_forward_backward(
    program, logits, targets, ignore_index, label_smoothing, inplace
):
    xp, (N, V) = xp_of(logits), logits.shape
    check_targets(targets, V, ignore_index)
    losses, at = xp.empty(N, accum(logits.dtype)), geometry(program, logits)
    dlogits = logits if inplace else xp.empty_like(logits)
    program.launch(
        "cross_entropy_forward_backward", logits.dtype, at.blocks, losses, dlogits, logits, targets,
        ignore_index, label_smoothing, N, V, at.slots, block=at.block, shared=at.shared,
    )  # fmt: skip
    return losses, dlogits
