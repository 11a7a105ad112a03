"""Strategies: how data-parallel ranks are kept in step. One file each, all of them a Strategy.

    naive             sums each gradient after backward                    exact
    bucketed          sums buckets of gradients during backward            exact, the default
    zero1             as bucketed, optimiser state and update split        exact
    local-sgd         averages parameters every k steps                    fewer messages, not exact
    parameter-server  ranks push gradients, servers update, ranks pull     exact if synchronous

Compression of gradients (compression.py) goes with any of them and is never exact.
"""

from minillm.distributed.sync.base import Strategy
from minillm.distributed.sync.bucketed import Bucketed
from minillm.distributed.sync.local_sgd import LocalSGD
from minillm.distributed.sync.naive import Naive
from minillm.distributed.sync.parameter_server import ParameterServer
from minillm.distributed.sync.zero1 import Zero1

STRATEGIES: dict[str, type[Strategy]] = {
    "naive": Naive,
    "bucketed": Bucketed,
    "zero1": Zero1,
    "local-sgd": LocalSGD,
    "parameter-server": ParameterServer,
}

__all__ = ["STRATEGIES", "Strategy", *(kind.__name__ for kind in STRATEGIES.values())]
