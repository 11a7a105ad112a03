"""--trace: the file is what Perfetto reads, nothing is missing from it, and its figures add up."""

import json
import time
from collections import defaultdict
from contextlib import nullcontext

import numpy as np
import pytest

from minillm import autograd, nn
from minillm import functional as F
from minillm.distributed import DistributedDataParallel, SingleProcess, all_reduce, run_threads
from minillm.distributed.clocks import Offsets
from minillm.errors import UserError
from minillm.optim import AdamW, param_groups
from minillm.random import manual_seed
from minillm.tensor import Tensor
from minillm.train import timeline
from minillm.train.activity import exposed, union
from minillm.train.trace import Noted, Off, Trace
from tests.programs import mpirun


def train(comm, path, steps=5, kind=Trace, **options):
    """A small network, traced; the Trace."""
    trace = kind(comm, **options)
    manual_seed(3)
    model = nn.Linear(37, 61)
    optimizer = AdamW(param_groups(model, 0.1), 1e-3)
    groups = [group.flat for group in optimizer.groups]
    ddp = DistributedDataParallel(trace.comm, groups, bucket_bytes=1000)
    for step in range(1, steps + 1):
        for last in (False, True):
            with trace.span("data"):
                x = Tensor(np.random.default_rng(step).random((5, 37), np.float32))
            with nullcontext() if last else ddp.no_sync():
                F.gelu(model(x)).sum().backward()
        ddp.finish()
        with trace.span("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
        with trace.span("evaluate"):
            time.sleep(0.01)
            all_reduce(trace.comm, np.ones(3))
        trace.step(step)
    trace.write(path)
    return trace


@pytest.fixture(params=[1, 2, 3, 4])
def traced(request, tmp_path, capsys):
    """(number of ranks, trace events, what was printed)."""
    path = tmp_path / "trace.json"
    run_threads(request.param, lambda comm: train(comm, path, first=1, steps=4))
    return request.param, json.loads(path.read_text()), capsys.readouterr().out


def bars(content, row=""):
    """Complete events, of the rows whose name begins with `row`."""
    events = content["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    complete = [e for e in events if e["ph"] == "X"]
    return [e for e in complete if names[e["pid"], e["tid"]].startswith(row)]


def test_it_is_the_trace_event_format(traced):
    ranks, content, _ = traced
    assert content["displayTimeUnit"] == "ms"
    for event in content["traceEvents"]:
        assert event["ph"] in "XMsf" and isinstance(event["name"], str)
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] != "M":
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
    names = [e["args"]["name"] for e in content["traceEvents"] if e["name"] == "process_name"]
    assert names == [f"rank {rank}" for rank in range(ranks)]


def test_bars_of_a_row_lie_beside_or_inside_one_another(traced):
    rows = defaultdict(list)
    for e in bars(traced[1]):
        rows[e["pid"], e["tid"]].append(e)
    for events in rows.values():
        open_until = []
        for e in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
            while open_until and open_until[-1] <= e["ts"] + 1e-6:
                open_until.pop()
            assert not open_until or e["ts"] + e["dur"] <= open_until[-1] + 1.1e-3, e
            open_until.append(e["ts"] + e["dur"])


def test_every_step_has_its_parts(traced):
    ranks, content, _ = traced
    for rank in range(ranks):
        names = [e["name"] for e in bars(content, "step") if e["pid"] == rank]
        assert [n for n in names if n.startswith("step ")] == ["step 2", "step 3", "step 4"]
        assert names.count("data") == names.count("forward") == names.count("backward") == 6
        assert names.count("optimizer") == names.count("evaluate") == 3
        ops = [e["name"] for e in bars(content, "compute") if e["pid"] == rank]
        assert ops.count("linear forward") == ops.count("gelu backward") == 6


def test_messages_are_whole(traced):
    ranks, content, _ = traced
    sends, receives = bars(content, "sends"), bars(content, "receives")
    arrows = defaultdict(list)
    for e in content["traceEvents"]:
        if e["ph"] in "sf":
            arrows[e["id"]].append(e)
    assert len(sends) == len(receives) == len(arrows)
    assert sum(e["args"]["bytes"] for e in sends) == sum(e["args"]["bytes"] for e in receives)
    for start, end in arrows.values():
        assert (start["ph"], end["ph"]) == ("s", "f") and start["pid"] != end["pid"]
    assert (len(sends) >= 3 * 3 * ranks) == (ranks > 1)  # 3 steps, 2 buckets and 1 count


def test_what_it_prints(traced):
    ranks, _, out = traced
    assert "steps 2 to 4" in out and "exposed communication, of a step: " in out
    assert out.count(" on rank ") == ranks
    assert ("clocks of the ranks agree within" in out) == (ranks > 1)
    assert "linear backward" in out


def test_sizes_and_parts_of_a_ring(tmp_path):
    def work(comm):
        trace = Trace(comm, first=0, steps=1)
        all_reduce(trace.comm, np.ones(300, np.float32), algorithm="ring")
        before = comm.bytes_sent
        trace.step(1)
        trace.write(tmp_path / "t.json")
        return before

    sent = run_threads(3, work)
    content = json.loads((tmp_path / "t.json").read_text())
    for rank in range(3):
        own = [e for e in bars(content, "sends") if e["pid"] == rank]
        assert [e["args"]["bytes"] for e in own] == [400] * 4
        chunks = [(rank - 1 - step) % 3 * 400 for step in range(4)]
        assert [e["args"]["part"] for e in own] == [f"bytes {c:,} to {c + 400:,}" for c in chunks]
        right = f"to rank {(rank + 1) % 3}"
        halves = [f"reduce-scatter {k}" for k in (1, 2)] + [f"all-gather {k}" for k in (1, 2)]
        assert [e["name"] for e in own] == [f"{half} {right}" for half in halves]
        collectives = [e for e in bars(content, "collectives") if e["pid"] == rank]
        assert [e["name"] for e in collectives[1:]] == ["reduce-scatter", "all-gather"]
        assert "test_trace.py" in collectives[0]["args"]["source"]
    assert min(sent) >= 1600


def test_only_the_steps_asked_for_are_recorded(tmp_path):
    trace = train(SingleProcess(), tmp_path / "t.json", steps=20)
    names = [e["name"] for e in bars(json.loads((tmp_path / "t.json").read_text()), "step")]
    numbers = [int(name.split()[1]) for name in names if name.startswith("step ")]
    assert numbers == list(range(3, 13))
    assert not trace.comm.recording and not autograd.observers
    assert trace.comm.flight.calls.maxlen is not None


def test_it_stops_before_memory_does(tmp_path, monkeypatch):
    monkeypatch.setattr("minillm.train.trace.MOST", 20)
    train(SingleProcess(), tmp_path / "t.json", steps=9)
    names = [e["name"] for e in bars(json.loads((tmp_path / "t.json").read_text()), "step")]
    assert "step 4" in names and "step 5" not in names  # 12 ops each


def test_a_run_too_short_says_so(tmp_path, capsys):
    train(SingleProcess(), tmp_path / "t.json", steps=2)
    assert "nothing" in capsys.readouterr().out and not (tmp_path / "t.json").exists()
    assert not autograd.observers


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot write the trace"):
        run_threads(2, lambda comm: train(comm, tmp_path / "no/t.json"))
    assert not autograd.observers


def test_off_leaves_everything_as_it_is(tmp_path):
    comm = SingleProcess()
    assert train(comm, tmp_path / "t.json", kind=Off).comm is comm
    assert not list(tmp_path.iterdir())


def test_parameters_are_those_of_a_run_without(tmp_path):
    def final(comm, kind):
        manual_seed(3)
        trace = kind(comm)
        x = Tensor(np.full((4, 5), 1.0 + comm.rank, np.float32))
        w = Tensor(np.ones((5, 5), np.float32), requires_grad=True)
        (x @ w).sum().backward()
        all_reduce(trace.comm, w.grad.data.reshape(-1))
        return w.grad.data.tobytes()

    assert run_threads(3, lambda c: final(c, Trace)) == run_threads(3, lambda c: final(c, Off))


def test_exposed_is_what_nothing_hides():
    """By hand: an op to 1.0, a collective from 0.5 to 3.0 that waits 1.5 to 2.5, an op from 4.0."""
    from minillm.distributed.messages import Message

    call = dict(name="all_reduce", number=7, tag=0, bytes=4000, began=0.5, ended=3.0)
    message = Message(False, 1, 0, 4000, 0, 0.5, 2.5, waited=1.5)
    hidden = Message(False, 1, 0, 4000, 0, 0.1, 0.9)  # found done by a test between two ops
    ops = [("backward", "gelu", 0.2, 1.0), ("backward", "linear", 4.0, 5.0)]
    noted = Noted([(1, 0.0, 6.0)], [], ops, [call], [hidden, message])
    assert exposed(noted) == [((1.0, 3.0), "all_reduce #7 4 kB")]
    noted.spans = [("optimizer", 2.9, 3.5)]  # what is inside it is its own affair
    assert exposed(noted) == [((1.0, 2.9), "all_reduce #7 4 kB")]
    assert timeline._seconds(noted, [(1.0, 2.9)]) == pytest.approx(1.9)
    noted.spans = [("evaluate", 2.0, 2.5)]
    assert timeline._seconds(noted, [(1.0, 2.9)]) == pytest.approx(1.4)


def test_clocks_of_other_ranks_are_moved(tmp_path):
    """Rank 1's clock is 100 s ahead at first and 100.2 s ahead a second later."""
    op = [("forward", "gelu", 1.0, 1.5)]
    late = [("forward", "gelu", 101.1, 101.7)]
    noted = [Noted([(1, 0.9, 2.0)], [], op), Noted([(1, 100.98, 102.3)], [], late)]
    first, last = Offsets(0.5, [0.0, 100.0], [0, 1e-3]), Offsets(1.5, [0.0, 100.2], [0, 2e-3])
    text = timeline.write(tmp_path / "t.json", noted, first, last)
    assert "within 2000 us" in text
    ops = bars(json.loads((tmp_path / "t.json").read_text()), "compute")
    assert [(e["ts"], e["dur"]) for e in ops] == [pytest.approx((1e5, 5e5))] * 2


def test_union_joins_what_touches():
    assert union([(3, 4), (0, 1), (1, 2), (3.5, 3.6)]) == [(0, 2), (3, 4)]


def test_train_py_on_real_ranks(tmp_path):
    """Its spans are there, evaluation is no part of a step's time, and the losses stay the same."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat, and the rat sat on the cat.\n" * 60)
    losses = []
    for options in ([], ["--trace"]):
        out = tmp_path / f"run{len(options)}"
        done = mpirun(
            2, "train.py", "--data", tmp_path / "text.txt", "--out", out, "--steps", 6,
            "--batch_size", 6, "--tokenizer", "byte", "--block_size", 16, "--n_layer", 2,
            "--n_head", 2, "--n_embd", 16, "--eval_batches", 2, "--eval_interval", 3,
            "--sample_tokens", 0, "--log_interval", 1, *options,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([r.get("loss", r.get("val_loss")) for r in records])
    assert losses[0] == losses[1]
    assert "trace    steps 3 to 6" in done.stdout
    content = json.loads((out / "trace.json").read_text())
    for rank in range(2):
        names = {e["name"] for e in bars(content, "step") if e["pid"] == rank}
        assert {"forward", "backward", "data", "optimizer", "step 6"} <= names
        assert set(timeline.NO_TRAINING) <= names | {"save"}  # the last one is after the last step
    assert not (tmp_path / "run0/trace.json").exists()
