"""`minillm data`: what text is cached, encode some now, clear the cache."""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from minillm import env
from minillm.data import prepare
from minillm.data.store import locked
from minillm.errors import UserError


def main(argv: list[str]) -> int:
    """Run `minillm data` with these arguments; the exit code."""
    import tyro

    tyro.extras.subcommand_cli_from_dict(
        {"list": list_cached, "encode": encode, "clear": clear},
        prog="minillm data",
        description="Text and tokens in the cache: list them, encode a text now, clear them.",
        args=argv,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return 0


def list_cached() -> None:
    """Show what is cached, encoded texts and downloads, with sizes and sources."""
    rows = [
        (
            entry.name,
            _size(entry),
            f"{meta['tokens']:,} tokens of {Path(meta['tokenizer']).name} {meta['vocab_size']}, "
            f"{meta['source']}"
            if meta
            else "damaged, made anew when it is wanted",
        )
        for entry, meta in _entries()
    ]
    rows += [("download", path.stat().st_size, str(path)) for path in _downloads()]
    for name, size, what in rows:
        print(f"{name:20}  {size / 1e6:8.2f} MB  {what}")
    print(f"{'total':20}  {sum(size for _, size, _ in rows) / 1e6:8.2f} MB  {env.CACHE}")


def encode(
    data: str = "",
    tokenizer: str = "bpe",
    vocab_size: int = 0,
    val_fraction: float = 0.1,
    lowercase: bool = False,
    dedup: bool = False,
) -> None:
    """Clean, split and encode a text into the cache, and print its statistics.

    Args:
        data: text file, folder or quoted glob; 'shakespeare'; nothing for the embedded corpus.
        tokenizer: byte, char, bpe, or the path of a Hugging Face tokenizer.json.
        vocab_size: tokens that bpe is trained to have, 0 for 1024; the others bring their own.
        val_fraction: share of the text, from its end, that validates.
        lowercase: fold to lower case.
        dedup: keep only the first of equal lines.
    """
    began = time.perf_counter()
    dataset = prepare(data, tokenizer, vocab_size, val_fraction, lowercase, dedup)
    took = time.perf_counter() - began
    entropy = dataset.unigram_entropy()
    bits_per_byte = entropy / math.log(2) / dataset.bytes_per_token
    print(f"source           {dataset.source}")
    print(f"entry            {env.CACHE / 'data' / dataset.key}, ready in {took:.2f} s")
    print(f"tokens           {dataset.train.size:,} training, {dataset.val.size:,} validation")
    print(f"vocabulary       {dataset.tokenizer.vocab_size:,} ({dataset.train.dtype.name})")
    print(f"bytes per token  {dataset.bytes_per_token:.3f}")
    print(f"unigram entropy  {entropy:.3f} nats per token, {bits_per_byte:.3f} bits per byte")


def clear(keys: tuple[str, ...] = ()) -> None:
    """Delete encoded texts and downloads.

    Args:
        keys: only these entries, as `minillm data list` names them; all, downloads too, by default.
    """
    with locked(env.CACHE):
        entries = {entry.name: entry for entry, _ in _entries()}
        for key in keys:
            if key not in entries:
                raise UserError(f"no entry {key} in {env.CACHE}: see `minillm data list`")
        chosen = [entries[key] for key in keys] or [*entries.values(), *_downloads()]
        freed = sum(map(_size, chosen))
        for path in chosen:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    print(f"deleted {len(chosen)} of {env.CACHE}: {freed / 1e6:.2f} MB")


def _entries() -> list[tuple[Path, dict[str, Any]]]:
    """Folders of encoded texts with their meta.json, in order of key; {} if that is damaged."""
    paths = sorted((env.CACHE / "data").glob("[!.]*/meta.json"))
    return [(path.parent, _meta(path)) for path in paths]


def _meta(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}


def _downloads() -> list[Path]:
    return sorted(path for path in (env.CACHE / "downloads").glob("*") if path.is_file())


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
