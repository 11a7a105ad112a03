"""What a GPT has to compute and to keep: operations, bytes moved, parameters, activations.

In: a GPTConfig and a precision. Out: counts for one rank, which has 1 / tp of every matrix and some
of the layers. All is linear in Work, so that a machine's three rates can be fitted to times.

Precisions, bytes a parameter (weights, gradients, optimiser state), an activation, and one of the
residual stream:

    float32     4 + 4 + 8, 4, 4
    bfloat16    4 + 4 + 8, 2, 4    ours (autocast.py): products in bfloat16, all sums in float32
    mixed       2 + 2 + 12, 2, 2   ZeRO's and Megatron's: a float32 copy of half-precision weights
                                   (Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054, section 3)
"""

from dataclasses import dataclass

from minillm.errors import UserError
from minillm.models.gpt import GPTConfig

# weights, gradients, optimiser state, activation, residual stream
PRECISIONS = {"float32": (4, 4, 8, 4, 4), "bfloat16": (4, 4, 8, 2, 4), "mixed": (2, 2, 12, 2, 2)}
KERNELS = 12  # of a layer, forward: 2 norms, 4 products, attention, activation, 2 additions, splits


@dataclass(frozen=True)
class Work:
    """Floating-point operations of products, bytes read and written, kernels started."""

    flops: float = 0.0
    nbytes: float = 0.0
    kernels: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.flops + other.flops, self.nbytes + other.nbytes, self.kernels + other.kernels
        )

    def __mul__(self, n: float) -> "Work":
        return Work(self.flops * n, self.nbytes * n, self.kernels * n)

    def seconds(self, products: float, memory_rate: float, overhead: float) -> float:
        """On a device with these rates, one kernel after another."""
        return self.flops / products + self.nbytes / memory_rate + self.kernels * overhead


class Model:
    """A GPT as a load: everything is per rank of `tp`, per sample where it depends on the batch."""

    def __init__(self, config: GPTConfig, dtype: str = "bfloat16"):
        if dtype not in PRECISIONS:
            raise UserError(f"dtype {dtype!r}: choose {', '.join(PRECISIONS)}")
        self.config, self.dtype = config, dtype
        self.weight, self.grad, self.state, self.act, self.stream = PRECISIONS[dtype]

    # --- parameters -------------------------------------------------------------------------------

    def layer_parameters(self, tp: int = 1) -> float:
        """Of one block, on one of `tp` ranks: matrices are split, norms are not."""
        c, C, M = self.config, self.config.n_embd, self.config.mlp_size
        qkv = C + 2 * c.kv_heads * c.head_size
        wide = M if c.activation == "gelu" else 2 * M
        norm = C * (2 if c.bias and c.norm == "layer_norm" else 1)
        split = C * qkv + C * C + C * wide + M * C + (qkv + wide if c.bias else 0)
        return split / tp + 2 * norm + (2 * C if c.bias else 0)

    def stage_parameters(self, layers: int, first: bool, last: bool, tp: int = 1) -> float:
        """Of `layers` blocks and what the first or the last stage of a pipeline has besides.

        With tied embeddings, both ends have the token embedding.
        """
        c, C = self.config, self.config.n_embd
        table = C * c.vocab_size / tp
        n = layers * self.layer_parameters(tp)
        if first:
            n += table + (C * c.block_size if c.position == "learned" else 0)
        if last:
            n += C * (2 if c.bias and c.norm == "layer_norm" else 1)
            n += 0 if c.tie_embeddings and first else table
        return n

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return int(self.stage_parameters(self.config.n_layer, True, True))

    # --- work of one sample -----------------------------------------------------------------------

    def _product(self, rows: float, inner: float, columns: float) -> Work:
        moved = rows * inner + inner * columns + rows * columns
        return Work(2 * rows * inner * columns, self.act * moved, 0)

    def layer(self, samples: float, tp: int = 1) -> Work:
        """Forward of one block. Backward is twice that: two products for each of forward."""
        c, C, T, M = self.config, self.config.n_embd, self.config.block_size, self.config.mlp_size
        rows = samples * T
        qkv = C + 2 * c.kv_heads * c.head_size
        wide = M if c.activation == "gelu" else 2 * M
        work = self._product(rows, C, qkv / tp) + self._product(rows, C / tp, C)
        work += self._product(rows, C, wide / tp) + self._product(rows, M / tp, C)
        # Attention without its matrix: reads q, k, v, writes the output. As in `flops_per_token`,
        # the causal half is not deducted.
        attention = Work(4 * samples * T * T * C / tp, self.act * rows * (qkv + C) / tp)
        # Norms read and write C each, residual additions read 2 C, of which one is a product's, and
        # write C; the activation reads what the first product wrote and writes M.
        moved = self.stream * 8 * C + self.act * (2 * C + (wide + M) / tp)
        return work + attention + Work(0, rows * moved, KERNELS)

    def embedding(self, samples: float) -> Work:
        """Forward of looking up tokens and adding positions; backward is twice that."""
        moved = 3 * samples * self.config.block_size * self.config.n_embd
        return Work(0, self.stream * moved, 2)

    def head(self, samples: float, tp: int = 1) -> Work:
        """Forward of last norm, logits and loss; backward is twice that."""
        C, V = self.config.n_embd, self.config.vocab_size
        rows = samples * self.config.block_size
        moved = self.stream * 3 * rows * C + 8 * rows * V / tp  # the loss reads logits in float32
        return self._product(rows, C, V / tp) + Work(0, moved, 4)

    def stage(self, samples: float, layers: int, first: bool, last: bool, tp: int = 1) -> Work:
        """Forward of `layers` blocks and what the first or the last stage of a pipeline has
        besides."""
        work = self.layer(samples, tp) * layers
        work += self.embedding(samples) if first else Work()
        return work + (self.head(samples, tp) if last else Work())

    def update(self, parameters: float) -> Work:
        """Clipping and AdamW: reads weights, gradients and state, writes weights and state, and
        clears gradients."""
        each = 2 * self.weight + 3 * self.grad + 2 * self.state
        return Work(0, each * parameters, 10)

    # --- memory -----------------------------------------------------------------------------------

    def activations(self, samples: float, tp: int = 1) -> float:
        """Bytes that one block keeps for backward.

        34 T C bytes a sample in half precision (Korthikanti et al. 2022, arXiv 2205.05198, equation
        1, without the attention matrix, which is never stored); 2 of them are dropout masks, which
        ours draws again. Its equation 2: with tensor parallelism all but inputs and norms is split.
        Inputs of norms are of the residual stream.
        """
        c, C, M = self.config, self.config.n_embd, self.config.mlp_size
        wide = M if c.activation == "gelu" else 2 * M
        qkv = C + 2 * c.kv_heads * c.head_size
        split = qkv + C + wide + M
        return samples * c.block_size * (self.stream * 2 * C + self.act * (2 * C + split / tp))

    def boundary(self, samples: float) -> float:
        """Bytes of the residual stream: what passes between stages, what tensor parallelism sums
        in backward, and all that a block keeps if it is computed again there."""
        return samples * self.config.block_size * self.stream * self.config.n_embd

    def terms(self, samples: float) -> float:
        """Bytes of a product that enters the residual stream: what tensor parallelism sums in
        forward."""
        return samples * self.config.block_size * self.act * self.config.n_embd

    def logits(self, samples: float, tp: int = 1) -> float:
        """Bytes of the logits, whose gradient takes their place."""
        return samples * self.config.block_size * 4 * self.config.vocab_size / tp
