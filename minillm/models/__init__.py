"""Models, one file each, and generation."""

from minillm.models.generate import generate
from minillm.models.gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "generate"]
