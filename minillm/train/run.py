"""A run's folder, and how a program begins and ends: exit codes, one message for all ranks."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from minillm.errors import UserError
from minillm.parallel import grid
from minillm.train import checkpoint
from minillm.train.config import Config, model_config, parse, parse_resumed, peek

RUNS = Path("runs")


@dataclass(frozen=True)
class Run:
    """What rank 0 settled before anything heavy starts; the same on every rank.

    Attributes:
        out: the run's folder.
        resume: the checkpoint to go on from, or None.
        changed: options that differ from the checkpoint's, in words.
    """

    config: Config
    out: Path
    resume: Path | None
    changed: list[str]


def open_run(argv: list[str], ranks: int) -> Run:
    """Parse `argv` and choose the run's folder; nothing is written. Call on rank 0 only.

    Raises:
        UserError: bad options; a folder that holds another run, or none.
        SystemExit: --help, or options that tyro refuses.
    """
    if "--resume" in argv:
        out = Path(peek(argv, "out") or newest_run())
        folder, state = checkpoint.read_state(out)
        if folder == out:
            raise UserError(
                f"--out {out} is a checkpoint: --resume goes on from the last one of a run's folder"
            )
        config, changed = parse_resumed(argv, state["config"])
        _check_ranks(config, ranks)
        return Run(config, out, folder, changed)
    config = parse(argv)
    _check_ranks(config, ranks)
    out = Path(config.out) if config.out else _free_name(RUNS / config.preset)
    if checkpoint.checkpoints(out):
        raise UserError(f"--out {out} already holds a run: add --resume to go on, or name another")
    return Run(config, out, None, [])


def create_folder(run: Run) -> None:
    """Make the run's folder with its config.json, once nothing else can refuse the run.

    Raises:
        UserError: it cannot be written.
    """
    text = json.dumps(dataclasses.asdict(run.config), indent=1) + "\n"
    try:
        ours = bool(run.config.out or run.resume)  # else its name was free a moment ago
        run.out.mkdir(parents=True, exist_ok=ours)
        (run.out / "config.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write to the run folder {run.out} ({error.strerror}): choose another --out"
        ) from None


def _check_ranks(config: Config, ranks: int) -> None:
    """Refuse a grid of ranks that cannot be, and options that do not go together.

    Raises:
        UserError: which, and what to do.
    """
    model = model_config(config, config.vocab_size or 1 << 20)  # 0: known once there is a tokenizer
    grid.check(model, ranks, config.dp, config.tp, config.pp, config.batch_size)
    split = config.tp * config.pp > 1
    for wrong, what in (
        (split and config.sync == "parameter-server", "--sync parameter-server updates whole models"
         " and needs --tp 1 --pp 1"),
        (split and config.balance != "equal", f"--balance {config.balance} measures whole models"
         " and needs --tp 1 --pp 1"),
        (config.participation < 1 and config.balance == "dynamic", "--balance dynamic measures all"
         f" ranks, but with --participation {config.participation} some do not train: take static"),
        (config.staleness and config.sync != "parameter-server", f"--staleness {config.staleness}"
         " is of --sync parameter-server alone"),
        (config.participation < 1 and config.sync != "local-sgd", "--participation"
         f" {config.participation} is of --sync local-sgd alone"),
    ):  # fmt: skip
        if wrong:
            raise UserError(what)


def newest_run() -> Path:
    """The folder in runs/ whose last checkpoint is the latest.

    Raises:
        UserError: there is none.
    """
    runs = [path for path in RUNS.glob("*") if checkpoint.checkpoints(path)]
    if not runs:
        raise UserError(f"no run with a checkpoint in {RUNS}/: name its folder with --out")
    return max(runs, key=lambda path: checkpoint.checkpoints(path)[-1].stat().st_mtime)


def _free_name(base: Path) -> Path:
    """`base`, or base-2, base-3 ...: a default run never touches an earlier one."""
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path
