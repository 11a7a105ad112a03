"""A layout's step: its time, part by part, and its memory.

    step = (m + pp - 1) * (compute + tensor-parallel sums + stage messages)      m micro-batches
           + what of the gradients' communication backward did not hide + update + two scalars

The slowest stage sets the pace. Where layers do not divide, it is one with a layer more.
"""

from collections.abc import Callable
from dataclasses import dataclass

from minillm.errors import UserError
from minillm.plan.clusters import Cluster
from minillm.plan.layout import Layout
from minillm.plan.links import Group
from minillm.plan.workload import Model, Work

BUCKET = 25e6  # bytes of gradient that are summed together; the last one has nothing to hide behind


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step by cause, bytes of a rank by use.

    Attributes:
        compute: forward and backward of all micro-batches.
        bubble: waiting for the pipeline to fill and to drain.
        tensor, pipeline, data: exposed communication of each axis.
        update: clipping and optimiser.
        ideal: all work of a step, by one rank in as large pieces, over the number of ranks.
        start: broadcast of the weights at the beginning, once.
        weights, gradients, state, activations: bytes of the fullest rank; with activations stand
            logits, and under zero3 the weights of the layers at work.
        base: bytes of the process itself.
        limit: bytes that a rank has.
    """

    layout: Layout
    compute: float
    bubble: float
    tensor: float
    pipeline: float
    data: float
    update: float
    ideal: float
    start: float
    weights: float
    gradients: float
    state: float
    activations: float
    base: float
    limit: float
    tokens: int
    flops: float
    peak: float

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.compute + self.bubble + self.exposed + self.update

    @property
    def exposed(self) -> float:
        """Seconds of communication that nothing hides."""
        return self.tensor + self.pipeline + self.data

    @property
    def memory(self) -> float:
        """Bytes of the fullest rank."""
        return self.weights + self.gradients + self.state + self.activations + self.base

    @property
    def tokens_per_second(self) -> float:
        """Of all ranks."""
        return self.tokens / self.seconds

    @property
    def efficiency(self) -> float:
        """Of scaling: the ideal time over the step's."""
        return self.ideal / self.seconds

    @property
    def mfu(self) -> float:
        """Model's operations (`GPT.flops_per_token`) over what the devices' peak could do."""
        return self.flops / self.seconds / self.peak


