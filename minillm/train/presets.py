"""Named sets of defaults: what `--preset NAME` stands for."""

from minillm.train.options import Config

PRESETS: dict[str, Config] = {
    "quick": Config(),
    # nanoGPT's recipe for a CPU, but for twice its learning rate: with two seeds, the
    # validation loss is 1.82 and 1.80 instead of 1.92 and 1.89 (2026-11-22, 200 batches each).
    "shakespeare-char-cpu": Config(
        preset="shakespeare-char-cpu", data="shakespeare", tokenizer="char", block_size=64,
        batch_size=12, steps=2000, learning_rate=2e-3, min_lr=1e-4, warmup_steps=100,
        eval_interval=1000, eval_batches=200, save_interval=500, sample_tokens=500,
    ),
    "shakespeare-char": Config(
        preset="shakespeare-char", data="shakespeare", tokenizer="char", block_size=256, n_layer=6,
        n_head=6, n_embd=384, dropout=0.2, batch_size=64, steps=5000, learning_rate=1e-3,
        min_lr=1e-4, warmup_steps=100, eval_interval=250, eval_batches=10, save_interval=250,
        sample_tokens=500,
    ),
    # GPT-2 small, 124 M parameters (Radford et al. 2019), trained as nanoGPT trains it.
    "gpt2": Config(
        preset="gpt2", vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768,
        bias=True, batch_size=480, micro_batch_size=12, steps=600_000, learning_rate=6e-4,
        min_lr=6e-5, warmup_steps=2000, beta2=0.95, bucket_mb=25.0, eval_interval=1000,
        eval_batches=40, save_interval=1000,
    ),
}  # fmt: skip
