"""Initial weights, drawn on the host from the default generator, whatever the device.

They are drawn in float32 whatever the dtype, so that models of all dtypes start from one seed
alike.
"""

import math

import numpy as np

from minillm.autograd import no_grad
from minillm.device import to_device
from minillm.random import default_generator
from minillm.tensor import Tensor


def _fill(tensor: Tensor, values: np.ndarray) -> Tensor:
    with no_grad():
        return tensor.copy_(to_device(values, tensor.device))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with draws of a normal distribution; returns the tensor."""
    draws = default_generator.numpy.standard_normal(tensor.shape, np.float32)
    draws *= std
    draws += mean
    return _fill(tensor, draws)


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Fill with draws of the uniform distribution on [low, high); returns the tensor."""
    draws = default_generator.numpy.random(tensor.shape, np.float32)
    draws *= high - low
    draws += low
    return _fill(tensor, draws)


def kaiming_uniform_(tensor: Tensor, a: float = 0.0) -> Tensor:
    """Fill a weight (out, in) uniformly, with variance 2 / ((1 + a^2) in) (He et al. 2015, arXiv
    1502.01852): keeps the size of activations through leaky ReLUs of slope `a`. Returns the
    tensor."""
    bound = math.sqrt(6 / ((1 + a * a) * tensor.shape[1]))
    return uniform_(tensor, -bound, bound)
