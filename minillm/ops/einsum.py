"""Einstein summation over any number of arrays.

    y[out] = sum over the letters not in out of the product of x_i[in_i]

The gradient of one operand is again such a sum, of dy and the other operands, over the letters
that the operand does not have. Three things are undone besides: an index repeated within one
operand names its diagonal; a size of 1 stretched to a letter's size is summed back; a letter that
neither the output nor another operand has was summed alone, so dx repeats along it.
"""

import string

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.ops.op import Op


def _parse(equation, arrays):
    """Letters of each operand and of the output, with `...` written out in unused letters."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(arrays):
        raise UserError(f"einsum {equation!r} names {len(terms)} operands, got {len(arrays)}")
    spare = [c for c in string.ascii_letters if c not in equation]
    widths = []
    for i, (term, array) in enumerate(zip(terms, arrays)):
        letters = term.replace("...", "", 1)
        width = array.ndim - len(letters)
        if not all(c in string.ascii_letters for c in letters):
            raise UserError(f"einsum {equation!r}: {term!r} may hold letters and one '...'")
        if width < 0 or (width > 0 and "..." not in term):
            raise UserError(f"einsum {equation!r}: operand {i} has shape {array.shape}")
        widths.append(width)
    rest = spare[: max(widths, default=0)]  # what `...` stands for, aligned at its right end
    terms = [
        term.replace("...", "".join(rest[len(rest) - width :]))
        for term, width in zip(terms, widths)
    ]
    if arrow:
        output = output.replace("...", "".join(rest))
    else:
        names = sorted(set("".join(terms)) - set(rest))
        output = "".join(rest + [c for c in names if "".join(terms).count(c) == 1])
    if len(set(output)) < len(output) or not set(output) <= set("".join(terms)):
        raise UserError(f"einsum {equation!r}: each output index must be once in the output and in"
                        " an operand")  # fmt: skip
    return terms, output


def _sizes(equation, terms, arrays):
    """The size of each letter; 1 gives way to any other."""
    sizes = {}
    for term, array in zip(terms, arrays):
        for letter, n in zip(term, array.shape):
            if sizes.get(letter, 1) != 1 and n not in (1, sizes[letter]):
                shapes = ", ".join(str(a.shape) for a in arrays)
                raise UserError(
                    f"einsum {equation!r}: index {letter!r} has sizes {sizes[letter]} and {n} in"
                    f" operands of shapes {shapes}"
                )
            if sizes.get(letter, 1) == 1:
                sizes[letter] = n
    return sizes


def _contract(terms, output, arrays):
    equation = f"{','.join(terms)}->{output}"
    y = xp_of(arrays[0]).einsum(equation, *arrays, optimize=True)
    return y.astype(arrays[0].dtype, copy=False)  # of bfloat16, NumPy's is float32


class Einsum(Op):
    """y = einsum(equation, *arrays)."""

    @staticmethod
    def forward(*arrays, equation):
        if len({str(a.dtype) for a in arrays}) > 1:
            dtypes = ", ".join(str(a.dtype) for a in arrays)
            raise UserError(f"einsum: dtypes {dtypes} differ; convert with to()")
        terms, output = _parse(equation, arrays)
        sizes = _sizes(equation, terms, arrays)
        return _contract(terms, output, arrays), (terms, output, sizes, *arrays)

    @staticmethod
    def backward(dy, saved, needs):
        terms, output, sizes, *arrays = saved
        return tuple(
            _operand_grad(i, dy, terms, output, sizes, arrays) if need else None
            for i, need in enumerate(needs)
        )


def _operand_grad(i, dy, terms, output, sizes, arrays):
    term, x = terms[i], arrays[i]
    have = dict(zip(term, x.shape))  # without repeats
    other_terms = [output, *terms[:i], *terms[i + 1 :]]
    found = set("".join(other_terms))
    kept = [c for c in have if c in found and have[c] == sizes[c]]
    dx = _contract(other_terms, "".join(kept), [dy, *arrays[:i], *arrays[i + 1 :]])
    dx = dx.reshape(tuple(dx.shape[kept.index(c)] if c in kept else 1 for c in have))
    dx = xp_of(dx).broadcast_to(dx, tuple(have.values()))
    if len(have) == x.ndim:
        return dx
    xp, whole, letters = xp_of(dx), xp_of(dx).zeros(x.shape, dx.dtype), list(have)
    steps = {
        c: xp.arange(n).reshape(tuple(n if d == c else 1 for d in letters)) for c, n in have.items()
    }
    whole[tuple(steps[c] for c in term)] = dx  # the diagonal that was read
    return whole
