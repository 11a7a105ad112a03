"""A Numba CUDA function rewritten for the CPU, on its syntax tree.

What comes in: a function that says `cuda.threadIdx.x`, `x[i, j] = v`, `cuda.shared.array(...)`.
What goes out: the same function with calls of numba_intrinsics.py in their places, ready for
Numba's CPU compiler. Lines keep their numbers, and each place that can fail gets a number of its
own, its site, that is the same in every run: compiled code is kept on disk.
"""

import ast
import inspect
import math
import re
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from minillm.errors import UserError
from minillm.kernels.runtime import numba_intrinsics as cpu

_ROOT = Path(__file__).parents[2]
_SITES: dict[int, str] = {}  # what a site's number stands for
MOST_LOCAL = 16 << 10  # bytes of a local array: a fiber has a stack of 64 KB
_INDICES = ("threadIdx", "blockIdx", "blockDim", "gridDim")
_SHUFFLES = ("shfl_sync", "shfl_up_sync", "shfl_down_sync", "shfl_xor_sync")


def rewrite(function: FunctionType, name: str, arguments: list[Callable] | None) -> FunctionType:
    """`function` for the CPU.

    Args:
        function: what to rewrite; device functions among its globals are rewritten already.
        name: the result's __qualname__, under which Numba keeps its code on disk.
        arguments: for a kernel, an intrinsic an argument: the result then takes one pointer, to a
            launch's arguments. None for a device function.

    Raises:
        UserError: it uses something of numba.cuda that the CPU does not have; no source to read.
    """
    lines, first = source(function)
    path = Path(inspect.getsourcefile(function))
    tree = ast.parse(textwrap.dedent("".join(lines)))
    ast.increment_lineno(tree, first - 1)
    definition = tree.body[0]
    definition.decorator_list = []
    shown = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path
    rewriter = _Rewriter(str(shown), function.__globals__)
    definition = rewriter.visit(definition)
    if arguments is not None:
        _unpack(definition, arguments, rewriter)
    ast.fix_missing_locations(tree)
    names = {**function.__globals__, **rewriter.names}
    exec(compile(tree, str(path), "exec"), names)
    rewritten = names[definition.name]
    rewritten.__qualname__ = name
    return rewritten


def source(function: FunctionType) -> tuple[list[str], int]:
    """Its lines, and the number of the first.

    Raises:
        UserError: there is no file to read them from.
    """
    try:
        return inspect.getsourcelines(function)
    except OSError:
        raise UserError(f"{function.__name__}: write kernels in a file, to be read again") from None


def located(message: str) -> str:
    """An error of the emulator with the source's lines in the place of sites."""

    def place(match: re.Match) -> str:
        return _SITES.get(int(match[1], 0), match[0])

    message = re.sub(r"\{pc:(\w+)\}", place, message)
    return re.sub(r"line (\d+)", place, message)


def _unpack(definition: ast.FunctionDef, arguments: list[Callable], rewriter: "_Rewriter") -> None:
    """Make a kernel's one parameter the pointer to its arguments, and its first lines take them."""
    parameters = [a.arg for a in definition.args.args]
    definition.args.args = [ast.arg("__arguments")]
    pointer = ast.Name("__arguments", ast.Load())
    definition.body[:0] = [
        ast.copy_location(
            ast.Assign([ast.Name(name, ast.Store())], rewriter.call(f, pointer)), definition
        )
        for name, f in zip(parameters, arguments)
    ]


