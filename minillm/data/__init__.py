"""Text to batches of tokens: corpora, cleaning, tokenizers, a cache of encoded text, a loader.

    dataset = prepare("shakespeare", tokenizer="char")
    loader = Loader(dataset.train, batch_size=12, block_size=64, seed=0)
    x, y = loader.batch(step=0, start=0, stop=12)  # both (12, 64)

`y` is `x` one token on: what comes next at each place.
"""

from minillm.data.loader import Loader
from minillm.data.store import Dataset, prepare
from minillm.data.tokenization import load_tokenizer

__all__ = ["Dataset", "Loader", "load_tokenizer", "prepare"]
