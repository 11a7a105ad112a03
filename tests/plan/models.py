"""Models and machines of the tests of minillm.plan."""

from minillm.models.gpt import GPTConfig
from minillm.plan import Cluster, Link, Model

GPT2 = GPTConfig()
SMALL = GPTConfig(block_size=64, vocab_size=128, n_layer=4, n_head=4, n_embd=64)


def megatron(n_head, n_embd, n_layer):
    """A model of Narayanan et al. 2021 and Korthikanti et al. 2022."""
    config = GPTConfig(
        block_size=2048, vocab_size=51200, n_layer=n_layer, n_head=n_head, n_embd=n_embd
    )
    return Model(config, "mixed")


def cores(n=2, inside=None):
    """A machine of `n` cores that take turns, with round numbers."""
    return Cluster(
        name=f"{n} cores", products={"float32": 1e10}, peak={"float32": 2e10}, memory=1e9,
        memory_rate=1e9, overhead=1e-5, inside=inside or Link(1e-5, 1e9, 1e-10), between=None,
        devices=n, overlap=0.0, base=1e8, cores=True,
    )  # fmt: skip
