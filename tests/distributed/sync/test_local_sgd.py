"""Local SGD: own ways within a round, a weighted average after it, sampled ranks, saved state."""

import numpy as np
import pytest

from minillm.distributed import SingleProcess, codecs, run_threads
from minillm.distributed.compression import Compressed
from minillm.distributed.sync import LocalSGD
from minillm.errors import UserError
from minillm.optim import SGD, AdamW
from minillm.tensor import Tensor
from tests.distributed.sync.scenario import train


class Quadratic:
    """|w - target|^2 / 2 on each rank, which counts for so many tokens."""

    def __init__(self, comm, target, tokens=None, lr=0.1, n=7, **options):
        self.w = Tensor(np.zeros(n), requires_grad=True)
        self.target, self.size = np.broadcast_to(target, n), comm.size
        self.tokens = 1 if tokens is None else tokens
        optimizer = options.pop("optimizer", SGD)
        self.sync = LocalSGD(comm, optimizer([self.w], lr), **options)

    def step(self):
        if self.sync.takes_part():
            self.sync.divisor(self.tokens, 10)
            if self.tokens:
                ((self.w - Tensor(self.target)) ** 2 * Tensor(np.full(1, 0.5))).sum().backward()
        self.sync.finish()
        self.sync.step()
        return self.w.data.copy()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_one_local_step_of_plain_sgd_equals_one_process(size):
    def work(comm):
        return train(comm, "local-sgd", "sgd", clip=np.inf, local_steps=1)

    want = train(SingleProcess(), "naive", "sgd", clip=np.inf)
    first, *others = run_threads(size, work)
    assert not first.sync.exact
    assert all(other.flat.tobytes() == first.flat.tobytes() for other in others)
    np.testing.assert_allclose(first.flat, want.flat, rtol=1e-10, atol=0)


def test_a_round_by_hand():
    def work(comm):
        run = Quadratic(comm, target=comm.rank, tokens=[6, 3, 1][comm.rank], local_steps=3)
        sent = comm.bytes_sent
        alone = [run.step(), run.step()]
        quiet = comm.bytes_sent == sent
        return alone, quiet, run.step(), run.sync.exposed_seconds

    results = run_threads(3, work)
    shares, k = np.array([0.6, 0.3, 0.1]), np.arange(3)
    for rank, (alone, quiet, average, exposed) in enumerate(results):
        np.testing.assert_allclose(alone[1], rank * (1 - 0.9**2), rtol=1e-14)
        assert quiet and exposed > 0
        np.testing.assert_allclose(average, (shares * k).sum() * (1 - 0.9**3), rtol=1e-14)
        assert average.tobytes() == results[0][2].tobytes()


def test_tokens_of_all_steps_of_a_round_count():
    def work(comm):
        run = Quadratic(comm, target=comm.rank, local_steps=2)
        for tokens in [(1, 3), (2, 2)], [(5, 0), (0, 5)]:
            for step in tokens:
                run.tokens = step[comm.rank]
                w = run.step()
            yield w

    (first, second), _ = run_threads(2, lambda comm: list(work(comm)))
    np.testing.assert_allclose(first, 5 / 8 * 0.19, rtol=1e-14)  # 3 tokens to 5
    want = 0.5 * 0.9 * first + 0.5 * (first + 0.1 * (1 - first))  # one step each
    np.testing.assert_allclose(second, want, rtol=1e-14)


def test_a_rank_without_data_takes_no_step():
    def work(comm):
        run = Quadratic(
            comm, 0.0, tokens=comm.rank, local_steps=2, lr=0.5,
            optimizer=lambda params, lr: AdamW(params, lr, weight_decay=0.1),
        )  # fmt: skip
        run.w.data += 1  # where weight decay would show
        return run.step(), run.sync.optimizer.steps

    (still, none), (moved, one) = run_threads(2, work)
    assert (still == 1).all() and none == 0
    assert (moved < 0.6).all() and one == 1


def test_sampled_ranks():
    def work(comm):
        run = Quadratic(comm, comm.rank + 1.0, local_steps=2, participation=0.5, seed=3)
        rounds = []
        for _ in range(12):
            chosen, before = run.sync.takes_part(), run.w.data.copy()
            run.step()
            assert chosen == run.sync.takes_part() and chosen == (run.w.data != before).all()
            rounds.append((chosen, before, run.step()))
        return rounds

    results = run_threads(4, work)
    draws = set()
    for rounds in zip(*results):
        chosen = [rank for rank, (part, _, _) in enumerate(rounds) if part]
        assert len(chosen) == 2
        draws.add(tuple(chosen))
        before, after = rounds[0][1], rounds[0][2]
        assert all(other.tobytes() == after.tobytes() for _, _, other in rounds)
        want = 0.81 * before + 0.19 * np.mean([rank + 1 for rank in chosen])
        np.testing.assert_allclose(after, want, rtol=1e-14)
    assert {rank for draw in draws for rank in draw} == {0, 1, 2, 3} and len(draws) > 3


