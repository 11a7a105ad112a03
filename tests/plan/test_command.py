"""The command line of a layout: what train.py understands by it, and what it cannot run."""

import shlex
from dataclasses import replace

import pytest

from minillm.cli import plan as cli
from minillm.plan import Layout, predict
from minillm.plan.command import advice, command
from minillm.train.config import PRESETS, parse
from tests.plan.models import SMALL, Model, cores


@pytest.mark.parametrize("preset", cli.PRESETS)
@pytest.mark.parametrize(
    "layout",
    [Layout(micro_batch=3), Layout(2, 2, 3, 1, 4), Layout(dp=8, micro_batch=2), Layout(pp=4)],
    ids=str,
)
def test_train_understands_it(preset, layout):
    """Parsed by train.py, the words give back the sizes, the precision and the grid."""
    planned = replace(
        cli.PRESETS[preset], bias=False, tie_embeddings=False, norm="rms_norm", activation="swiglu"
    )
    words = shlex.split(command(layout, vars(planned), cuda=True))
    if layout.ranks > 1:
        assert words[:3] == ["mpirun", "-n", str(layout.ranks)]
    words = words[words.index("python") :]
    assert words[1] == "train.py"
    config = parse(words[2:])
    for name in vars(planned).keys() & vars(config).keys() - {
        "preset", "tp", "pp", "micro_batch_size", "vocab_size",
    }:  # fmt: skip
        assert getattr(config, name) == getattr(planned, name), name
    assert (config.tp, config.pp, config.dp) == (layout.tp, layout.pp, 0)
    assert config.sync == ("zero1" if layout.zero else "bucketed")
    assert config.micro_batch_size == layout.micro_batch and config.device == "cuda"
    assert config.preset == (preset if preset in PRESETS else "gpt2")


def test_a_vocabulary_is_named_unless_it_is_the_tokenizers():
    quick, chars = (cli.PRESETS[name] for name in ("quick", "shakespeare-char"))
    assert "vocab" not in command(Layout(), vars(quick), False)
    assert "--vocab_size 500" in command(Layout(), vars(replace(quick, vocab_size=500)), False)
    assert "vocab" not in command(Layout(), vars(chars), False)


def test_advice_is_for_the_fastest_that_can_run():
    model, wanted = Model(SMALL, "float32"), vars(cli.PRESETS["quick"])
    layouts = Layout(dp=4, zero=3), Layout(dp=4, zero=2), Layout(dp=4, zero=1), Layout(dp=4)
    found = [predict(model, layout, cores(4), 16) for layout in layouts]
    found[2] = replace(found[2], compute=2 * found[0].seconds - found[2].seconds)
    said = advice(found, wanted, False)
    assert said[0].startswith("train.py has no zero2, zero3 yet: the fastest that it can run takes")
    assert said[1] == "to run dp=4 zero1 micro=1:" and "--sync zero1" in said[2]
    assert advice(found[3:], wanted, False)[0] == "to run dp=4 micro=1:"
    (none,) = advice(found[:1], wanted, False)
    assert none == "train.py has no zero3 yet: it can run none of these layouts"
    (none,) = advice(found, wanted | {"dtype": "mixed"}, False)
    assert "half-precision weights (mixed), zero2, zero3 yet: it can run none" in none
