"""Rows: your file for chapter 42."""


def mean(x):
    """The mean of each row of x (N, C): (N,)."""
    # hole 1: sum each row and divide
    return x.sum(-1) / x.shape[-1]
    # end of hole


def halves(n):
    """How often n can be halved."""
    # hole 2: count
    count = 0
    while n > 1:
        n //= 2
        count += 1
    return count
    # end of hole