@pytest.mark.parametrize("participation, ranks", [(0.01, 1), (0.5, 2), (0.7, 2), (1.0, 3)])
def test_how_many_ranks_are_drawn(participation, ranks):
    def work(comm):
        return Quadratic(comm, 0.0, participation=participation).sync.takes_part()

    assert sum(run_threads(3, work)) == ranks


def test_settle_ends_the_round():
    def work(comm):
        run = Quadratic(comm, comm.rank, local_steps=3)
        run.step()
        run.sync.settle()
        settled = run.w.data.copy()
        run.sync.settle()
        assert run.w.data.tobytes() == settled.tobytes()
        return settled, run.step(), run.step(), run.step()  # a whole round from here

    (settled, one, two, three), other = run_threads(2, work)
    assert settled.tobytes() == other[0].tobytes() and three.tobytes() == other[3].tobytes()
    assert (one != other[1]).all() and (two != other[2]).all()


def test_ranks_with_other_data_meet_where_their_mean_lies():
    def work(comm):
        run = Quadratic(comm, comm.rank * 3.0, local_steps=8)
        return [run.step() for _ in range(160)][-1]

    np.testing.assert_allclose(run_threads(3, work), 3.0, rtol=1e-6)


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_compressed_changes(codec):
    def work(comm):
        sums = Compressed(codecs.make(codec, ratio=0.2))
        run = Quadratic(comm, np.arange(30) + comm.rank, n=30, local_steps=4, sums=sums)
        run.w.data += 1e6  # parameters themselves would not survive 8 bits
        run.target = run.target + 1e6
        begin = comm.bytes_sent
        first = [run.step() for _ in range(4)][-1]
        sent = comm.bytes_sent - begin
        return first, [run.step() for _ in range(600)][-1], sent

    (first, last, sent), *others = run_threads(3, work)
    assert all(
        (a.tobytes(), b.tobytes()) == (first.tobytes(), last.tobytes()) for a, b, _ in others
    )
    assert sent < 30 * 8
    # From up to 30 away. The ranks' changes never vanish, only their sum does; top-k sends the
    # changes of several rounds at once, so that there the parameters go on to swing by that much.
    most = 1.0 if codec == "topk" else 0.02
    np.testing.assert_allclose(last, np.arange(30) + 1 + 1e6, atol=most, rtol=0)


def test_state_is_the_average_and_goes_on_alike():
    def work(comm):
        run = Quadratic(
            comm, comm.rank, tokens=[3, 1][comm.rank], local_steps=2,
            optimizer=lambda params, lr: SGD(params, lr, momentum=0.5),
        )  # fmt: skip
        run.step()
        run.step()
        own = run.sync.optimizer.groups[0].flat_state("momentum").copy()
        state = run.sync.state_dict()
        assert run.sync.optimizer.groups[0].flat_state("momentum").tobytes() == own.tobytes()
        return own, state

    (own, state), (other, _) = run_threads(2, work)
    assert (own == 0).all() and (other != 0).all()
    np.testing.assert_allclose(state["momentum.0"], 0.25 * other, rtol=1e-14)
    assert state["step"] == [2]

    def go_on(comm):
        run = Quadratic(comm, 0.0, optimizer=lambda params, lr: SGD(params, lr, momentum=0.5))
        run.sync.load_state_dict(state)
        return run.sync.optimizer.groups[0].flat_state("momentum").tolist()

    assert run_threads(3, go_on) == [(0.25 * other).tolist()] * 3


def test_the_state_of_a_rank_that_did_not_train_is_left_out():
    def work(comm):
        run = Quadratic(
            comm, 1.0, local_steps=1, participation=0.3,
            optimizer=lambda params, lr: AdamW(params, lr),
        )  # fmt: skip
        rounds = []
        for _ in range(9):
            part = run.sync.takes_part()
            run.step()
            rounds.append((part, run.sync.optimizer.steps, run.sync.state_dict()["step"].item()))
        return rounds

    for rounds in zip(*run_threads(3, work)):
        [steps] = [steps for part, steps, _ in rounds if part]
        assert all(saved == steps for _, _, saved in rounds)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"local_steps": 0}, "at least 1"),
        ({"participation": 0.0}, "above 0"),
        ({"participation": 1.5}, "at most 1"),
        ({"participation": float("nan")}, "above 0"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(UserError, match=says):
        Quadratic(SingleProcess(), 0.0, **options)
