"""The `minillm` command: one module a subcommand, each with `main(argv) -> exit code`.

Bad input is one line on stderr and exit code 2; a closed pipe or Ctrl-C ends quietly.
"""

import importlib
import os
import sys

from minillm import __version__, env
from minillm.errors import UserError

COMMANDS = {
    "generate": "sample text from a trained run",
    "data": "what is cached; encode a text now",
    "learn": "the tutorials' exercises: start, check, hint, solution; train with your own code",
    "emulate": "run CUDA kernels on the CPU: races, sectors, bank conflicts, line by line",
    "prove-ddp": "train on one and on several ranks, and compare every bit that must agree",
    "failure-lab": "kill, hang and corrupt ranks of a run, and see what is reported",
    "ring-replay": "watch a real ring all-reduce, message by message, in the browser",
    "plan": "predict step time, memory, efficiency and cost on a cluster",
    "doctor": "check MPI, compiler, BLAS, threads and GPU; print the fix for what is wrong",
}


def usage() -> str:
    """What `minillm --help` prints."""
    lines = [f"  {name:<12} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"minillm {__version__}",
            "usage: minillm COMMAND [options]",
            "",
            *lines,
            "",
            "`minillm COMMAND --help` explains a command. To train: mpirun -n 4 python train.py",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    env.print_anything()
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        print(
            f"minillm: unknown command {command!r}: choose {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    try:
        module = f"minillm.cli.{command.replace('-', '_')}"
        return importlib.import_module(module).main(rest)
    except UserError as error:
        print(f"minillm {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `minillm ... | head`: nothing more can be printed, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
