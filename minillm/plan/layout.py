"""How ranks share a model and a batch: dp x tp x pp on the grid of minillm/parallel/grid.py, ZeRO's
stage, micro-batches.
"""

from dataclasses import dataclass
from math import ceil

from minillm.errors import UserError
from minillm.models.gpt import GPTConfig
from minillm.parallel import grid


@dataclass(frozen=True)
class Layout:
    """A way to train on dp * tp * pp ranks.

    Attributes:
        dp: copies of the model, each with its share of the batch.
        tp: ranks that share each matrix.
        pp: stages of consecutive layers, on 1F1B: one micro-batch forward, one backward.
        zero: what data-parallel ranks split instead of all having it: 1 optimiser state, 2
            gradients too, 3 weights too (Rajbhandari et al. 2020, arXiv 1910.02054).
        micro_batch: samples that are computed at once.
        recompute: keep only the input of each block, and compute the rest again in backward.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    zero: int = 0
    micro_batch: int = 1
    recompute: bool = False

    @property
    def ranks(self) -> int:
        """How many it takes."""
        return self.dp * self.tp * self.pp

    def __str__(self) -> str:
        words = [f"{axis}={n}" for axis in ("dp", "tp", "pp") if (n := getattr(self, axis)) > 1]
        words += [f"zero{self.zero}"] * (self.zero > 0)
        return " ".join([*(words or ["one rank"]), f"micro={self.micro_batch}"])

    def micro_batches(self, batch: int) -> int:
        """Of the rank with the largest share of `batch` samples."""
        return ceil(ceil(batch / self.dp) / self.micro_batch)

    def stages(self, n_layer: int) -> list[tuple[int, bool, bool]]:
        """Of each stage of the pipeline: its layers, whether it is the first, whether the last."""
        bounds = [stage * n_layer // self.pp for stage in range(self.pp + 1)]
        return [
            (stop - start, start == 0, stop == n_layer) for start, stop in zip(bounds, bounds[1:])
        ]

    def check(self, config: GPTConfig, batch: int) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: why.
        """
        if min(self.dp, self.tp, self.pp, self.micro_batch) < 1:
            raise UserError(f"dp {self.dp}, tp {self.tp}, pp {self.pp}: all must be at least 1")
        grid.check(config, self.ranks, self.dp, self.tp, self.pp, batch)
        if self.zero > 1 and self.pp > 1:
            raise UserError(
                f"zero{self.zero} with pp {self.pp}: every micro-batch in the pipeline would move"
                " gradients or weights; use zero1"
            )
        if self.zero and self.dp == 1:
            raise UserError(f"zero{self.zero} with dp 1: there is nobody to split with")