def predict(
    model: Model, layout: Layout, cluster: Cluster, batch: int, per_node: int = 0
) -> Prediction:
    """What a step of `batch` samples takes.

    Args:
        per_node: ranks on a node; 0: as many as it has devices.

    Raises:
        UserError: the layout, or the cluster, cannot do it. Too little memory is no error here.
    """
    if batch < 1:
        raise UserError(f"batch_size {batch}: must be at least 1")
    layout.check(model.config, batch)
    local = min(layout.ranks, per_node or cluster.devices)
    machine = cluster.for_ranks(local)
    if model.dtype not in machine.products:
        raise UserError(
            f"no rate of {model.dtype} products is known for {cluster.name}: choose"
            f" {', '.join(machine.products)}"
        )
    dp, tp, pp, b = layout.dp, layout.tp, layout.pp, layout.micro_batch
    tp_group = machine.group(tp, 1, local)
    dp_group = machine.group(dp, tp, local)
    pp_group = machine.group(pp, tp * dp, local)
    config, m = model.config, layout.micro_batches(batch)
    b = min(b, -(-batch // dp))
    layers = -(-config.n_layer // pp)
    rates = machine.products[model.dtype], machine.memory_rate, machine.overhead

    def seconds(work: Work) -> float:
        return work.seconds(*rates)

    # --- one micro-batch on the slowest stage: the last, with the logits --------------------------
    forward = seconds(model.layer(b, tp) * layers + model.head(b, tp))
    backward = 2 * forward
    passes = 2  # of a block: each sums the residual stream over tp twice (Shoeybi et al. 2019)
    if layout.recompute:
        backward += seconds(model.layer(b, tp) * layers)
        passes += 1
    edge = model.boundary(b)
    tensor = m * 2 * (passes * layers + 1) * tp_group.all_reduce(edge) if tp > 1 else 0.0
    pipeline = m * 2 * pp_group.send(edge) if pp > 1 else 0.0
    compute = m * (forward + backward)

    # --- gradients, weights and their update ------------------------------------------------------
    own = max(
        model.stage_parameters(layers, True, pp == 1, tp),
        model.stage_parameters(layers, pp == 1, True, tp),
    )
    grads, weights = own * model.grad, own * model.weight
    data = _data_parallel(layout, dp_group, grads, weights, layers, m, forward, backward,
                          machine.overlap) if dp > 1 else 0.0  # fmt: skip
    if pp > 1 and config.tie_embeddings:  # both ends have the table: their gradients are summed
        table = config.n_embd * config.vocab_size / tp * model.grad
        data += 2 * pp_group.send(table)
    if layout.ranks > 1:  # the loss and the norm of the gradient
        data += 2 * machine.group(layout.ranks, 1, local).all_reduce(8)
    update = seconds(model.update(own / (dp if layout.zero else 1)))

    # --- all work of a step, split evenly, none of it done twice ----------------------------------
    whole = model.layer(b) * config.n_layer + model.head(b)
    extra = model.layer(b) * config.n_layer if layout.recompute else Work()
    ideal = seconds((whole * 3 + extra) * (batch / b) + model.update(model.parameters))

    # The first stage has the most micro-batches under way, the last has the logits.
    block = model.activations(b, tp)
    kept = layers * (edge if layout.recompute else block)
    kept = max(kept * min(pp, m), kept + model.logits(b, tp)) + block * layout.recompute
    kept += 2 * weights / layers * (layout.zero > 2)  # of this layer and of the next one
    zero, tokens = layout.zero, batch * config.block_size
    return Prediction(
        layout=layout, compute=compute, bubble=layout.bubble(batch) * (compute + tensor),
        tensor=tensor, pipeline=pipeline * (1 + layout.bubble(batch)), data=data, update=update,
        ideal=ideal / layout.ranks, start=dp_group.broadcast(weights),
        weights=weights / (dp if zero > 2 else 1), gradients=grads / (dp if zero > 1 else 1),
        state=own * model.state / (dp if zero > 0 else 1), activations=kept, base=machine.base,
        limit=machine.memory, tokens=tokens,
        flops=3 * tokens / config.block_size * (
            model.layer(1).flops * config.n_layer + model.head(1).flops
        ),
        peak=machine.peak[model.dtype] * layout.ranks,
    )  # fmt: skip


def _data_parallel(
    layout: Layout, group: Group, grads: float, weights: float, layers: int, m: int, forward: float,
    backward: float, overlap: float,
) -> float:  # fmt: skip
    """Seconds of a step for gradients and weights of data-parallel ranks that backward and forward
    do not hide; what comes last of backward, a bucket, is never hidden."""

    def exposed(collective: Callable[[float], float], nbytes: float, behind: float) -> float:
        return max(collective(nbytes) - overlap * behind, collective(min(nbytes, BUCKET)))

    if layout.zero == 0:
        return exposed(group.all_reduce, grads, backward)
    if layout.zero == 1:
        return exposed(group.reduce_scatter, grads, backward) + group.all_gather(weights)
    scatter = m * exposed(group.reduce_scatter, grads, backward)
    if layout.zero == 2:
        return scatter + group.all_gather(weights)
    # Weights come layer by layer, ahead of their use, forward and again backward, in every
    # micro-batch; nothing hides the first layer's. Backward has also the gradients to hide.
    first = group.all_gather(weights / layers)
    gather = layers * first
    both = max(gather + layers * group.reduce_scatter(grads / layers) - overlap * backward, first)
    return m * (max(gather - overlap * forward, first) + both)
