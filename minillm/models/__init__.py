"""Models, one file each, and generation (generate.py)."""

from minillm.models.gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig"]
