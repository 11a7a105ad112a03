"""Pipeline parallelism: stages of consecutive layers, and micro-batches that follow one another.

Stage s of p has layers [s L // p, (s + 1) L // p); the first also the embeddings, the last the
norm and the head. Activations (B, T, C) go forward from stage to stage, their gradients back. The
order is 1F1B (Narayanan et al. 2019, "PipeDream"; 2021, arXiv 2104.04473, section 2.2): forwards
until the pipeline is full, then one forward, one backward in turn. Three stages, four
micro-batches:

    stage 0    F0 F1 F2 -- -- B0 F3 B1 -- B2 -- B3
    stage 1    -- F0 F1 -- B0 F2 B1 F3 B2 -- B3
    stage 2    -- -- F0 B0 F1 B1 F2 B2 F3 B3

Stage s never holds the activations of more than p - s micro-batches, however many there are. With m
of them a stage idles for (p - 1) / m of the time that it works.

Messages: a receive is posted one step before it is needed, the next activation's when this one is
taken, a gradient's as soon as its activation has left; sends are waited for at the end of the step.
"""

from math import prod
from typing import Any

import numpy as np

from minillm.autograd import no_grad
from minillm.device import Array, xp_of
from minillm.distributed import all_reduce, broadcast, split
from minillm.distributed.comm import Request
from minillm.distributed.spans import span
from minillm.models.gpt import GPT
from minillm.nn import ModuleList, Parameter
from minillm.parallel.grid import Grid
from minillm.parallel.splits import split_of
from minillm.parallel.tensor import split_layers
from minillm.tensor import Tensor

ACTIVATION, GRADIENT = 1, 2  # tags


def schedule(stage: int, stages: int, micro_batches: int) -> list[tuple[str, int]]:
    """What `stage` does in a step: ("forward", i) and ("backward", i), in this order."""
    ahead = min(stages - stage - 1, micro_batches)
    order = [("forward", i) for i in range(ahead)]
    for i in range(ahead, micro_batches):
        order += [("forward", i), ("backward", i - ahead)]
    return order + [("backward", i) for i in range(micro_batches - ahead, micro_batches)]


def split_model(model: GPT, grid: Grid) -> "Pipeline":
    """Cut `model` in place to what this rank of the grid has of it; parameters keep their names.

    A collective of all ranks. Call it before the optimiser is made, and `check` before it.

    Args:
        model: whole, with the same weights on every rank.

    Raises:
        RuntimeError: an optimiser already holds the parameters.
    """
    if any(p.grad_buffer is not None for p in model.parameters()):
        raise RuntimeError("split_model: call it before the optimiser is made")
    pipe = Pipeline(model, grid)
    stage, stages = grid.pp.rank, grid.pp.size
    first, last = pipe.first_layer(stage), pipe.first_layer(stage + 1)
    model.blocks = ModuleList(list(model.blocks)[first:last], first)
    if stage > 0:
        model.position_embedding = None
        if not (pipe.tied and stage == stages - 1):
            model.token_embedding = None
    if stage < stages - 1:
        model.norm = model.lm_head = None
    if grid.tp.size > 1:
        split_layers(model, grid.tp)
    return pipe


