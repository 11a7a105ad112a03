"""Our side of bench/train_step.py. It draws the initial weights and leaves them in a file."""

import minillm  # isort: skip - before NumPy, as in train.py: it sets the threads of the BLAS
import numpy as np

from bench.machine import gemm_rate
from bench.side import BETAS, CLIP, DECAY, serve
from minillm.models.gpt import GPT, GPTConfig
from minillm.optim import AdamW, clip_grad_norm, param_groups


class Side:
    """The training step as train.py does it."""

    def __init__(self, job):
        minillm.manual_seed(job.seed)
        self.dtype = job.dtype
        self.model = GPT(GPTConfig(**job.options)).to(job.dtype)
        with open(job.weights, "wb") as file:
            np.savez(file, **self.model.state_dict())
        self.optimizer = AdamW(param_groups(self.model, DECAY), lr=job.lr, betas=BETAS)
        self.ready = {
            "parameters": self.model.num_parameters(),
            "flops_per_token": self.model.flops_per_token(),
            "blas_threads": minillm.env.BLAS_THREADS,
        }

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        _, loss = self.model(x, y)
        loss.backward()
        _, scale = clip_grad_norm(self.optimizer.groups, CLIP)
        self.optimizer.step(scale)
        self.optimizer.zero_grad()
        return loss.item()

    def gemm(self, seconds: float) -> float:
        return gemm_rate(seconds, self.dtype)


if __name__ == "__main__":
    serve(Side)
