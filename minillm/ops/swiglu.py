"""Gate of a SwiGLU feed-forward layer (Shazeer 2020, arXiv 2002.05202).

    y = silu(gate) up,   silu(g) = g s,  s = 1 / (1 + e^-g)

By the product rule, with s' = s (1 - s),

    dgate = dy up s (1 + gate (1 - s)),   dup = dy silu(gate)

Shapes: gate, up, y any, the same. Saved: gate and up; s is computed again, one exp an element
against a third array of this size.
"""

from minillm.errors import UserError
from minillm.kernels.swiglu import swiglu_backward, swiglu_forward
from minillm.ops.inputs import flat, floating
from minillm.ops.op import Op


class Swiglu(Op):
    """y = silu(gate) up, element by element."""

    @staticmethod
    def forward(gate, up):
        floating("swiglu", gate, up)
        if gate.shape != up.shape:
            raise UserError(f"swiglu: gate {gate.shape} and up {up.shape} must have one shape")
        return swiglu_forward(flat(gate), flat(up)).reshape(gate.shape), (gate, up)

    @staticmethod
    def backward(dy, saved, needs):
        gate, up = saved
        dgate, dup = swiglu_backward(flat(dy), flat(gate), flat(up))
        return dgate.reshape(gate.shape), dup.reshape(up.shape)
