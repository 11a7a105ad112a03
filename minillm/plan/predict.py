"""A layout's step: its time, part by part, and its memory.

    t_s  = compute + tensor-parallel sums of a micro-batch, forward and backward, on stage s
    step = sum_s t_s + (m - 1) max_s t_s                 m micro-batches through pp stages (1F1B)
           + messages between stages
           + what of the gradients' communication backward did not hide + update + two scalars

Ranks that share cores take turns, and one that waits gives way: a step takes as long as all work on
all cores, or as that sum where it is longer.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from minillm.errors import UserError
from minillm.plan.clusters import Cluster
from minillm.plan.layout import Layout
from minillm.plan.links import Group
from minillm.plan.workload import Model, Work

# Bytes of gradient that are summed together; the last ones have nothing to hide behind.
BUCKET = 25 << 20


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step by cause, bytes of a rank by use.

    Attributes:
        compute: forward and backward of all micro-batches, in the mean of the stages.
        bubble: waiting for the pipeline to fill and to drain, and for its slowest stage.
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
    rates = machine.products[model.dtype], machine.memory_rate, machine.overhead

    def seconds(work: Work) -> float:
        return work.seconds(*rates)

    def total(nbytes: float) -> float:
        """Seconds to sum over tp: of a copy, so it is read and written."""
        return tp_group.all_reduce(nbytes) + seconds(Work(0, 2 * nbytes, 1)) if tp > 1 else 0.0

    # --- forward and backward: all micro-batches through all stages -------------------------------
    edge, rows = model.boundary(b), b * config.block_size
    stages = layout.stages(config.n_layer)
    working, summing = 0.0, 0.0  # a micro-batch, all stages together
    passes = []  # of each kind of stage: whole, forward, backward
    for kind, count in Counter(stages).items():
        layers, first, last = kind
        forward = seconds(model.stage(b, *kind, tp))
        again = seconds(model.layer(b, tp) * layers) if layout.recompute else 0.0
        # Two sums a block in forward, two in backward (parallel/tensor.py); the embeddings, and the
        # gradient of the last norm; the loss (vocabulary.py).
        sums = 2 * layers * ((1 + layout.recompute) * total(model.terms(b)) + total(edge))
        sums += total(edge) * (first + last) + (total(4 * rows) + total(8 * rows)) * last
        passes.append((3 * forward + again + sums, forward, 2 * forward + again))
        working += count * (3 * forward + again)
        summing += count * sums
    slowest, forward, backward = max(passes)
    alone = machine.turns(min(local, dp * tp)) / machine.turns(local)  # while other stages wait
    whole = (working + summing + (m - 1) * slowest) * alone
    compute, tensor = m * working / pp, m * summing / pp
    bubble = max(whole - compute - tensor, 0.0)
    pipeline = (m + pp - 1) * 2 * pp_group.send(edge) if pp > 1 else 0.0

    # --- gradients, weights and their update ------------------------------------------------------
    layers = max(layers for layers, _, _ in stages)
    own = max(model.stage_parameters(*kind, tp) for kind in set(stages))
    grads, weights = own * model.grad, own * model.weight
    ends = config.n_embd * config.vocab_size / tp * model.grad  # of a tied table, on two stages
    ends *= pp > 1 and config.tie_embeddings
    data = _data_parallel(layout, dp_group, grads, weights, layers, m, forward, backward,
                          machine.overlap, max(BUCKET, ends)) if dp > 1 else 0.0  # fmt: skip
    if ends:
        data += machine.group(2, tp * dp * (pp - 1), local).all_reduce(ends)
    if layout.ranks > 1:  # the loss and the norm of the gradient
        data += 2 * machine.group(layout.ranks, 1, local).all_reduce(8)
    update = seconds(model.update(own / (dp if layout.zero else 1)))

    # --- all work of a step, split evenly, none of it done twice ----------------------------------
    one = model.stage(b, config.n_layer, True, True)
    extra = model.layer(b) * config.n_layer if layout.recompute else Work()
    ideal = seconds((one * 3 + extra) * (batch / b) + model.update(model.parameters))

    # Stage s has pp - s micro-batches under way, the last has the logits.
    block = model.activations(b, tp)
    kept = max(
        layers * min(pp - s, m) * (edge if layout.recompute else block) + last * model.logits(b, tp)
        for s, (layers, _, last) in enumerate(stages)
    )
    kept += block * layout.recompute
    kept += 2 * weights / layers * (layout.zero > 2)  # of this layer and of the next one
    zero, tokens = layout.zero, batch * config.block_size
    return Prediction(
        layout=layout, compute=compute, bubble=bubble,
        tensor=tensor, pipeline=pipeline, data=data, update=update,
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
    backward: float, overlap: float, bucket: float,
) -> float:  # fmt: skip
    """Seconds of a step for gradients and weights of data-parallel ranks that backward and forward
    do not hide; what comes last of backward, `bucket` bytes, is never hidden."""

    def exposed(collective: Callable[[float], float], nbytes: float, behind: float) -> float:
        return max(collective(nbytes) - overlap * behind, collective(min(nbytes, bucket)))

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
