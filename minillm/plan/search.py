"""Which layouts there are, which fit, which is the fastest; and how that changes with the ranks.

In: a model, a cluster, ranks and a batch; what the user has decided. Out: predictions, best first.
"""

from collections.abc import Iterator

from minillm.errors import UserError
from minillm.plan.clusters import Cluster
from minillm.plan.layout import Layout
from minillm.plan.predict import Prediction, predict
from minillm.plan.workload import Model

ZERO = {"zero1": 1, "zero2": 2, "zero3": 3}
STRATEGIES = ("auto", "dp", *ZERO, "tp", "pp")


def search(
    model: Model, cluster: Cluster, ranks: int, batch: int, strategy: str = "auto", tp: int = 0,
    pp: int = 0, micro_batch: int = 0, recompute: bool = False, per_node: int = 0,
) -> list[Prediction]:  # fmt: skip
    """Predictions of all layouts that fit into memory, the fastest first, one a (dp, tp, pp, zero).

    Args:
        strategy: "auto", or one axis for all ranks: "dp", "tp", "pp", or "zero1" to "zero3".
        tp, pp: fixed by the user; 0: free.
        micro_batch: fixed by the user; 0: free.
        per_node: ranks on a node; 0: as many as it has devices.

    Raises:
        UserError: none is possible, and why the one that was closest is not.
    """
    for name, value in (("ranks", ranks), ("batch_size", batch)):
        if value < 1:
            raise UserError(f"{name} {value}: must be at least 1")
    best: dict[tuple[int, int, int, int], Prediction] = {}
    reason, least = "", None
    for layout in candidates(ranks, batch, strategy, tp, pp, micro_batch, recompute):
        try:
            found = predict(model, layout, cluster, batch, per_node)
        except UserError as error:
            reason = reason or str(error)
            continue
        if found.memory > found.limit:
            least = found if least is None or found.memory < least.memory else least
            continue
        key = layout.dp, layout.tp, layout.pp, layout.zero
        if key not in best or found.seconds < best[key].seconds:
            best[key] = found
    if not best and least is not None:
        reason = (
            f"does not fit: {least.layout} needs {least.memory / 1e9:.1f} GB a rank, which has"
            f" {least.limit / 1e9:.1f}: more ranks, another strategy, or --recompute"
        )
    if not best:
        raise UserError(reason or f"tp {tp} and pp {pp} do not divide {ranks} ranks")
    return sorted(best.values(), key=lambda p: (p.seconds, p.memory))


def candidates(
    ranks: int, batch: int, strategy: str, tp: int, pp: int, micro_batch: int, recompute: bool
) -> Iterator[Layout]:
    """All layouts of these ranks that the user's wishes leave."""
    if strategy not in STRATEGIES:
        raise UserError(f"strategy {strategy!r}: choose {', '.join(STRATEGIES)}")
    if strategy in ("tp", "pp"):
        tp, pp = tp or (ranks if strategy == "tp" else 1), pp or (ranks if strategy == "pp" else 1)
    elif strategy != "auto":
        tp, pp = tp or 1, pp or 1
    stages = (0, 1, 2, 3) if strategy == "auto" else (ZERO.get(strategy, 0),)
    divisors = [d for d in range(1, ranks + 1) if ranks % d == 0]
    for t in [tp] if tp else divisors:
        for p in [pp] if pp else divisors:
            if ranks % (t * p):
                continue
            dp = ranks // (t * p)
            share = -(-batch // dp)
            sizes = [micro_batch] if micro_batch else [1 << k for k in range(share.bit_length())]
            for zero in stages:
                if strategy == "auto" and zero and dp == 1:
                    continue
                for size in sizes:
                    yield Layout(dp, t, p, zero, size, recompute)


def scaling(
    model: Model, cluster: Cluster, batch_per_rank: float, counts: list[int], weak: bool,
    per_node: int = 0, **wishes: object,
) -> list[tuple[int, Prediction | None]]:  # fmt: skip
    """The best layout at each number of ranks, None where there is none.

    Args:
        batch_per_rank: samples; with `weak`, the batch grows with the ranks; else it is that of the
            largest of `counts`, always.
        wishes: what `search` takes besides.
    """
    found = []
    for ranks in counts:
        batch = max(1, round(batch_per_rank * (ranks if weak else max(counts))))
        try:
            best = search(model, cluster, ranks, batch, per_node=per_node, **wishes)[0]
        except UserError:
            best = None
        found.append((ranks, best))
    return found
