"""Hints, wrong answers and places in the engine of chapter 01."""

from minillm.learn import Exercise, Plug, Wrong
from minillm.tutorials.ch01_autograd.checks import (
    check_backward,
    check_matmul,
    check_numerical,
    check_rules,
    check_unbroadcast,
)

FILES = ("engine.py",)


def engine_backward(order):
    """minillm.autograd.backward, walking the engine's graph in the learner's order."""
    from minillm.autograd import Node

    def parents(node):
        return [e for e in node.edges if e is not None] if isinstance(node, Node) else []

    def backward(root, grad, retain_graph=False):
        pending = {root: grad}
        for node in reversed(order(root, parents)):
            dout = pending.pop(node, None)
            if not isinstance(node, Node):  # a leaf: a parameter
                if dout is not None:
                    node.accumulate_grad(dout)
                node.grad_is_complete()
                continue
            if dout is None:
                continue
            for hook in node.hooks:
                changed = hook(dout)
                dout = dout if changed is None else changed
            node.check_saved()
            saved = node.saved
            if retain_graph and node.op.overwrites:
                saved = tuple(a.copy() if hasattr(a, "dtype") else a for a in saved)
            grads = node.op.backward(dout, saved, [edge is not None for edge in node.edges])
            for edge, g in zip(node.edges, grads):
                if edge is not None and g is not None:
                    g = g.astype(edge.dtype, copy=False)
                    pending[edge] = pending[edge] + g if edge in pending else g
            if not (retain_graph or node.op.lasting):
                node.saved, node.edges, node.stamps = None, (), ()

    return backward


def linear_backward(matmul_backward):
    """ops.linear.Linear.backward: y = x weight^T + bias is a product with a transposed matrix."""

    def backward(dy, saved, needs):
        x, weight, shape = saved
        dy = dy.reshape(len(x), len(weight))  # (N, O)
        dx, dweight = matmul_backward(dy, x, weight.T)
        return dx.reshape(shape), dweight.T, dy.sum(0) if needs[2] else None

    return backward


