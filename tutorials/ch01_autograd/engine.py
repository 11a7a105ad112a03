"""An autograd engine, from scalars to arrays: your file for chapter 01."""

import math
from operator import attrgetter

import numpy as np


def order(root, parents=attrgetter("parents")):
    """A topological order of what `root` was computed from: a list of nodes, each of them once,
    each after all of its parents, and `root` last.

    Graphs may be deep, 100,000 nodes in a row, so there is no recursion; and a node that can be
    reached along many paths is still visited once. Nodes can be put into sets and dictionaries.

    Args:
        root: a node: a Value, a Tensor, or of any other kind.
        parents: parents(node) is the sequence of nodes that it was computed from.
    """
    # hole 2: a stack of your own; a node goes into the list when its parents are in it
    nodes, seen, stack = [], set(), [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            nodes.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in parents(node)]
    return nodes
    # end of hole


class Value:
    """A number that remembers how it was computed.

    Attributes:
        data: the number.
        parents: the Values that it was computed from, none for what the user made.
        derivatives: its local derivatives, one by each parent, numbers.
        grad: the derivative of the result by this number, once backward has run.
    """

    def __init__(self, data, parents=(), derivatives=()):
        self.data, self.parents, self.derivatives, self.grad = data, parents, derivatives, 0.0

    def __add__(self, other):
        """self + other, two Values."""
        # hole 1: Value(number, parents, derivatives)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))
        # end of hole

    def __mul__(self, other):
        """self * other, two Values."""
        # hole 1: Value(number, parents, derivatives)
        return Value(self.data * other.data, (self, other), (other.data, self.data))
        # end of hole

    def __pow__(self, n):
        """self to the power of a number n, not a Value."""
        # hole 1: Value(number, parents, derivatives)
        return Value(self.data**n, (self,), (n * self.data ** (n - 1),))
        # end of hole

    def tanh(self):
        """The hyperbolic tangent; 1 - tanh^2 is its derivative."""
        # hole 1: Value(number, parents, derivatives)
        y = math.tanh(self.data)
        return Value(y, (self,), (1 - y * y,))
        # end of hole

    def exp(self):
        """e to the power of self."""
        # hole 1: Value(number, parents, derivatives)
        y = math.exp(self.data)
        return Value(y, (self,), (y,))
        # end of hole

    def backward(self):
        """Set `grad` of all that this Value was computed from, equation (2).

        Every grad in the graph is 0 before.
        """
        # hole 2: 1 for this Value; then the nodes in reverse order, each giving to its parents
        self.grad = 1.0
        for node in reversed(order(self)):
            for parent, derivative in zip(node.parents, node.derivatives):
                parent.grad += node.grad * derivative
        # end of hole


def unbroadcast(grad, shape):
    """The gradient of an array of `shape`, which was broadcast to grad.shape: equation (5).

    NumPy broadcasts by adding dimensions on the left and by repeating those of size 1.

    Args:
        grad: the gradient of what it was broadcast to; is not changed.
        shape: a tuple.

    Returns:
        An array of `shape`, of grad's dtype.
    """
    # hole 3: sum over the dimensions that were added, and over those that were repeated
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    repeated = tuple(i for i, size in enumerate(shape) if size == 1)
    return grad.sum(axis=repeated, keepdims=True)
    # end of hole


def matmul_backward(dc, a, b):
    """The gradients of a and b, where c = a @ b: equations (6).

    Args:
        dc: (..., M, N), the gradient of c.
        a, b: (..., M, K) and (..., K, N). Leading dimensions, if any, broadcast as NumPy's do: a
            matrix may stand beside a stack of them.

    Returns:
        da, db, in the shapes of a and b.
    """
    # hole 4: a product with a transposed matrix each, summed back where the stack was broadcast
    da = dc @ b.swapaxes(-1, -2)
    db = a.swapaxes(-1, -2) @ dc
    return unbroadcast(da, a.shape), unbroadcast(db, b.shape)
    # end of hole


class Tensor:
    """An array that remembers how it was computed.

    Attributes:
        data: the array.
        parents: the Tensors that it was computed from.
        rule: rule(grad) gives the gradients of the parents, a tuple of arrays.
        grad: an array like data, once backward has run; 0 before.
    """

    def __init__(self, data, parents=(), rule=None):
        self.data, self.parents, self.rule, self.grad = np.asarray(data), parents, rule, 0.0

    def backward(self):
        """Value.backward, with a rule in the place of numbers."""
        self.grad = np.ones_like(self.data)
        for node in reversed(order(self)):
            if node.rule is not None:
                for parent, grad in zip(node.parents, node.rule(node.grad)):
                    parent.grad += grad  # the first makes an array of its own: 0.0 + grad

    def __add__(self, other):
        a, b = self.data, other.data
        return Tensor(
            a + b,
            (self, other),
            lambda dc: (unbroadcast(dc, a.shape), unbroadcast(dc, b.shape)),
        )

    def __mul__(self, other):
        a, b = self.data, other.data
        return Tensor(
            a * b,
            (self, other),
            lambda dc: (unbroadcast(dc * b, a.shape), unbroadcast(dc * a, b.shape)),
        )

    def __matmul__(self, other):
        a, b = self.data, other.data
        return Tensor(a @ b, (self, other), lambda dc: matmul_backward(dc, a, b))

    def tanh(self):
        y = np.tanh(self.data)
        return Tensor(y, (self,), lambda dy: (dy * (1 - y * y),))

    def sum(self):
        shape = self.data.shape
        return Tensor(self.data.sum(), (self,), lambda dy: (np.broadcast_to(dy, shape),))


def numerical_gradient(f, x, h=1e-5):
    """The gradient of f at x by central differences, equation (7), one element at a time.

    Args:
        f: f(x) is a number. It is called with x itself, one element of which was moved in place.
        x: an array of floats of any shape and layout (transposed, a slice, 0-d); as it was, after.
        h: the step.

    Returns:
        An array of x's shape.
    """
    # hole 5: for each index, f a step up, f a step down; then put the element back
    grad = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        before = x[index]
        x[index] = before + h
        up = f(x)
        x[index] = before - h
        down = f(x)
        x[index] = before
        grad[index] = (up - down) / (2 * h)
    return grad
    # end of hole
