"""minillm: train a large language model, all the way down.

    import minillm

    x = minillm.randn(4, 3, requires_grad=True)
    (x.tanh() @ minillm.ones(3)).sum().backward()
    print(x.grad)

This module holds the tensor and what PyTorch keeps under `torch.`; the rest is in its submodules
(`functional`, `nn`, `optim`, `models`, `data`, `distributed`, `train`). Importing it loads only
NumPy.
"""

from minillm import env  # isort: skip - first: it sets the threads that NumPy's BLAS will read
import importlib
from typing import Any

from minillm import tensor_functions
from minillm.autocast import autocast
from minillm.autograd import detect_anomaly, enable_grad, no_grad, set_grad_enabled
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.random import manual_seed
from minillm.tensor import Tensor
from minillm.tensor_functions import *  # noqa: F403

__version__ = "0.1.0"
__all__ = [
    "Tensor", "UserError", "autocast", "detect_anomaly", "enable_grad", "env", "gradcheck",
    "manual_seed", "no_grad", "set_grad_enabled", *tensor_functions.__all__,
]  # fmt: skip

_SUBMODULES = ("data", "distributed", "functional", "kernels", "models", "nn", "optim", "train")


def __getattr__(name: str) -> Any:
    """`minillm.nn` and its neighbours, imported when first asked for."""
    if name in _SUBMODULES:
        return importlib.import_module(f"minillm.{name}")
    raise AttributeError(f"module 'minillm' has no attribute {name!r}")
