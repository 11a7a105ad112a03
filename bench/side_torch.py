"""PyTorch's side of bench/train_step.py: eager, with the weights that the other side drew."""

from types import SimpleNamespace

import numpy as np
import torch

from bench.gpt_torch import GPT, build_optimizer
from bench.side import BETAS, CLIP, DECAY, serve


class Side:
    """The training step as nanoGPT does it."""

    def __init__(self, job):
        torch.set_num_threads(job.threads)
        torch.set_default_dtype(getattr(torch, job.dtype))
        self.model = GPT(SimpleNamespace(**job.config))
        with np.load(job.weights) as weights:
            self.model.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
        self.optimizer = build_optimizer(self.model, job.lr, BETAS, DECAY)
        self.ready = {"parameters": sum(p.numel() for p in self.model.parameters())}

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        _, loss = self.model(torch.from_numpy(x), torch.from_numpy(y))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


if __name__ == "__main__":
    serve(Side)
