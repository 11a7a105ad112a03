"""In which precision a reference computes: bfloat16 in float32, the others in their own."""

from minillm.device import Array, xp_of


def float_like(*arrays: Array) -> tuple[object, list[Array]]:
    """The first array's dtype, and all arrays in the precision to compute in."""
    dtype = arrays[0].dtype
    if dtype.itemsize >= 4:
        return dtype, list(arrays)
    float32 = xp_of(arrays[0]).float32
    return dtype, [a.astype(float32) for a in arrays]
