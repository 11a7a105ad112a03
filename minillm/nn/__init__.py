"""Modules: named parameters, and the layers of a transformer."""

from minillm.nn.attention import CausalSelfAttention, KVCache
from minillm.nn.layers import Dropout, Embedding, LayerNorm, Linear, RMSNorm
from minillm.nn.module import Module, ModuleList, Parameter, Sequential
from minillm.nn.transformer import MLP, Block

__all__ = [
    "MLP",
    "Block",
    "CausalSelfAttention",
    "Dropout",
    "Embedding",
    "KVCache",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "Sequential",
]
