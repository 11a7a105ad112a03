"""What must hold of the answers of chapter 01."""

import math

import numpy as np

from minillm.learn import expect, same


class Step:
    """A node without data, for the checks of the order."""

    def __init__(self, name, parents=()):
        self.name, self.parents = name, list(parents)


def check_rules(work):
    V = work.Value
    for x, y in ((2.0, -3.0), (0.5, 0.25), (-1.5, 4.0)):
        a, b = V(x), V(y)
        for what, got, number, parents, derivatives in (
            ("a + b", a + b, x + y, (a, b), (1.0, 1.0)),
            ("a * b", a * b, x * y, (a, b), (y, x)),
            ("a * a", a * a, x * x, (a, a), (x, x)),
            ("a ** 3", a**3, x**3, (a,), (3 * x * x,)),
            ("a ** -1", a**-1, 1 / x, (a,), (-1 / (x * x),)),
            ("a.tanh()", a.tanh(), math.tanh(x), (a,), (1 / math.cosh(x) ** 2,)),
            ("a.exp()", a.exp(), math.exp(x), (a,), (math.exp(x),)),
        ):
            at = f"with a = {x:g}, b = {y:g}"
            expect(isinstance(got, V), f"{what} must be a Value, not {type(got).__name__}")
            same(f"({what}).data {at}", got.data, number)
            expect(
                len(got.parents) == len(parents)
                and all(p is q for p, q in zip(got.parents, parents)),
                f"({what}).parents must be the Values that it was computed from",
            )
            same(f"({what}).derivatives {at}", tuple(got.derivatives), derivatives)
        expect(a.data == x and a.grad == 0, "an operation must leave its inputs as they are")
    same("(a ** 2).derivatives with a = 0", tuple((V(0.0) ** 2).derivatives), (0.0,))


def graphs():
    """(name, root, how many nodes) of graphs in which something goes wrong easily."""
    a = Step("a")
    yield "a alone", a, 1
    b = Step("b", [a, a])
    yield "b = a + a, c = b + b", Step("c", [b, b]), 3
    yield "b = a + a, c = a + b", Step("c", [a, b]), 3
    yield "b = a + a, c = b + a", Step("c", [b, a]), 3
    for seed in range(5):
        rng = np.random.default_rng(seed)
        nodes = [Step("n0")]
        for i in range(1, 40):
            nodes.append(Step(f"n{i}", rng.choice(nodes, rng.integers(1, 4))))
        root = Step("root", nodes)
        yield f"a random graph (seed {seed})", root, 41
    ladder = a
    for i in range(60):
        ladder = Step(f"l{i}", [ladder, ladder])
    yield "a ladder with 2^60 paths", ladder, 61
    chain = a
    for i in range(100_000):
        chain = Step(f"c{i}", [chain])
    yield "a chain of 100,000", chain, 100_001


def check_backward(work):
    for name, root, count in graphs():
        found = list(work.order(root))
        place = {}
        for i, node in enumerate(found):
            expect(node not in place, f"order of {name}: node {node.name!r} comes twice")
            place[node] = i
        expect(len(found) == count, f"order of {name} has {len(found)} nodes, expected {count}")
        for node in found:
            for parent in node.parents:
                expect(
                    place[parent] < place[node],
                    f"order of {name}: {node.name!r} comes before its parent {parent.name!r}",
                )
    kinds = work.order(3, lambda n: [n - 1, n - 2] if n > 1 else [])
    expect(sorted(kinds) == [0, 1, 2, 3], "order must ask its argument `parents` for the parents")
    _check_sums(work.Value)


