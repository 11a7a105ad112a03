"""Many parameters in one flat array: an optimiser step is one kernel call, a gradient bucket one
slice.

Parameters keep their shapes; their `.data`, and their `.grad` once there is one, become views of
two flat arrays. The last parameter comes first, so that the flat gradient fills from the front
while backward runs from the last layer to the first, and its head can be sent while the rest is
computed.
"""

from collections.abc import Iterable

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.tensor import Tensor


class FlatGroup:
    """Parameters of one dtype and device, laid side by side.

    Attributes:
        params: the parameters in the order of the flat arrays (the reverse of how they were given).
        offsets: `params[i]` is `data[offsets[i]:offsets[i + 1]]`.
        data, grad: flat arrays (n,), shared with the parameters.
    """

    def __init__(self, params: Iterable[Tensor]):
        self.params = list(params)[::-1]
        if not self.params:
            raise UserError("no parameters to optimise")
        kinds = {(str(p.dtype), p.device) for p in self.params}
        if len(kinds) > 1:
            raise UserError(f"parameters of one group differ in dtype or device: {sorted(kinds)}")
        self.offsets = [0]
        for p in self.params:
            self.offsets.append(self.offsets[-1] + p.data.size)
        xp, dtype = xp_of(self.params[0].data), self.params[0].dtype
        self.data = xp.empty(self.offsets[-1], dtype)  # (n,)
        self.grad = xp.zeros(self.offsets[-1], dtype)  # (n,)
        for p, start, stop in zip(self.params, self.offsets, self.offsets[1:]):
            view = self.data[start:stop].reshape(p.shape)
            view[...] = p.data
            p.data = view
            p.grad_buffer = self.grad[start:stop].reshape(p.shape)
            if p.grad is not None:
                p.grad_buffer[...] = p.grad.data
                p.grad = Tensor(p.grad_buffer)

    def zero_grad(self) -> None:
        """Forget the gradients. Nothing is written: the next backward overwrites the buffer."""
        for p in self.params:
            p.grad = None

    def fill_missing_grads(self) -> None:
        """Make all of `grad` valid: zeros for parameters that backward did not reach, and a copy of
        gradients that were assigned (`p.grad = p.grad * 2`) instead of changed in place."""
        for p in self.params:
            if p.grad is None or p.grad.data is not p.grad_buffer:
                p.grad_buffer[...] = 0 if p.grad is None else p.grad.data
                p.grad = Tensor(p.grad_buffer)

    def changed(self) -> None:
        """Note that `data` was written to, so that backward through an older graph is refused.

        Raises:
            UserError: a parameter's array no longer lies in `data`, so that the change missed it.
        """
        for p in self.params:
            if p.data.base is not self.data:
                raise UserError(
                    "a parameter has left the optimiser's flat array: another optimiser was made of"
                    " it, or its .data replaced; write into the array instead (copy_)"
                )
            p.version.count += 1
