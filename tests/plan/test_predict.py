"""Properties that a prediction must have."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from minillm.distributed.threads import run_threads
from minillm.errors import UserError
from minillm.models.gpt import GPT
from minillm.parallel import Grid, Pipeline, schedule, split_model
from minillm.plan import Layout, Link, Model, predict, published, scaling, search
from minillm.random import manual_seed
from tests.plan.models import GPT2, SMALL, cores

H100 = published("h100")
MODEL = Model(GPT2)


def of(layout, batch=512, model=MODEL, cluster=H100):
    return predict(model, layout, cluster, batch)


def test_the_bubble_is_that_of_1f1b():
    layout = Layout(dp=2, pp=4, micro_batch=4)
    assert layout.micro_batches(64) == 8
    equal = Model(dataclasses.replace(GPT2, vocab_size=1))  # but for embeddings and a norm
    found = of(layout, 64, equal)
    assert 3 / 8 < found.bubble / found.compute < 0.4
    assert of(dataclasses.replace(layout, micro_batch=1), 64, equal).bubble < found.bubble


def stage(model, layers, first, last):
    """Seconds of a micro-batch of 1 on a core of `cores()`, forward and backward."""
    return 3 * model.stage(1, layers, first, last).seconds(1e10, 1e9, 1e-5)


@pytest.mark.parametrize("stages, m", [(2, 5), (3, 1), (3, 7), (4, 3)])
def test_unequal_stages_wait_for_the_slowest(stages, m):
    """As the schedule of parallel/pipeline.py, played through with these times and free messages;
    5 layers, and the logits on the last stage."""
    model = Model(dataclasses.replace(SMALL, n_layer=5), "float32")
    layout = Layout(pp=stages)
    kinds = layout.stages(5)
    took = [stage(model, *kind) for kind in kinds]
    done = {}
    orders = [iter(schedule(s, stages, m)) for s in range(stages)]
    waiting, clock = [next(order) for order in orders], [0.0] * stages
    while any(waiting):
        for s, item in enumerate(waiting):
            needs = item and (item[0], s - 1 if item[0] == "forward" else s + 1, item[1])
            if not item or (0 <= needs[1] < stages and needs not in done):
                continue
            share = 1 / 3 if item[0] == "forward" else 2 / 3
            clock[s] = done[(item[0], s, item[1])] = (
                max(clock[s], done.get(needs, 0.0)) + share * took[s]
            )
            waiting[s] = next(orders[s], None)
    found = predict(model, layout, cores(stages), m)
    assert found.compute == pytest.approx(m * sum(took) / stages)
    assert found.compute + found.bubble == pytest.approx(max(clock), rel=0.02)


def test_stages_are_those_of_the_pipeline():
    for layers, stages in ((5, 2), (7, 3), (12, 12), (4, 1)):
        grid = SimpleNamespace(pp=SimpleNamespace(rank=0, size=stages))
        pipe = Pipeline(GPT(dataclasses.replace(SMALL, n_layer=layers, tie_embeddings=False)), grid)
        bounds = [pipe.first_layer(s) for s in range(stages + 1)]
        found = Layout(pp=stages).stages(layers)
        assert [n for n, _, _ in found] == [b - a for a, b in zip(bounds, bounds[1:])]
        assert [i for i, (_, first, _) in enumerate(found) if first] == [0]
        assert [i for i, (_, _, last) in enumerate(found) if last] == [stages - 1]


def test_ranks_that_wait_leave_their_core_to_others():
    """4 ranks on 2 cores have no bubble: while a stage waits, the other has the cores."""
    model = Model(SMALL, "float32")
    one, two = Layout(pp=2), Layout(dp=2, pp=2)
    assert predict(model, one, cores(2), 4).bubble > 0
    crowded = predict(model, two, cores(2), 8, 4)
    assert crowded.bubble == 0
    work = 8 * (stage(model, 2, True, False) + stage(model, 2, False, True))
    assert crowded.compute == pytest.approx(work / 2)


@pytest.mark.parametrize("tp, pp, tie", [(2, 1, True), (2, 2, False), (2, 2, True), (1, 3, True)])
def test_sums_and_messages_are_those_of_a_run(tp, pp, tie):
    """Bytes that the ranks of minillm.parallel send in a step, and seconds on links of 1 byte a
    second where nothing else takes time."""
    config, m, b = dataclasses.replace(SMALL, tie_embeddings=tie), 3, 2
    ids = np.zeros((b, config.block_size), np.int64)

    def step(comm):
        manual_seed(0)
        model = GPT(config).to("float32")
        pipe = split_model(model, Grid(comm, 1, tp, pp))
        comm.barrier()
        before = comm.bytes_sent
        for kind, i in pipe.schedule(m):
            pipe.forward(i, ids, ids, 1.0) if kind == "forward" else pipe.backward(i)
        pipe.sum_late()
        return comm.bytes_sent - before

    sent = sum(run_threads(tp * pp, step))
    link = Link(0.0, 1.0)
    free = dict(products={"float32": 1e30}, memory_rate=1e30, overhead=0.0)
    machine = dataclasses.replace(cores(8, link), **free)
    found = predict(Model(config, "float32"), Layout(tp=tp, pp=pp, micro_batch=b), machine, m * b)
    table = 4 * config.n_embd * config.vocab_size / tp
    ends = 2 * tp * link.all_reduce(2, table) if tie and pp > 1 else 0.0
    messages = found.pipeline * m / (m + pp - 1) * (pp - 1) * tp
    assert sent == pytest.approx(found.tensor * tp * pp + messages + ends, rel=0.01)


def test_parts_add_up():
    found = of(Layout(dp=4, tp=2, pp=2, zero=1, micro_batch=2))
    parts = found.compute + found.bubble + found.tensor + found.pipeline + found.data
    assert found.seconds == pytest.approx(parts + found.update)
    assert min(found.bubble, found.tensor, found.pipeline, found.data, found.update) > 0
    assert found.tokens_per_second == pytest.approx(512 * 1024 / found.seconds)


def test_zero_splits_state_then_gradients_then_weights():
    stages = [of(Layout(dp=8, zero=zero, micro_batch=8)) for zero in range(4)]
    assert stages[1].state == stages[0].state / 8
    assert stages[2].gradients == stages[0].gradients / 8
    assert stages[3].weights == stages[0].weights / 8
    assert stages[2].weights == stages[0].weights == 4 * MODEL.parameters
    memory = [stage.memory for stage in stages[:3]]
    assert memory == sorted(memory, reverse=True)


@pytest.mark.parametrize("axis", ["tp", "pp"])
def test_memory_falls_with_every_split(axis):
    found = [of(Layout(**{axis: n}, micro_batch=1), 1).memory for n in (1, 2, 4)]
    assert found == sorted(found, reverse=True) and found[2] < 0.6 * found[0]


def test_recomputing_takes_time_and_saves_memory():
    kept, again = (of(Layout(dp=8, micro_batch=8, recompute=r)) for r in (False, True))
    assert again.activations < kept.activations / 2
    assert 1.2 < again.compute / kept.compute < 4 / 3  # the logits are not computed again


def test_micro_batches_save_memory():
    assert of(Layout(dp=8, micro_batch=2)).memory < of(Layout(dp=8, micro_batch=16)).memory


def test_communication_that_hides_and_that_does_not():
    layout = Layout(dp=64, micro_batch=8)
    hidden = of(layout)
    bare = of(layout, cluster=dataclasses.replace(H100, overlap=0.0))
    assert hidden.data < bare.data / 3
    slow = dataclasses.replace(H100, between=Link(2e-6, 1e8))
    assert of(layout, cluster=slow).data > 10 * hidden.data


def test_efficiency_is_at_most_one():
    alone = of(Layout(micro_batch=8))
    assert alone.efficiency == pytest.approx(1) and alone.exposed == alone.bubble == 0
    for p in search(MODEL, H100, 64, 512):
        assert 0 < p.efficiency <= 1 and 0 < p.mfu < 1


def test_tensor_parallelism_wants_one_node():
    model = Model(dataclasses.replace(GPT2, n_head=16, n_embd=1024))
    one, two = (of(Layout(tp=n, micro_batch=1), 8, model).tensor for n in (8, 16))
    assert two > 1.5 * one


def test_every_layout_found_has_all_ranks_and_fits():
    for ranks in (1, 6, 48):
        for p in search(MODEL, H100, ranks, 96):
            assert p.layout.ranks == ranks and p.memory <= p.limit
            assert 12 % p.layout.tp == 0 and p.layout.pp <= 12


def test_the_best_comes_first_and_wishes_are_kept():
    found = search(MODEL, H100, 16, 128)
    assert [p.seconds for p in found] == sorted(p.seconds for p in found)
    fixed = search(MODEL, H100, 16, 128, tp=2, pp=2, micro_batch=4)
    assert {(p.layout.tp, p.layout.pp, p.layout.micro_batch) for p in fixed} == {(2, 2, 4)}
    for strategy, want in (("dp", (16, 1, 0)), ("zero2", (16, 1, 2)), ("pp", (1, 1, 0))):
        ranks = 12 if strategy == "pp" else 16
        (p,) = search(MODEL, H100, ranks, 128, strategy)
        assert (p.layout.dp, p.layout.tp, p.layout.zero) == want


def test_a_step_gets_faster_and_then_no_more():
    counts = [1 << k for k in range(15)]
    found = scaling(MODEL, H100, 512 / counts[-1], counts, weak=False)
    times = [p.seconds for n, p in found if n <= 32]
    assert times == sorted(times, reverse=True) and times[0] > 25 * times[-1]
    efficiency = [p.efficiency for _, p in found if p]
    assert efficiency[0] == pytest.approx(1) and efficiency[-1] < 0.3
    weak = scaling(MODEL, H100, 8, counts, weak=True)
    assert weak[-1][1].efficiency > 5 * efficiency[-1] / 2


def test_a_model_too_large_for_few_ranks_is_a_gap():
    gpt3 = Model(dataclasses.replace(GPT2, n_layer=96, n_head=96, n_embd=12288), "mixed")
    found = scaling(gpt3, H100, 1, [1, 8, 64, 512], weak=True)
    assert found[0] == (1, None) and found[-1][1].memory <= 80e9


def test_ranks_that_share_cores_take_turns():
    model, machine = Model(SMALL, "float32"), cores(2)
    two, four, eight = (
        predict(model, Layout(dp=n, micro_batch=16 // n), machine, 16, n) for n in (2, 4, 8)
    )
    assert two.seconds < four.seconds < eight.seconds
    assert four.update == pytest.approx(2 * two.update)
    assert two.limit == 1e9 and eight.limit == 0.25e9
    alone = predict(model, Layout(micro_batch=16), machine, 16, 1)
    assert alone.limit == 2e9  # it has both cores, and all memory
    assert machine.for_ranks(1).products["float32"] == 2e10
    three = cores(3).for_ranks(2)
    assert three.products["float32"] == 1e10  # as env.py: 3 // 2 cores each


REFUSED = [
    (Layout(tp=5), 8, "tp 5 does not divide 12 heads"),
    (Layout(pp=13), 8, "pp 13 is more stages than the 12 layers"),
    (Layout(dp=9), 8, "batch_size 8 over 9 copies of the model leaves some without a sample"),
    (Layout(dp=2, pp=2, zero=3), 8, "zero3 with pp 2"),
    (Layout(zero=1), 8, "zero1 with dp 1"),
    (Layout(dp=0), 8, "all must be at least 1"),
    (Layout(), 0, "batch_size 0"),
]


@pytest.mark.parametrize("layout, batch, says", REFUSED, ids=lambda x: str(x))
def test_what_cannot_be_is_refused(layout, batch, says):
    with pytest.raises(UserError, match=says):
        of(layout, batch)


def test_what_the_cluster_cannot_is_refused():
    with pytest.raises(UserError, match="16 ranks a node, but H100 SXM has 8 GPUs"):
        predict(MODEL, Layout(dp=16), H100, 16, per_node=16)
    with pytest.raises(UserError, match="no rate of bfloat16 products is known for 2 cores"):
        of(Layout(), cluster=cores())
    small = Model(SMALL, "float32")
    with pytest.raises(UserError, match="links between nodes are not measured"):
        predict(small, Layout(dp=4), cores(), 4, per_node=2)
    unlinked = dataclasses.replace(cores(), inside=None)
    with pytest.raises(UserError, match="links between ranks are not measured"):
        predict(small, Layout(dp=2), unlinked, 4, per_node=2)
    assert predict(small, Layout(), unlinked, 4, per_node=1).seconds > 0
    with pytest.raises(UserError, match="no cluster is called 'tpu': choose a100, h100, h200 or"):
        published("tpu")


def test_nothing_fits_names_what_came_closest():
    gpt3 = Model(dataclasses.replace(GPT2, n_layer=96, n_head=96, n_embd=12288), "mixed")
    with pytest.raises(UserError, match="does not fit: .* needs .* GB a rank, which has 80.0"):
        search(gpt3, H100, 8, 8)
    with pytest.raises(UserError, match="tp 3 and pp 0 do not divide 8 ranks"):
        search(MODEL, H100, 8, 8, tp=3)
    with pytest.raises(UserError, match="strategy 'fsdp': choose auto, dp, zero1"):
        search(MODEL, H100, 8, 8, "fsdp")
