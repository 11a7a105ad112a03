"""Who has what of n elements, words, layers or samples: the one rule by which ranks share them."""


def span(n: int, rank: int, size: int) -> slice:
    """The part of n that `rank` of `size` has: n / size, give or take 1.

    Parts follow one another in order of rank, and are all of n, which need not be divisible.
    """
    return slice(rank * n // size, (rank + 1) * n // size)