class _Rewriter(ast.NodeTransformer):
    def __init__(self, path: str, known: dict[str, Any]):
        self.path, self.known = path, known
        self.names: dict[str, Any] = {}  # what the rewritten code calls
        self.temporaries = 0
        self.assigned = "array"  # the name that the statement at hand gives its value

    def call(self, function: Callable, *operands: ast.expr) -> ast.Call:
        name = f"__cpu_{len(self.names)}"
        self.names[name] = function
        return ast.Call(ast.Name(name, ast.Load()), list(operands), [])

    def error(self, node: ast.AST, what: str) -> UserError:
        return UserError(f"{self.path}:{node.lineno}: {what}")

    def number(self, node: ast.AST) -> int:
        """The site of a piece of source, not rewritten yet: below 2^31, above any line's number."""
        text = f"{self.path}:{node.lineno}: {ast.unparse(node)}"
        site = 1 << 30 | zlib.crc32(f"{text} {node.col_offset}".encode()) >> 2
        _SITES[site] = text
        return site

    def site(self, node: ast.AST) -> ast.Constant:
        return ast.Constant(self.number(node))

    def constant(self, node: ast.expr) -> Any:
        """The value of a shape or dtype, known before the kernel runs."""
        try:
            return eval(compile(ast.Expression(node), self.path, "eval"), self.known)
        except Exception:
            raise self.error(node, f"{ast.unparse(node)} must be a constant") from None

    def name_of(self, node: ast.AST) -> list[str]:
        """`cuda.shared.array` -> ["shared", "array"]; [] where it is no attribute of cuda."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        return parts if isinstance(node, ast.Name) and node.id == "cuda" else []

    # ------------------------------------------------------------ cuda.something

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        name = self.name_of(node)
        if not name:
            return self.generic_visit(node)
        if name == ["warpsize"]:
            return ast.copy_location(ast.Constant(32), node)
        if name == ["laneid"]:
            thread = ast.parse(
                "(cuda.threadIdx.x + cuda.blockDim.x * (cuda.threadIdx.y + cuda.blockDim.y"
                " * cuda.threadIdx.z)) % 32",
                mode="eval",
            ).body
            return self.visit(ast.copy_location(thread, node))
        if len(name) == 2 and name[0] in _INDICES and name[1] in "xyz":
            return self.call(cpu.index(3 * _INDICES.index(name[0]) + "xyz".index(name[1])))
        raise self.error(node, f"cuda.{'.'.join(name)} is not known to the CPU's runtime")

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = ".".join(self.name_of(node.func))
        if not name:
            return self.generic_visit(node)
        site, plain = self.site(node), node.args
        args = [self.visit(a) for a in node.args]
        if node.keywords:
            raise self.error(node, f"cuda.{name}: give its arguments by position")
        if name in ("grid", "gridsize"):
            return self.grid(name, self.constant(plain[0]))
        if name == "syncthreads":
            return self.call(cpu.syncthreads, site)
        if name == "syncwarp":
            return self.call(cpu.syncwarp, *(args or [ast.Constant(0xFFFFFFFF)]), site)
        if name == "ballot_sync":
            return self.call(cpu.ballot, *args, site)
        if name in _SHUFFLES:
            return self.call(cpu.shuffle(_SHUFFLES.index(name)), *args, site)
        if name == "atomic.add":
            return self.call(cpu.atomic_add, *args, site)
        if name in ("shared.array", "local.array"):
            shape, dtype = map(self.constant, plain)
            shape = shape if isinstance(shape, tuple) else (shape,)
            if name == "local.array":
                if math.prod(shape) * dtype.bitwidth > 8 * MOST_LOCAL:
                    raise self.error(node, f"more than {MOST_LOCAL} bytes of a thread's own")
                return self.call(cpu.local_array(shape, dtype))
            return self.call(cpu.shared_array(shape, dtype, self.assigned, self.number(node)))
        raise self.error(node, f"cuda.{name}() is not known to the CPU's runtime")

    def grid(self, name: str, dimensions: int) -> ast.expr:
        """cuda.grid(n), cuda.gridsize(n) spelt out: a number, or a tuple of n."""
        text = "cuda.blockIdx.{0} * cuda.blockDim.{0} + cuda.threadIdx.{0}"
        text = text if name == "grid" else "cuda.gridDim.{0} * cuda.blockDim.{0}"
        parts = [ast.parse(text.format(d), mode="eval").body for d in "xyz"[:dimensions]]
        return self.visit(parts[0] if dimensions == 1 else ast.Tuple(parts, ast.Load()))

    # ------------------------------------------------------------ array[index]

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            return node
        site = self.site(node)
        return ast.copy_location(self.call(cpu.load, *self.parts(node), site), node)

    def parts(self, node: ast.Subscript) -> tuple[ast.expr, ast.expr]:
        """The array and index of an element, rewritten."""
        if any(isinstance(n, ast.Slice) for n in ast.walk(node.slice)):
            raise self.error(node, f"{ast.unparse(node)}: kernels take elements, not slices")
        return self.visit(node.value), self.visit(node.slice)

    def temporary(self) -> tuple[ast.Name, ast.Name]:
        self.temporaries += 1
        name = f"__t{self.temporaries}"
        return ast.Name(name, ast.Store()), ast.Name(name, ast.Load())

    def store(self, target: ast.Subscript, value: ast.expr) -> ast.Expr:
        site = self.site(target)
        made = ast.Expr(self.call(cpu.store, *self.parts(target), value, site))
        return ast.copy_location(made, target)

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        """Elements among the targets take their values from temporaries, from left to right."""
        first = node.targets[0]
        self.assigned = first.id if isinstance(first, ast.Name) else "array"
        node.value = self.visit(node.value)
        if len(node.targets) == 1 and isinstance(first, ast.Subscript):
            return [self.store(first, node.value)]
        stores = []

        def plain(target: ast.expr) -> ast.expr:
            if isinstance(target, ast.Subscript):
                to, value = self.temporary()
                stores.append(self.store(target, value))
                return to
            if isinstance(target, ast.Tuple):
                target.elts = [plain(t) for t in target.elts]
            return target

        node.targets = [plain(target) for target in node.targets]
        return [node, *stores]

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        if not isinstance(node.target, ast.Subscript):
            return self.generic_visit(node)
        site = self.site(node.target)
        array, index = self.parts(node.target)
        to, kept = self.temporary()  # the index is worked out once
        old = self.call(cpu.load, array, kept, site)
        new = ast.BinOp(old, node.op, self.visit(node.value))
        changed = ast.Expr(self.call(cpu.store, array, kept, new, site))
        return [ast.copy_location(n, node) for n in (ast.Assign([to], index), changed)]
