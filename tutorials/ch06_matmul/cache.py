"""A toy cache for chapter 06: how many lines are fetched while matrices are multiplied."""

from collections import OrderedDict


def missed(order, n, lines=32, line=8):
    """Lines fetched for n x n matrices, by a cache that drops the line not used for longest."""
    cache, misses = OrderedDict(), 0
    for i, j, k in order(n):
        for place in (("a", i, k // line), ("b", k, j // line), ("c", i, j // line)):
            if place in cache:
                cache.move_to_end(place)
                continue
            misses, cache[place] = misses + 1, None
            if len(cache) > lines:
                cache.popitem(last=False)
    return misses


def by_element(n):
    """As ijk in loops.py."""
    return ((i, j, k) for i in range(n) for j in range(n) for k in range(n))


def by_row(n):
    """As ikj."""
    return ((i, j, k) for i in range(n) for k in range(n) for j in range(n))


def by_tile(n, T=8):
    """Tile by tile, and by element in each."""
    corners = ((i, j, k) for i in range(0, n, T) for j in range(0, n, T) for k in range(0, n, T))
    return ((i + p, j + q, k + r) for i, j, k in corners for p, q, r in by_element(T))
