"""local-sgd: ranks train on their own, and every k steps their parameters are averaged.

    p_r <- p_r - lr u_r(g_r)                    k times, with rank r's own gradient and optimiser
    p   <- sum over ranks of n_r / n p_r        n_r: tokens rank r trained on since the last average

(Stich 2019, "Local SGD converges fast and communicates little", arXiv 1805.09767.) With a sampler
it is federated averaging (McMahan et al. 2017, arXiv 1602.05629): in each round of k steps only
some ranks train, drawn anew for each round; the others wait and take the average.

Cost of a round with n numbers on p ranks: one all-reduce of n, so that of a step

    1 / k * (2 (p - 1) / p * n bytes / bandwidth)

all of it exposed. With compression it is the change since the last average that is sent, which
takes a copy of the parameters: n numbers more.

What it gives up. It is another method: with k > 1 the ranks' gradients are those of different
parameters, and the more the ranks drift apart in a round, the less the average is worth. Momentum
and Adam's moments stay with their rank and are never averaged while it trains; a checkpoint holds
their average, so that a resumed run goes on from one state on all ranks, not from each its own.
Evaluation and checkpoints end a round early. With k = 1 and SGD without momentum or clipping it
equals one process on the whole batch.
"""

from typing import Any

import numpy as np

from minillm.device import Array
from minillm.distributed.collectives import global_count
from minillm.distributed.compression import Plain
from minillm.distributed.steps import run
from minillm.distributed.sync.base import Strategy, over
from minillm.distributed.tree import reduce
from minillm.errors import UserError
from minillm.kernels.reduce import sum_of_squares
from minillm.optim import ParamGroup


class LocalSGD(Strategy):
    """Averages parameters every `local_steps` steps.

    Args:
        local_steps: k, how many steps a round has.
        participation: the share of the ranks that train in a round, rounded, but at least one.
        seed: of their drawing, with the number of the round; a resumed run counts rounds from 0.
        **options: as Strategy takes them.

    Raises:
        UserError: no local steps, or a participation outside (0, 1].
    """

    exact = False
    owed = "owed_changes"  # of parameters
    replicas = False  # but after an average

    def __init__(
        self,
        *args: Any,
        local_steps: int = 8,
        participation: float = 1.0,
        seed: int = 0,
        **options: Any,
    ):
        if local_steps < 1:
            raise UserError(f"local SGD with {local_steps} local steps: it takes at least 1")
        if not 0 < participation <= 1:
            raise UserError(f"participation is {participation}: it must be above 0, and at most 1")
        super().__init__(*args, **options)
        self.local_steps, self.participation, self.seed = local_steps, participation, seed
        self.round = self.steps = 0  # steps of this round
        self._step_tokens = self._tokens = 0  # of this rank, in this step and in this round
        self._share = 1 / self.comm.size  # n_r / n of the last average
        self._common: list[Array] = []  # the parameters a round began with, if needed

    def takes_part(self) -> bool:
        p = self.comm.size
        drawn = np.random.default_rng((self.seed, self.round)).permutation(p)
        return self.comm.rank in drawn[: max(1, round(self.participation * p))]

    def divisor(self, own: int, everyone: int) -> int:
        self._step_tokens = own
        return super().divisor(own, everyone)

    def finish(self) -> None:
        for group in self.optimizer.groups:
            group.flat.fill_missing_grads()
        with self.exposed():
            self.sum_late()
        grads = (group.flat.grad for group in self.optimizer.groups)
        self.own_squares = sum(float(sum_of_squares(grad)) for grad in grads)

    def step(self, grad_scale: float = 1.0, lr_scale: float = 1.0) -> None:
        """Take a local step, where this rank had data; after the last of a round, average."""
        if self.steps == 0 and not isinstance(self.sums, Plain):
            self._common = [group.flat.data.copy() for group in self.optimizer.groups]
        if self._step_tokens:  # else there is nothing to learn, but weight decay would go on
            self.optimizer.step(grad_scale, lr_scale)
        self.optimizer.zero_grad()
        self._tokens += self._step_tokens
        self._step_tokens = 0
        self.steps += 1
        if self.steps == self.local_steps:
            self.settle()

    def settle(self) -> None:
        """Average now, and begin a new round."""
        if not self.steps:
            return
        with self.exposed():
            everyone = global_count(self.comm, self._tokens)
            if everyone:
                self._share = self._tokens / everyone
                self._average()
        self.round += 1
        self.steps = self._tokens = 0

    def _average(self) -> None:
        """p <- c + sum of shares (p_r - c): the same bits on all ranks. c is 0 or `_common`."""
        for i, group in enumerate(self.optimizer.groups):
            data = group.flat.data
            if self._common:
                data -= self._common[i]
            data *= self._share
            run(self.sums.all_reduce(self.comm, data, i))
            if self._common:
                data += self._common[i]
            group.flat.changed()

    def flat_state(self, group: ParamGroup, name: str) -> np.ndarray:
        """The ranks' average, by their tokens in the last round."""
        array = group.flat_state(name) * self._share
        reduce(self.comm, array)
        return array

    def state_dict(self) -> dict[str, np.ndarray]:
        state = super().state_dict()
        state["step"] = np.array([round(over(self.comm, self._share * self.optimizer.steps))])
        return state
