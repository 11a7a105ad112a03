"""One op on its way through the house: layer norm of 1,024 rows of 256, forward and backward.

    python tutorials/ch00_first_run/one_op.py [wrong]

With DEBUG=1, 2, 3 or CHECK=1 before it; "wrong" takes a kernel that forgets the bias.
"""

import sys

import minillm
from minillm import functional as F
from minillm import kernels
from minillm.kernels.layer_norm import layer_norm_forward, reference


def forgetful(x, weight, bias, eps):
    """A layer norm that adds no bias."""
    return reference.layer_norm_forward(x, weight, 0 * bias, eps)


choice = ""
if sys.argv[1:] == ["wrong"]:
    layer_norm_forward.added["forgetful"] = forgetful
    choice = "layer_norm_forward=forgetful"

with kernels.use(choice):
    x = minillm.ones(1024, 256, requires_grad=True)
    weight, bias = minillm.ones(256), minillm.ones(256)
    for _ in range(2):  # the first call of a kernel loads it, or compiles it
        y = F.layer_norm(x, (256,), weight, bias)  # (1024, 256)
        (y * y).sum().backward()
    print("the rows of x are constant, so y is its bias:", y.data[0, 0])
