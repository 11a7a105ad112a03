"""The command line: every field an option, what cannot work refused in a line."""

import dataclasses

import pytest

from minillm.errors import UserError
from minillm.optim.schedules import SCHEDULES
from minillm.train.build import build_schedule
from minillm.train.config import PRESETS, Config, check, parse, parse_resumed


def test_defaults_are_the_quick_preset():
    assert parse([]) == PRESETS["quick"] == Config()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_presets_and_options_on_top(name, form):
    words = ["--preset", name] if form == "two words" else [f"--preset={name}"]
    assert parse([*words, "--steps", "7"]) == dataclasses.replace(PRESETS[name], steps=7)


def test_every_field_is_an_option_and_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for field in dataclasses.fields(Config):
        assert f"--{field.name}" in out, field.name


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--stps", "3"], "--steps"),
        (["--steps", "3.5"], "--steps"),
        (["--dtype", "float8"], "float32"),
        (["--device", "tpu"], "cuda"),
        (["--preset", "huge"], "gpt2"),
        (["--learning_rate", "fast"], "--learning"),
    ],
)
def test_tyro_refuses_with_the_nearest_name(argv, says, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(argv)
    assert stop.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--steps", "-1"], "--steps -1"),
        (["--dropout", "1"], r"--dropout 1.0: must be in \[0, 1\)"),
        (["--learning_rate", "nan"], "--learning_rate nan"),
        (["--val_fraction", "1.5"], "--val_fraction 1.5"),
        (["--bucket_mb", "0"], "--bucket_mb 0"),
        (["--bucket_mb", "inf"], "--bucket_mb inf: must be a finite number"),
        (["--n_embd", "130"], "n_embd 130 is not divisible by n_head 4: set n_embd to"),
        (["--n_kv_head", "3"], "n_head 4 is not divisible by n_kv_head 3"),
        (["--seed", str(2**64)], "--seed 18446744073709551616: must be below"),
        (["--learning_rate", "1e-4", "--min_lr", "2e-4"], "--min_lr 0.0002 is above --learning"),
    ],
)
def test_values_that_cannot_work(argv, says):
    with pytest.raises(UserError, match=says) as error:
        parse(argv)
    assert "\n" not in str(error.value)


def test_the_last_of_repeated_options_counts():
    assert parse(["--preset", "gpt2", "--preset=shakespeare-char"]) == PRESETS["shakespeare-char"]


def test_every_schedule_is_offered():
    for name in SCHEDULES:
        config = parse(["--schedule", name, "--steps", "100", "--warmup_steps", "10"])
        assert 0 < build_schedule(config)(50) <= 1


def test_presets_pass_their_own_check():
    for preset in PRESETS.values():
        check(preset)


def test_resume_takes_the_saved_options():
    saved = dataclasses.asdict(dataclasses.replace(PRESETS["gpt2"], steps=50, out="runs/x"))
    config, changed = parse_resumed(["--resume"], saved)
    assert dataclasses.replace(config, resume=False) == Config(**saved) and changed == []
    config, changed = parse_resumed(["--resume", "--steps", "80"], saved)
    assert config.steps == 80 and changed == ["steps 50 -> 80"]


@pytest.mark.parametrize("argv", [["--n_layer", "3"], ["--seed", "2"], ["--batch_size", "8"]])
def test_resume_refuses_what_the_weights_depend_on(argv):
    with pytest.raises(UserError, match=f"--resume cannot change {argv[0][2:]}"):
        parse_resumed(["--resume", *argv], dataclasses.asdict(Config()))


def test_resume_refuses_options_of_another_version():
    with pytest.raises(UserError, match="another version"):
        parse_resumed([], {**dataclasses.asdict(Config()), "warp": 9})
