"""What ops do first with their inputs: checks, whose messages show what came, and layout."""

from minillm.device import Array, xp_of
from minillm.errors import UserError
from minillm.ops.dtypes import is_floating


def floating(name: str, *arrays: Array) -> None:
    """Raise UserError unless all arrays are of one floating dtype."""
    first = arrays[0].dtype
    if not is_floating(arrays[0]) or any(x.dtype != first for x in arrays):
        got = " and ".join(dict.fromkeys(str(x.dtype) for x in arrays))
        raise UserError(
            f"{name}: needs inputs of one floating dtype, got {got}; convert with .to()"
        )


def probability(name: str, p: float) -> None:
    """Raise UserError unless 0 <= p <= 1."""
    if not 0 <= p <= 1:
        raise UserError(f"{name} must be between 0 and 1, got {p}")


def flat(x: Array) -> Array:
    """`x` as one contiguous run `(n,)`: the layout of the kernels that work element by element."""
    return xp_of(x).ascontiguousarray(x).reshape(-1)
