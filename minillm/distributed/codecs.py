"""What a compressed sum sends in place of n numbers: bfloat16, int8 with scales, or the largest k.

    codec = make("topk", ratio=0.01)
    data = np.empty(codec.nbytes(x.size, x.dtype), np.uint8)
    codec.encode(x, data)          x (n,) float32 or float64  ->  data, bytes, as long for any x
    codec.decode(data, out)        data  ->  out (n,), of x's dtype: |x - out| <= e and rounding

    codec    bytes                          e, of an element x_i                   of b-byte numbers
    bf16     2 n                            2^-8 |x_i| + 2^-134
    int8     n + b ceil(n / 256)            max |x| of its block / 254
    topk     (4 + b) ceil(ratio n)          |x_i|, 0 for the k = ceil(ratio n) largest

bf16 keeps 8 of a float32's 24 bits of precision and its range; beyond 3.39e38 it is infinite.

int8 cuts x in blocks of 256 and keeps of each its scale s = max |x| / 127, and of each element the
nearest integer to x / s (Dettmers 2016, arXiv 1511.04561; without the random rounding of QSGD,
Alistarh et al. 2017, arXiv 1610.02132: error feedback makes up for the bias). The error grows with
the largest of a block, so that one outlier spoils only its own; the scales of blocks of 256 take
1.6 % of a message, those of blocks of 64 would take 6 %. A block below 127 times the least normal
number (1.5e-36 in float32) is 0.

topk keeps the largest magnitudes and their places (Aji & Heafield 2017, arXiv 1704.05021).

What is not finite never becomes finite: infinities and NaN travel as they are in bf16, spoil their
block of int8, and are the largest of all magnitudes in topk, NaN before infinity.
"""

from math import ceil
from typing import Protocol

import numpy as np

from minillm.errors import UserError

NAMES = ("bf16", "int8", "topk")
BLOCK = 256  # elements that share a scale
_SAMPLE = 4096  # elements by which topk guesses where to look


class Codec(Protocol):
    """Turns n numbers into fewer bytes and back."""

    def nbytes(self, n: int, dtype: np.dtype) -> int:
        """How many bytes n numbers take."""

    def encode(self, x: np.ndarray, data: np.ndarray) -> None:
        """Write `x` (n,) to `data` (nbytes,)."""

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        """Overwrite `out` (n,) with what `data` (nbytes,) holds."""


def make(name: str, ratio: float = 0.01) -> Codec:
    """The codec of that name.

    Args:
        ratio: share of the elements that "topk" keeps, of each rank's chunk at least one.

    Raises:
        UserError: no such codec; a ratio not in (0, 1].
    """
    if name not in NAMES:
        raise UserError(f"no compression {name!r}: choose one of {', '.join(NAMES)}")
    if not 0 < ratio <= 1:
        raise UserError(f"top-k keeps a share of the elements in (0, 1], not {ratio}")
    return {"bf16": BFloat16, "int8": Int8, "topk": lambda: TopK(ratio)}[name]()


class BFloat16:
    """The upper 16 bits of a float32, rounded to nearest even."""

    def __init__(self) -> None:
        import ml_dtypes

        self.dtype = np.dtype(ml_dtypes.bfloat16)

    def nbytes(self, n: int, dtype: np.dtype) -> int:
        return 2 * n

    def encode(self, x: np.ndarray, data: np.ndarray) -> None:
        data.view(self.dtype)[...] = x

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        out[...] = data.view(self.dtype)


class Int8:
    """The scales of all blocks, then an int8 for each element; the last block may be shorter."""

    def nbytes(self, n: int, dtype: np.dtype) -> int:
        return n + -(-n // BLOCK) * dtype.itemsize

    def encode(self, x: np.ndarray, data: np.ndarray) -> None:
        scales, integers = _scales(data, x.size, x.dtype)
        magnitudes = np.abs(x)
        whole = x.size // BLOCK * BLOCK
        magnitudes[:whole].reshape(-1, BLOCK).max(1, out=scales[: whole // BLOCK])
        if whole < x.size:
            scales[-1] = magnitudes[whole:].max()
        scales /= 127
        # Below the least normal number 1 / scale can be infinite: such a block is 0.
        scales[scales < np.finfo(x.dtype).tiny] = 0
        usable = np.isfinite(scales) & (scales > 0)
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=usable)
        with np.errstate(invalid="ignore"):  # NaN becomes some integer, times a scale of NaN
            quotients = _by_block(x, inverse, out=magnitudes)
            np.rint(quotients, out=quotients)
            integers[...] = quotients

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        scales, integers = _scales(data, out.size, out.dtype)
        with np.errstate(invalid="ignore"):  # 0 * infinity
            _by_block(integers, scales, out)


def _scales(data: np.ndarray, n: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The two parts of the bytes of n elements: scales (ceil(n / BLOCK),), integers (n,)."""
    end = data.size - n
    return data[:end].view(dtype), data[end:].view(np.int8)


def _by_block(x: np.ndarray, factors: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out = x (n,) with each block times its factor (ceil(n / BLOCK),)."""
    blocks = x.size // BLOCK
    whole = blocks * BLOCK
    into = out[:whole].reshape(blocks, BLOCK)
    np.multiply(x[:whole].reshape(blocks, BLOCK), factors[:blocks, None], out=into)
    np.multiply(x[whole:], factors[blocks:], out=out[whole:])
    return out


class TopK:
    """The k largest magnitudes, then their places as int32; of equal ones, the first.

    A sorted sample tells above which magnitude about 2 k elements lie; only those are sorted. Not
    by NumPy's partition: it takes tens of times as long where most elements are 0, as they are in
    the sum of what topk has sent.
    """

    def __init__(self, ratio: float):
        self.ratio = ratio

    def kept(self, n: int) -> int:
        """k, of n elements."""
        return min(n, max(1, ceil(self.ratio * n)))

    def nbytes(self, n: int, dtype: np.dtype) -> int:
        if n > 2**31:
            raise UserError(f"top-k of {n} elements at once: no more than 2^31, take more buckets")
        return self.kept(n) * (dtype.itemsize + 4)

    def encode(self, x: np.ndarray, data: np.ndarray) -> None:
        k = self.kept(x.size)
        if k == 0:
            return
        # Without its sign bit, a number's bits as an integer grow with it: to infinity, then NaN.
        integer = np.dtype(f"i{x.itemsize}")
        bits = x.view(integer) & np.iinfo(integer).max
        sample = np.sort(bits[:: max(1, x.size // _SAMPLE)])
        enough = min(sample.size, 2 * sample.size * k // x.size + 16)
        places = np.flatnonzero(bits >= max(1, sample[-enough]))
        if places.size < k:  # the sample is not like the rest, or nearly all are 0
            places = np.arange(x.size)
        found = bits[places]
        least = np.sort(found)[-k]
        above, equal = places[found > least], places[found == least]
        places = np.concatenate([above, equal[: k - above.size]])
        values, indices = self._parts(data, x.dtype)
        values[...], indices[...] = x[places], places

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        values, indices = self._parts(data, out.dtype)
        out[...] = 0
        out[indices] = values

    def _parts(self, data: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        end = data.size // (dtype.itemsize + 4) * dtype.itemsize
        return data[:end].view(dtype), data[end:].view(np.int32)
