"""`minillm plan`: what it prints, draws and refuses."""

import re

import pytest

from minillm import env
from minillm.cli import main
from minillm.cli import plan as module
from minillm.plan.workload import Model
from tests.plan.models import cores


@pytest.fixture
def plan(monkeypatch, tmp_path, capsys):
    """Runs it; exit code, stdout, stderr."""
    monkeypatch.setattr(env, "CACHE", tmp_path)

    def call(*argv):
        code = main(["plan", *argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_best_layouts_of_a_model_on_a_cluster(plan):
    code, out, err = plan("--ranks", "16", "--cluster", "a100", "--price", "2", "--show", "3")
    assert (code, err) == (0, "")
    assert "GPT, 124.4 M parameters: L=12 H=12 C=768 T=1024, bfloat16" in out
    assert "16 ranks on 2 nodes of A100 80GB SXM; from published figures" in out
    assert len(re.findall(r" of 80.0 GB$", out, re.M)) == 3
    assert "cost: 32.00 an hour" in out
    best = re.search(r"^dp=\d+.* (ms|s) +([\d,]+)", out, re.M)
    billion = 32 / 3600 * 1e9 / int(best[2].replace(",", ""))
    assert f"{billion:,.2f} for a billion tokens" in out


def test_no_cost_without_a_price(plan):
    assert "cost" not in plan("--ranks", "8")[1]


@pytest.mark.parametrize(
    "preset, millions", [("gpt2", 124.4), ("gpt2-xl", 1557.6), ("gpt3", 174604.3)]
)
def test_presets_are_the_models_they_name(preset, millions):
    options = module.PRESETS[preset]
    assert Model(module._config(options)).parameters / 1e6 == pytest.approx(millions, abs=0.06)
    assert options.preset == preset


def test_sizes_on_top_of_a_preset(plan):
    out = plan("--preset", "gpt2", "--n_layer", "2", "--strategy", "zero2", "--ranks", "4")[1]
    assert "L=2 " in out and len(re.findall(r"^dp=4 zero2 micro=\d+ ", out, re.M)) == 1


def test_here_is_the_machine_that_was_measured(plan, monkeypatch):
    monkeypatch.setattr(module, "calibrated", lambda: cores(2))
    code, out, err = plan("--cluster", "here", "--ranks", "4", "--preset", "quick")
    assert (code, err) == (0, "") and "4 ranks on 1 node of 2 cores" in out and "float32" in out
    assert "process 100 MB" in out


def test_it_says_what_to_run(plan):
    out = plan("--ranks", "16", "--strategy", "zero1")[1]
    assert "mpirun -n 16 python train.py --preset gpt2 --device cuda --dtype bfloat16" in out
    assert out.rstrip().endswith("--sync zero1")
    assert "train.py has no zero3 yet: it can run none" in plan("--strategy", "zero3")[1]


def test_presets_of_train_leave_layouts_free(plan):
    out = plan("--preset", "gpt2", "--ranks", "4", "--show", "50")[1]
    assert re.search(r"^tp=4 ", out, re.M) and re.search(r"^tp=2 pp=2 ", out, re.M)


def test_a_plot(plan, tmp_path):
    path = tmp_path / "plan.svg"
    code, out, _ = plan("--ranks", "64", "--strategy", "dp", "--plot", str(path))
    assert code == 0 and f"drawn for 1 to 16,384 ranks: {path}" in out
    assert path.read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--ranks", "0"], "--ranks 0: must be at least 1"),
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--tp", "-1"], "--tp -1: must not be negative"),
        (["--price", "nan"], "--price nan: must not be negative"),
        (["--plot", "a.pdf"], "--plot a.pdf: name a file that ends in .svg"),
        (["--cluster", "tpu"], "no cluster is called 'tpu'"),
        (["--cluster", "here"], "not measured yet: mpirun -n 2 minillm plan --calibrate"),
        (["--tp", "5", "--ranks", "5"], "tp 5 does not divide 12 heads"),
        (["--pp", "16", "--ranks", "16"], "pp 16 is more stages than the 12 layers"),
        (["--tp", "3", "--ranks", "8"], "tp 3 and pp 0 do not divide 8 ranks"),
        (["--ranks", "16", "--batch_size", "8", "--strategy", "dp"], "batch_size 8 over 16 copies"),
        (["--strategy", "zero1", "--ranks", "1"], "zero1 with dp 1"),
        (["--gpus_per_node", "16", "--ranks", "16"], "16 ranks a node, but H100 SXM has 8 GPUs"),
        (["--preset", "gpt3", "--ranks", "8"], "does not fit"),
        (["--n_embd", "100"], "n_embd 100 is not divisible by n_head 12"),
        (["--plot", "/nowhere/a.svg", "--strategy", "dp"], "--plot /nowhere/a.svg: No such file"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_one_line(plan, argv, says):
    code, _, err = plan(*argv)
    assert code == 2 and says in err and err.count("\n") == 1
