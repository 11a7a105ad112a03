"""Predictions beside published measurements. The bands are what was found, not a promise: nothing
in the model was fitted to these numbers."""

import pytest

from minillm.models.gpt import GPTConfig
from minillm.plan import Layout, Model, predict, published
from tests.plan.models import megatron

# Narayanan et al. 2021, "Efficient large-scale language model training on GPU clusters using
# Megatron-LM", arXiv 2104.04473, table 1: parameters in billions, heads, width, layers, tensor- and
# pipeline-parallel size, GPUs, batch, teraFLOP/s per GPU. With recomputation.
TABLE_1 = [
    (1.7, 24, 2304, 24, 1, 1, 32, 512, 137),
    (3.6, 32, 3072, 30, 2, 1, 64, 512, 138),
    (7.5, 32, 4096, 36, 4, 1, 128, 512, 142),
    (18.4, 48, 6144, 40, 8, 1, 256, 1024, 135),
    (39.1, 64, 8192, 48, 8, 2, 512, 1536, 138),
    (76.1, 80, 10240, 60, 8, 4, 1024, 1792, 140),
    (145.6, 96, 12288, 80, 8, 8, 1536, 2304, 148),
    (310.1, 128, 16384, 96, 8, 16, 1920, 2160, 155),
    (529.6, 128, 20480, 105, 8, 35, 2520, 2520, 163),
    (1008.0, 160, 25600, 128, 8, 64, 3072, 3072, 163),
]


def teraflops(model, batch, seconds, ranks):
    """Per GPU, by the paper's equation 3, which counts the recomputation."""
    c, s = model.config, model.config.block_size
    h, layers, V = c.n_embd, c.n_layer, c.vocab_size
    operations = 96 * batch * s * layers * h * h * (1 + s / (6 * h) + V / (16 * layers * h))
    return operations / seconds / ranks / 1e12


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: f"{row[0]}B")
def test_megatrons_table_1(row):
    """The larger the model, the closer. All predictions are above what was measured: no network is
    ever congested here, and kernels are today's. What costs the first three rows most was not
    looked into."""
    billions, heads, width, layers, tp, pp, ranks, batch, measured = row
    model, dp = megatron(heads, width, layers), ranks // (tp * pp)
    assert model.parameters / 1e9 == pytest.approx(billions, abs=0.06)
    found = min(
        (
            predict(model, Layout(dp, tp, pp, 0, size, True), published("a100"), batch)
            for size in (1, 2, 4, 8)
            if size * dp <= batch
        ),
        key=lambda p: p.seconds,
    )
    ratio = teraflops(model, batch, found.seconds, ranks) / measured
    assert found.memory < 80e9
    assert 1.0 < ratio < (1.7 if tp == 1 else 1.5 if tp < 8 else 1.25)


# Korthikanti et al. 2022, "Reducing activation recomputation in large transformer models", arXiv
# 2205.05198, table 5, full recomputation: seconds of an iteration; heads, width, layers, tensor-
# and pipeline-parallel size, batch, micro-batch.
TABLE_5 = [
    (1.42, 64, 6144, 48, 8, 1, 4, 4),
    (18.13, 96, 12288, 96, 8, 8, 64, 1),
    (49.05, 128, 20480, 105, 8, 35, 280, 1),
    (94.42, 160, 25600, 128, 8, 64, 512, 1),
]


@pytest.mark.parametrize("row", TABLE_5, ids=lambda row: f"{row[0]}s")
def test_korthikantis_table_5(row):
    """Within 15 %. Theirs interleave the pipeline's stages, which shortens the bubble; ours have no
    attention matrix: the two errors work against each other."""
    seconds, heads, width, layers, tp, pp, batch, size = row
    layout = Layout(1, tp, pp, 0, size, recompute=True)
    found = predict(megatron(heads, width, layers), layout, published("a100"), batch)
    assert found.seconds == pytest.approx(seconds, rel=0.15)


def test_zero_papers_memory():
    """Rajbhandari et al. 2020, arXiv 1910.02054, figure 1: 7.5 B parameters on 64 GPUs need 120,
    31.4, 16.6 and 1.9 GB for weights, gradients and optimiser state."""
    model = Model(GPTConfig(n_layer=37, n_head=32, n_embd=4096), "mixed")
    for zero, want in enumerate((120, 31.4, 16.6, 1.9)):
        found = predict(model, Layout(64, zero=zero), published("a100"), 64)
        states = found.weights + found.gradients + found.state
        assert states * 7.5e9 / model.parameters / 1e9 == pytest.approx(want, rel=0.02)


def test_gpt3s_parameters_and_memory():
    """174.6 B parameters (Brown et al. 2020, arXiv 2005.14165, table 2.1: 175.0 B), which take 16
    bytes each: 44 GB on each of 64 GPUs, too much for one of 80 GB together with 34 T C bytes of
    activations for each of 12 layers and 8 micro-batches (Korthikanti et al. 2022, figure 1)."""
    model = megatron(96, 12288, 96)
    assert model.parameters == pytest.approx(174.6e9, rel=1e-3)
    full = predict(model, Layout(1, 8, 8), published("a100"), 64)
    states = full.weights + full.gradients + full.state
    assert states == pytest.approx(16 * 174.6e9 / 64, rel=0.05)
    assert full.memory > 60e9
    assert predict(model, Layout(1, 8, 8, recompute=True), published("a100"), 64).memory < 60e9


@pytest.mark.parametrize("ranks, size, measured", [(384, 4, 144), (768, 2, 88), (1536, 1, 44)])
def test_zero3_without_model_parallelism_is_only_a_bound(ranks, size, measured):
    """Narayanan et al. 2021, table 2: 174.6 B parameters under DeepSpeed's ZeRO-3, 1,536 samples.
    The model is far too kind here, 1.8 to 5.3 times: it lets every byte hide, at full bandwidth."""
    model = megatron(96, 12288, 96)
    found = predict(model, Layout(ranks, zero=3, micro_batch=size, recompute=True),
                    published("a100"), 1536)  # fmt: skip
    assert 1.5 < teraflops(model, 1536, found.seconds, ranks) / measured < 5.5