_START = "    nodes, seen, stack = [], set(), [(root, False)]\n    while stack:"
_LOOP = """        if ready:
            nodes.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in parents(node)]
"""
EXERCISES = (
    Exercise(
        "Local rules",
        check_rules,
        hints=(
            "Hold everything but one parent still. How fast does the result change with that one?",
            "A product changes by b for each unit of a, and by a for each of b. The derivatives of "
            "tanh and exp are easiest written with their results.",
            "(1.0, 1.0); (other.data, self.data); n * self.data ** (n - 1); 1 - y * y; y.",
        ),
        wrong=(
            Wrong("a product's derivatives exchanged", "(other.data, self.data)",
                  "(self.data, other.data)", says="(a * b).derivatives with a = 2, b = -3[0] is 2"),
            Wrong("the power not lowered", "n * self.data ** (n - 1)", "n * self.data**n",
                  says="(a ** 3).derivatives with a = 2"),
            Wrong("the power lowered by a division", "n * self.data ** (n - 1)",
                  "n * self.data**n / self.data", says="ZeroDivisionError"),
            Wrong("tanh by its argument", "(1 - y * y,)", "(1 - self.data**2,)",
                  says="(a.tanh()).derivatives"),
            Wrong("exp like a power", "(self,), (y,))", "(self,), (self.data * y,))",
                  says="(a.exp()).derivatives"),
        ),
    ),
    Exercise(
        "Order and backward",
        check_backward,
        hints=(
            "A recursive function would append a node after having called itself for the node's "
            "parents. Keep what it would still have to do on a stack: a list.",
            "Put pairs on the stack: (node, False), visit it; (node, True), its parents are in the "
            "list, append it. When you visit a node that you have not seen, push it again with "
            "True, then its parents with False: they come off first.",
            "In backward: self.grad = 1.0, then for node in reversed(order(self)), for each parent "
            "and derivative: parent.grad += node.grad * derivative.",
        ),
        limit=10,
        wrong=(
            Wrong("= instead of +=", "parent.grad += node", "parent.grad = node",
                  says="with b = a + a, c = b + b: the grad of b is 1, expected 2"),
            Wrong("from the front", "for node in reversed(order(self)):\n            for parent, d",
                  "for node in order(self):\n            for parent, d", says="the grad of a is 0"),
            Wrong("each path anew", "            seen.add(node)\n", "", says="comes twice"),
            Wrong("before its parents", _LOOP, """        if node not in seen:
            seen.add(node)
            nodes.append(node)
            stack += [(parent, False) for parent in parents(node)]
""", says="'c' comes before its parent 'b'"),
            Wrong("seen when pushed", _LOOP, """        if ready:
            nodes.append(node)
            continue
        stack.append((node, True))
        for parent in parents(node):
            if parent not in seen:
                seen.add(parent)
                stack.append((parent, False))
""", says="comes before its parent"),
            Wrong("recursion", _START, """    nodes, seen, stack = [], set(), []

    def visit(node):
        if node not in seen:
            seen.add(node)
            for parent in parents(node):
                visit(parent)
            nodes.append(node)

    visit(root)
    while stack:""", says="RecursionError"),
        ),
    ),
    Exercise(
        "The adjoint of broadcasting",
        check_unbroadcast,
        hints=(
            "An element that was copied to several places gets the gradients of all of them.",
            "grad has grad.ndim - len(shape) dimensions more, all on the left; and of the others, "
            "those where shape has a 1 were repeated.",
            "Two sums: over axis=tuple(range(grad.ndim - len(shape))), which drops them; then over "
            "those where shape is 1, with keepdims=True.",
        ),
        wrong=(
            Wrong("only the added dimensions", "grad.sum(axis=repeated, keepdims=True)", "grad",
                  says="unbroadcast of (2, 3) to (2, 1) has shape (2, 3), expected (2, 1)"),
            Wrong("only the repeated dimensions", "range(grad.ndim - len(shape))", "()",
                  says="unbroadcast of (2, 3) to (3,) has shape (2, 3), expected (3,)"),
            Wrong("the mean", "grad.sum(axis=tuple", "grad.mean(axis=tuple",
                  says="unbroadcast of (2, 3) to (3,)[0] is"),
            Wrong("dimensions added on the right", "range(grad.ndim - len(shape))",
                  "range(len(shape), grad.ndim)", says="to (3,) has shape (2,), expected (3,)"),
            Wrong("repeated dimensions dropped", ", keepdims=True", "",
                  says="unbroadcast of (2, 3) to (2, 1) has shape (2,), expected (2, 1)"),
        ),
    ),
    Exercise(
        "Backward of a matrix product",
        check_matmul,
        hints=(
            "Write the shapes down: dc is (M, N), da must be (M, K). Which product of dc with b, "
            "or with its transpose, has that shape?",
            "da = dc b^T, db = a^T dc. For stacks of matrices the transpose exchanges the last two "
            "dimensions only.",
            "dc @ b.swapaxes(-1, -2) and a.swapaxes(-1, -2) @ dc, each through unbroadcast.",
        ),
        wrong=(
            Wrong("b not transposed", "dc @ b.swapaxes(-1, -2)", "dc @ b", says="ValueError"),
            Wrong("factors exchanged", "a.swapaxes(-1, -2) @ dc", "dc.swapaxes(-1, -2) @ a",
                  says="db has shape (4, 3), expected (3, 4)"),
            Wrong("all dimensions transposed", "a.swapaxes(-1, -2)", "a.T", says="ValueError"),
            Wrong("a stack not summed", "unbroadcast(db, b.shape)", "db",
                  says="b of shape (3, 4): db has shape (5, 3, 4), expected (3, 4)"),
        ),
    ),
    Exercise(
        "A numerical gradient",
        check_numerical,
        hints=(
            "np.ndindex(x.shape) runs through all indices, of any number of dimensions.",
            "Change one element in place, call f with the whole of x, and put it back. A copy or a "
            "reshape of x may not be x any more.",
            "before = x[index]; x[index] = before + h; up = f(x); likewise down; x[index] = before;"
            " (up - down) / (2 * h).",
        ),
        wrong=(
            Wrong("one-sided", "x[index] = before - h\n", "x[index] = before\n",
                  says="the gradient of sum(exp(x) sin(x)) at x of shape (3, 4)[0, 0] is"),
            Wrong("h, not 2 h", "(2 * h)", "h", says="[0, 0] is"),
            Wrong("not put back", "        x[index] = before\n        grad", "        grad",
                  says="x of shape (3, 4) is not as it was"),
            Wrong("put back by adding", "        x[index] = before\n        grad",
                  "        x[index] += h\n        grad", says="is not as it was"),
            Wrong("through a reshape", "for index in np.ndindex(x.shape):",
                  "original, x = x, x.reshape(-1)\n    grad = np.zeros(x.shape)\n"
                  "    for index in range(x.size):", says="f must be called with x itself"),
            Wrong("through a reshape that may be a copy", "for index in np.ndindex(x.shape):",
                  "flat, steps = x.reshape(-1), grad.reshape(-1)\n"
                  "    for i in range(x.size):\n"
                  "        before = flat[i]\n        flat[i] = before + h\n        up = f(x)\n"
                  "        flat[i] = before - h\n        steps[i] = (up - f(x)) / (2 * h)\n"
                  "        flat[i] = before\n    for index in ():",
                  says="at x transposed, of shape (4, 3)[0, 0] is 0"),
        ),
    ),
)  # fmt: skip
PLUGS = (
    Plug("order", "minillm.autograd:backward", exercise=2, adapt=engine_backward),
    Plug("unbroadcast", "minillm.ops.arithmetic:unbroadcast", exercise=3),
    Plug(
        "matmul_backward", "minillm.ops.linear:Linear.backward", exercise=4, adapt=linear_backward
    ),
)
