"""`minillm generate`: text from a trained run, printed as it is sampled."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minillm.data import load_tokenizer
from minillm.errors import UserError
from minillm.models.generate import generate
from minillm.models.gpt import GPT
from minillm.train import checkpoint
from minillm.train.build import build_model
from minillm.train.config import from_checkpoint
from minillm.train.run import newest_run


@dataclass(frozen=True)
class Options:
    """Sample text from a run's last checkpoint."""

    out: str = ""
    """Run or checkpoint folder; empty: the newest in runs/."""
    prompt: str = ""
    """What the text begins with; empty: a new line; "-": read from standard input."""
    tokens: int = 200
    """How many tokens to sample."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token every time."""
    top_k: int = 0
    """Sample among the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together have this probability."""
    seed: int = 1337
    """Same seed, same text."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute, wherever the model was trained."""
    cache: bool = True
    """Keep keys and values of earlier tokens instead of computing them again."""


def main(argv: list[str]) -> int:
    """Parse options, load the checkpoint, stream the text."""
    import tyro

    options = tyro.cli(Options, args=argv, prog="minillm generate", use_underscores=True)
    for name in ("tokens", "top_k", "seed"):
        if getattr(options, name) < 0:
            raise UserError(f"--{name} {getattr(options, name)}: must not be negative")
    out = Path(options.out) if options.out else newest_run()
    saved = checkpoint.load(out)
    tokenizer = load_tokenizer(saved.path / "tokenizer.json")
    config = from_checkpoint(saved.state["config"])
    config = dataclasses.replace(config, device=options.device)
    model = build_model(config, tokenizer.vocab_size)
    model.load_state_dict(saved.model)
    model.eval()
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    stream_text(model, tokenizer, prompt, options)
    return 0


def stream_text(model: GPT, tokenizer: object, prompt: str, options: Options) -> None:
    """Print the prompt and each sampled piece as soon as its characters are whole."""
    stream = generate(
        model,
        tokenizer.opening(prompt),
        max_new_tokens=options.tokens,
        temperature=options.temperature,
        top_k=options.top_k or None,
        top_p=options.top_p,
        seed=options.seed,
        use_cache=options.cache,
    )
    print(prompt, end="", flush=True)
    sampled, shown = [], ""
    for token in stream:
        sampled.append(int(token))
        text = tokenizer.decode(sampled)
        if not text.endswith("\ufffd"):  # a character whose bytes are not all there yet
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()