class Pipeline:
    """This rank's part of a GPT, and what it says to the stages before and after it.

    With one stage and no tensor parallelism it is the model, as it was.

    Attributes:
        model: the GPT with the layers of this stage, and this rank's share of them.
        shapes: of all parameters of the whole model, by name.
        tied: whether the token embedding is also the output layer.
        late: parameters whose gradient is complete only after `sum_late`.
    """

    def __init__(self, model: GPT, grid: Grid):
        self.model, self.grid = model, grid
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        self.dtype = model.token_embedding.weight.dtype
        self.xp = xp_of(model.token_embedding.weight.data)
        self.tied = model.lm_head is None
        self.late: list[Parameter] = []
        stage, last = grid.pp.rank, grid.pp.size - 1
        if self.tied and last > 0:
            ends = split(grid.pp, int(0 < stage < last))  # the stages between: a group unused
            if stage in (0, last):
                self._ends, self.late = ends, [model.token_embedding.weight]
        self._micro_batches = 0
        self._size = 0  # of the activations of micro-batch 0, which is the largest
        self._coming: dict[tuple[int, int], tuple[Array, Request]] = {}  # by tag, micro-batch
        self._leaving: list[tuple[Request, Array]] = []
        self._alive: dict[int, tuple[Tensor | None, Tensor]] = {}  # input, output
        self._losses: list[Tensor] = []

    # --- which part -------------------------------------------------------------------------------

    def first_layer(self, stage: int) -> int:
        """The first layer of a stage; stages differ by at most 1 layer."""
        return span(self.model.config.n_layer, stage, self.grid.pp.size).start

    def stage_of(self, name: str) -> int:
        """The stage that has a parameter; of a tied table, the first that has it."""
        first, *rest = name.split(".")
        if first != "blocks":
            return self.grid.pp.size - 1 if first in ("norm", "lm_head") else 0
        return next(s for s in range(self.grid.pp.size) if int(rest[0]) < self.first_layer(s + 1))

    def counted(self, name: str) -> bool:
        """Whether this rank's copy of a parameter is the one that the gradient's norm counts: among
        tensor-parallel ranks that have it whole, the first's; of a tied table, the first stage's.
        """
        whole = split_of(name, self.model.config) is None
        return not (whole and self.grid.tp.rank) and self.stage_of(name) == self.grid.pp.rank

    def shared(self, name: str) -> str:
        """With which ranks of `grid.model` this one shares a parameter: "tp" for those of its
        stage, "pp" for the other end of a tied table, "" for none."""
        if self.late and name == "token_embedding.weight":
            return "pp"
        whole = split_of(name, self.model.config) is None
        return "tp" if whole and self.grid.tp.size > 1 else ""

    # --- a step -----------------------------------------------------------------------------------

    def schedule(self, micro_batches: int) -> list[tuple[str, int]]:
        """The calls of `forward` and `backward` that make a step, in order. Call it each step.

        The numbers of copies of the model need not be equal.
        """
        self._micro_batches = micro_batches
        return schedule(self.grid.pp.rank, self.grid.pp.size, micro_batches)

    def forward(self, i: int, x: Any, y: Any, scale: float) -> None:
        """Micro-batch i through this stage; on the last one, its loss (sum over tokens) * scale.

        Args:
            x, y: ids and targets (B, T), the same on all ranks of `grid.model`. No micro-batch may
                have more of them than micro-batch 0.
        """
        shape = self._shape(x)
        if i == 0:
            self._size = prod(shape)
        elif prod(shape) > self._size:
            raise ValueError(f"micro-batch {i} is larger than micro-batch 0: put the largest first")
        inputs = None
        if self.grid.pp.rank > 0:
            arrived = self._receive(ACTIVATION, i, self._size)[: prod(shape)]
            inputs = Tensor(arrived.reshape(shape), requires_grad=True)
            if i + 1 < self._micro_batches:
                self._expect(ACTIVATION, i + 1, self._size)
        out = self._through(x, inputs)
        if self._is_last:
            out = self.model.loss(self.model.head(out), y, "sum", inplace=True) * scale
            self._losses.append(out.detach())
        else:
            self._send(ACTIVATION, out.data, self._size)
            self._expect(GRADIENT, i, prod(shape))
        self._alive[i] = inputs, out

    def backward(self, i: int) -> None:
        """The gradient of micro-batch i, back through this stage."""
        inputs, out = self._alive.pop(i)
        if self._is_last:
            out.backward()
        else:
            out.backward(self._receive(GRADIENT, i, out.data.size).reshape(out.shape))
        if inputs is not None:
            self._send(GRADIENT, inputs.grad.data, inputs.data.size)

    def sum_late(self) -> None:
        """Sum the gradient of a tied table over its two ends; call it when backward is done."""
        for p in self.late:
            if p.grad is None:
                p.accumulate_grad(self.xp.zeros(p.shape, p.dtype))
            all_reduce(self._ends, p.grad.data.reshape(-1))

    def losses(self) -> float:
        """The sum of the losses since the last call, on every rank of `grid.model`. Ends a step:
        what this rank has sent has left."""
        for request, _ in self._leaving:
            request.wait()
        self._leaving.clear()
        total = np.array([sum(loss.item() for loss in self._losses)], np.float64)
        self._losses.clear()
        broadcast(self.grid.pp, total, root=self.grid.pp.size - 1)
        return total.item()

    @no_grad()
    def evaluate(self, x: Any, y: Any) -> float:
        """The sum of the losses of ids and targets (B, T), on the last stage; elsewhere 0."""
        shape, pp = self._shape(x), self.grid.pp
        inputs = None
        if pp.rank > 0:
            arrived = self.xp.empty(prod(shape), self.dtype)
            pp.recv(arrived, pp.rank - 1, ACTIVATION)
            inputs = Tensor(arrived.reshape(shape))
        out = self._through(x, inputs)
        if self._is_last:
            return self.model.loss(self.model.head(out), y, "sum", inplace=True).item()
        pp.send(self.xp.ascontiguousarray(out.data).reshape(-1), pp.rank + 1, ACTIVATION)
        return 0.0

    # --- its parts --------------------------------------------------------------------------------

    @property
    def _is_last(self) -> bool:
        return self.grid.pp.rank == self.grid.pp.size - 1

    def _shape(self, x: Any) -> tuple[int, ...]:
        return (*x.shape, self.model.config.n_embd)

    def _through(self, x: Any, inputs: Tensor | None) -> Tensor:
        """This stage's layers (B, T, C): of ids x on the first, of `inputs` on the others."""
        return self.model.run_blocks(self.model.embed(x) if inputs is None else inputs)

    def _peer(self, tag: int, sending: bool) -> int:
        return self.grid.pp.rank + (1 if sending == (tag == ACTIVATION) else -1)

    def _expect(self, tag: int, i: int, size: int) -> None:
        """Post a receive."""
        array = self.xp.empty(size, self.dtype)
        request = self.grid.pp.irecv(array, self._peer(tag, sending=False), tag)
        self._coming[tag, i] = array, request

    def _receive(self, tag: int, i: int, size: int) -> Array:
        """What a receive, posted before or now, has brought: (size,)."""
        if (tag, i) not in self._coming:
            self._expect(tag, i, size)
        array, request = self._coming.pop((tag, i))
        request.wait()
        return array

    def _send(self, tag: int, array: Array, size: int) -> None:
        """Send `array` in a message of `size` elements: the receiver may not know how many come."""
        flat = self.xp.ascontiguousarray(array).reshape(-1)
        if flat.size < size:
            flat, shorter = self.xp.zeros(size, self.dtype), flat
            flat[: shorter.size] = shorter
        self._leaving = [(r, kept) for r, kept in self._leaving if not r.test()]
        self._leaving.append((self.grid.pp.isend(flat, self._peer(tag, sending=True), tag), flat))
