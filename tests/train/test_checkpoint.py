"""Checkpoints: whole or not there, verified to the byte, refused in one clear line."""

import json
import os

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.train import checkpoint


class Tokenizer:
    def save(self, path):
        path.write_text("{}")


def write(out, step, **state):
    model = {"w": np.full((2, 3), step, np.float32), "t": np.arange(6.0).reshape(2, 3).T}
    return checkpoint.save(out, step, model, {"0.m": np.ones(4)}, Tokenizer(), state)


def test_round_trip(tmp_path):
    path = write(tmp_path, 7, config={"steps": 9})
    saved = checkpoint.load(tmp_path)
    assert saved.path == path and saved.step == 7 and saved.state["config"] == {"steps": 9}
    np.testing.assert_array_equal(saved.model["t"], np.arange(6.0).reshape(2, 3).T)
    np.testing.assert_array_equal(saved.optimizer["0.m"], np.ones(4))


def test_newest_is_loaded_and_the_one_before_is_kept(tmp_path):
    for step in (5, 10, 15):
        write(tmp_path, step)
    assert checkpoint.load(tmp_path).step == 15
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000010", "step-00000015"]


def test_saving_a_step_again_replaces_it(tmp_path):
    write(tmp_path, 5, note="first")
    write(tmp_path, 5, note="second")
    assert checkpoint.load(tmp_path).state["note"] == "second"


def test_leftovers_of_a_killed_save_are_ignored_and_swept(tmp_path):
    write(tmp_path, 5)
    stale = tmp_path / "checkpoints/.tmp-step-00000010-1"
    stale.mkdir()
    (stale / "model.safetensors").write_bytes(b"half")
    assert checkpoint.load(tmp_path).step == 5
    write(tmp_path, 10)
    assert not stale.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damage_is_refused(tmp_path, name, damage):
    path = write(tmp_path, 5) / name
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.unlink()
    with pytest.raises(UserError, match=f"damaged checkpoint: .*{name}.*delete") as error:
        checkpoint.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}', '{"step": 3'])
def test_foreign_folder_is_refused(tmp_path, content):
    folder = tmp_path / "checkpoints/step-00000005"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(content)
    with pytest.raises(UserError, match="is not a checkpoint of minillm"):
        checkpoint.load(tmp_path)


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.load(tmp_path)


def test_a_save_that_fails_leaves_the_last_one_whole(tmp_path, monkeypatch):
    write(tmp_path, 5)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_flush", full)
    with pytest.raises(UserError, match="cannot write.*step-00000010 .*No space left"):
        write(tmp_path, 10)
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))
    monkeypatch.undo()
    assert checkpoint.load(tmp_path).step == 5
    state = json.loads((tmp_path / "checkpoints/step-00000005/state.json").read_text())
    assert state["format"] == checkpoint.FORMAT and os.listdir(tmp_path) == ["checkpoints"]