def _check_sums(V):
    """Gradients of hand-made graphs: exercise 1.1 may still be wrong."""
    a = V(1.0)
    b = V(2.0, (a, a), (1.0, 1.0))
    c = V(4.0, (b, b), (1.0, 1.0))
    c.backward()
    same("with b = a + a, c = b + b: the grad of c", c.grad, 1.0)
    same("with b = a + a, c = b + b: the grad of b", b.grad, 2.0)
    same("with b = a + a, c = b + b: the grad of a", a.grad, 4.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        values, slopes = [V(0.0)], [0.0]
        edges = []
        for i in range(1, 20):
            parents = rng.integers(0, i, rng.integers(1, 4))
            local = rng.normal(size=len(parents))
            edges.append((parents, local))
            chosen = tuple(values[p] for p in parents)
            values.append(V(0.0, chosen, tuple(local)))
        slopes = np.zeros(20)  # forward mode, from node 0: another way to the same number
        slopes[0] = 1
        for i, (parents, local) in enumerate(edges, 1):
            slopes[i] = slopes[parents] @ local
        values[-1].backward()
        same(f"a random graph (seed {seed}): the grad of its input", values[0].grad, slopes[-1])


def check_unbroadcast(work):
    cases = [((3,), (2, 3)), ((2, 1), (2, 3)), ((1, 3), (2, 3)), ((1, 1), (4, 5)), ((), (2, 3))]
    cases += [((5,), (5,)), ((4, 1, 3), (2, 4, 5, 3)), ((1, 3), (2, 5, 3)), ((1,), (1,))]
    cases += [((1, 4), (3, 4, 4)), ((0,), (3, 0)), ((2, 1), (2, 0)), ((1, 1), (1, 1)), ((), ())]
    for seed, (shape, wide) in enumerate(cases):
        rng = np.random.default_rng(seed)
        grad = rng.normal(size=wide)
        before = grad.copy()
        got = work.unbroadcast(grad, shape)
        wanted = np.zeros(shape)
        places = np.broadcast_to(np.arange(wanted.size).reshape(shape), wide)
        np.add.at(wanted.reshape(-1), places.reshape(-1), grad.reshape(-1))
        same(f"unbroadcast of {wide} to {shape}", got, wanted)
        expect((grad == before).all(), f"unbroadcast of {wide} to {shape} changed its argument")
    narrow = work.unbroadcast(np.ones((2, 3), np.float32), (3,))
    expect(narrow.dtype == np.float32, f"unbroadcast of float32 gives {narrow.dtype}")


def check_matmul(work):
    cases = [((2, 3), (3, 4)), ((1, 3), (3, 1)), ((4, 2), (2, 4)), ((3, 3), (3, 3))]
    cases += [((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4))]
    cases += [((6, 1, 2, 3), (5, 3, 4)), ((1, 2, 3), (5, 3, 2)), ((0, 3), (3, 4))]
    for seed, (left, right) in enumerate(cases):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=left), rng.normal(size=right)
        dc = rng.normal(size=(a @ b).shape)
        stack = dc.shape[:-2]
        wide_a = np.broadcast_to(a, (*stack, *left[-2:]))
        wide_b = np.broadcast_to(b, (*stack, *right[-2:]))
        da = np.einsum("...mn,...kn->...mk", dc, wide_b)
        db = np.einsum("...mk,...mn->...kn", wide_a, dc)
        got = work.matmul_backward(dc, a, b)
        what = f"for a of shape {left}, b of shape {right}: "
        two = isinstance(got, (tuple, list)) and len(got) == 2
        expect(two, f"{what}return two arrays, da and db")
        same(f"{what}da", got[0], _summed(da, left))
        same(f"{what}db", got[1], _summed(db, right))


def _summed(grad, shape):
    total = np.zeros(shape)
    places = np.broadcast_to(np.arange(total.size).reshape(shape), grad.shape)
    np.add.at(total.reshape(-1), places.reshape(-1), grad.reshape(-1))
    return total


def check_numerical(work):
    rng = np.random.default_rng(0)
    square = rng.normal(size=(3, 4))
    square[1, 2] = 1e-12  # lost if a step is taken back by adding
    arrays = {
        "of shape (3, 4)": square.copy(),
        "transposed, of shape (4, 3)": square.copy().T,
        "every other row, of shape (2, 4)": square.copy()[::2],
        "0-d": np.array(0.7),
        "empty": np.zeros((0, 2)),
    }
    for what, x in arrays.items():
        before = x.copy()

        def f(array, x=x):
            expect(array is x, "f must be called with x itself, one element of it moved in place")
            return float((np.exp(x) * np.sin(x)).sum())

        got = work.numerical_gradient(f, x)
        expect((x == before).all(), f"x {what} is not as it was: put each element back")
        wanted = np.exp(x) * (np.sin(x) + np.cos(x))
        same(f"the gradient of sum(exp(x) sin(x)) at x {what}", got, wanted, rtol=1e-8, atol=1e-8)
    x = np.array([1.0, 2.0])
    coarse = work.numerical_gradient(lambda x: float((x**3).sum()), x, h=0.5)
    same("the gradient of sum(x^3) at [1, 2] with h = 0.5", coarse, np.array([3.25, 12.25]))
