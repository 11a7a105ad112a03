"""Everything that can be set: one flat dataclass, every field is `--field value` of train.py."""

from dataclasses import dataclass
from typing import Literal

Preset = Literal["quick", "shakespeare-char-cpu", "shakespeare-char", "gpt2"]


@dataclass(frozen=True)
class Config:
    """Train a GPT, on one process or on many: mpirun -n 4 python train.py --preset quick"""

    preset: Preset = "quick"
    """Named set of defaults for the options below."""
    out: str = ""
    """Run folder. Empty: runs/PRESET, or the next free number after it."""
    resume: bool = False
    """Continue the run in --out (empty: the newest run) from its last checkpoint, exactly."""
    seed: int = 1337
    """Seed of weights, batches and dropout."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Precision of parameters and arithmetic. bfloat16: of matrix products and attention alone;
    parameters, their updates, norms and losses stay float32."""

    data: str = ""
    """Text: a file, folder or glob; "shakespeare"; empty: prose from Python's own docs."""
    tokenizer: str = "bpe"
    """byte, char, bpe, or the path of a Hugging Face tokenizer.json."""
    vocab_size: int = 0
    """Size of the bpe vocabulary to train. 0: 1024 for bpe, the tokenizer's own for others."""
    val_fraction: float = 0.1
    """Share of the text, at its end, kept for validation."""
    lowercase: bool = False
    """Lower-case the text."""
    dedup: bool = False
    """Drop lines that came before."""

    block_size: int = 64
    """Tokens a sample: T, the longest context."""
    n_layer: int = 4
    """Transformer blocks: L."""
    n_head: int = 4
    """Attention heads: H."""
    n_kv_head: int = 0
    """Heads of keys and values, each shared by n_head / n_kv_head queries. 0: as many as n_head."""
    n_embd: int = 128
    """Width: C."""
    dropout: float = 0.0
    """Dropout probability."""
    bias: bool = False
    """Biases in linear layers and norms."""
    position: Literal["learned", "rotary"] = "learned"
    """Position embedding."""
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    """Normalisation."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """Non-linearity of the MLP."""
    tie_embeddings: bool = True
    """Share the token embedding with the output layer."""

    steps: int = 800
    """Optimiser steps."""
    batch_size: int = 16
    """Samples a step, over all ranks."""
    micro_batch_size: int = 0
    """Most samples a rank runs at once; more are accumulated. 0: its whole share."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule."""
    learning_rate: float = 4e-3
    """Peak learning rate."""
    min_lr: float = 4e-4
    """Learning rate at the end of the schedule."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "cosine"
    """Shape of the decay after warm-up."""
    weight_decay: float = 0.1
    """Decay of matrices and embeddings; never of biases and norms."""
    beta1: float = 0.9
    """Decay rate of Adam's first moment."""
    beta2: float = 0.99
    """Decay rate of Adam's second moment."""
    momentum: float = 0.9
    """Momentum of sgd."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 does not clip."""

    dp: int = 0
    """Copies of the model, each with its share of the batch. 0: as many as the ranks make."""
    tp: int = 1
    """Ranks that share each matrix: tensor parallelism."""
    pp: int = 1
    """Stages of consecutive layers: pipeline parallelism. They work side by side only on several
    micro-batches: set --micro_batch_size to a part of a copy's share of the batch."""
    sync: Literal["naive", "bucketed", "zero1", "local-sgd", "parameter-server"] = "bucketed"
    """How copies stay in step: gradients summed one by one after backward, or in buckets during it;
    zero1 also splits the optimiser's state; local-sgd averages parameters every --local_steps."""
    bucket_mb: float = 1.0
    """Megabytes of gradient that are summed together while backward goes on."""
    compress: Literal["none", "bf16", "int8", "topk"] = "none"
    """What is sent of a gradient; what that loses is added to the next one. Not exact."""
    topk_ratio: float = 0.01
    """Share of the gradient that topk sends: the largest values."""
    local_steps: int = 8
    """Steps between the averages of local-sgd."""
    participation: float = 1.0
    """Share of the ranks that train between two averages of local-sgd, drawn anew each time."""
    staleness: int = 0
    """Steps that a rank may be ahead of the slowest with parameter-server. 0: synchronous."""
    sharding: Literal["random", "permutation", "block", "hash"] = "random"
    """Which samples a rank reads: any, any once an epoch, those of a block, those of a hash."""
    balance: Literal["equal", "static", "dynamic"] = "equal"
    """Shares of the batch: equal, by speed measured before the start, or by that of each step."""
    watchdog: float = 60.0
    """Seconds after which a rank that the others wait for is named, and the run ended. 0: never."""
    checksum_interval: int = 100
    """Steps between comparisons of the copies' parameters. 0: never."""
    trace: bool = False
    """Write trace.json, for https://ui.perfetto.dev: what each rank did in some steps, and when."""

    log_interval: int = 10
    """Steps between lines of metrics."""
    eval_interval: int = 200
    """Steps between validation losses."""
    eval_batches: int = 20
    """Batches a validation loss."""
    save_interval: int = 400
    """Steps between checkpoints."""
    prompt: str = ""
    """What the sample at the end begins with; empty: a new line."""
    sample_tokens: int = 200
    """Length of the sample at the end; 0: none."""
