"""How far two right answers may differ: one table, each line with its reason.

`rtol` is relative to the element, `atol` relative to the largest element of the same output: a sum
of n rounded terms errs relative to its terms, not to a result that happens to cancel. Where a whole
output may cancel to nothing, `floor` is the size of its terms and the least that stands in for the
largest element.
"""

from typing import NamedTuple


class Tolerance(NamedTuple):
    rtol: float
    atol: float
    reason: str
    floor: float = 0.0

    def __str__(self) -> str:
        return f"rtol {self.rtol:g}, atol {self.atol:g} of the largest ({self.reason})"


_DEFAULT = {
    "float64": Tolerance(1e-12, 1e-13, "sums in another order, ~1e3 terms of eps 2.2e-16"),
    "float32": Tolerance(2e-5, 2e-6, "sums in another order, ~1e2 terms of eps 1.2e-7"),
    "bfloat16": Tolerance(1.6e-2, 4e-3, "one rounding to 8 bits of each result, eps 7.8e-3"),
    "int64": Tolerance(0, 0, "integers are exact"),
}

# (kernel, dtype): only where the default does not hold.
_TABLE: dict[tuple[str, str], Tolerance] = {}

# Kernels whose terms are near 1 and may cancel to an output of nothing, in every dtype.
_CANCELS = {
    "gelu_forward": "the reference adds 1 to a tanh or erf near -1",
    "gelu_backward": "the reference adds 1 to a tanh or erf near -1",
    "attention_backward": "dq and dk are 0 where one key is seen, a difference of terms near 1",
    "cross_entropy_forward": "a small loss is a difference of logits, several units large",
    "cross_entropy_forward_backward": "a small loss is a difference of logits, units large",
    "layer_norm_forward": "a constant row less its mean is 0, a difference of terms near 1",
    "layer_norm_backward": "dx of one or two channels is 0, a difference of terms near 1",
    "rms_norm_backward": "dx of one channel is 0, a difference of terms near 1",
}


def tolerance(kernel: str, dtype: str) -> Tolerance:
    """The tolerance of `kernel`'s outputs of `dtype` against its reference."""
    found = _TABLE.get((kernel, dtype), _DEFAULT[dtype])
    why = _CANCELS.get(kernel)
    return found._replace(floor=1.0, reason=f"{found.reason}; {why}") if why else found
