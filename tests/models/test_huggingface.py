"""The same weights in Hugging Face's GPT-2 and Llama: the same logits, loss and gradients."""

import numpy as np
import pytest

import minillm.random
from minillm.models import GPT, GPTConfig

torch = pytest.importorskip("torch", reason="compares with PyTorch")
transformers = pytest.importorskip("transformers", reason="compares with transformers")

IDS = np.random.default_rng(0).integers(0, 50, (2, 12))
TARGETS = np.roll(IDS, -1, 1)


def _randomised(theirs):
    """In float64, and with weights large enough for every part to matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2 + (p.ndim == 1) * 0.5)
    return theirs.double().eval()


def _compare(ours, theirs, weights_of, rtol):
    """`weights_of(get)` names our parameters and builds each from theirs, or from the gradients."""
    params = dict(theirs.named_parameters())
    ours.load_state_dict(weights_of(lambda name: params[name].detach().numpy()))
    logits, loss = ours(IDS, TARGETS)
    want = theirs(torch.tensor(IDS)).logits
    want_loss = torch.nn.functional.cross_entropy(
        want.reshape(-1, want.shape[-1]), torch.tensor(TARGETS).reshape(-1)
    )
    np.testing.assert_allclose(logits.data, want.detach().numpy(), rtol=rtol, atol=rtol)
    assert loss.item() == pytest.approx(want_loss.item(), rel=rtol)
    loss.backward()
    want_loss.backward()
    gradients = weights_of(lambda name: params[name].grad.numpy())
    for name, p in ours.named_parameters():
        scale = np.abs(gradients[name]).max()
        np.testing.assert_allclose(
            p.grad.data, gradients[name], rtol=rtol, atol=rtol * scale, err_msg=name
        )


def test_gpt2():
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=4, attn_implementation="eager"
    )
    theirs = _randomised(transformers.GPT2LMHeadModel(config))
    minillm.random.manual_seed(0)
    ours = GPT(GPTConfig(block_size=16, vocab_size=50, n_embd=24, n_layer=2, n_head=4))

    def weights_of(get):
        def layer(ours, theirs, transpose=False):
            weight = get(f"{theirs}.weight")
            return {
                f"{ours}.weight": weight.T if transpose else weight,  # Conv1D keeps (in, out)
                f"{ours}.bias": get(f"{theirs}.bias"),
            }

        state = {
            "token_embedding.weight": get("transformer.wte.weight"),
            "position_embedding.weight": get("transformer.wpe.weight"),
            **layer("norm", "transformer.ln_f"),
        }
        for i in range(2):
            us, them = f"blocks.{i}", f"transformer.h.{i}"
            state |= layer(f"{us}.attention_norm", f"{them}.ln_1")
            state |= layer(f"{us}.attention.qkv", f"{them}.attn.c_attn", True)
            state |= layer(f"{us}.attention.proj", f"{them}.attn.c_proj", True)
            state |= layer(f"{us}.mlp_norm", f"{them}.ln_2")
            state |= layer(f"{us}.mlp.up", f"{them}.mlp.c_fc", True)
            state |= layer(f"{us}.mlp.proj", f"{them}.mlp.c_proj", True)
        return state

    _compare(ours.to("float64"), theirs, weights_of, 1e-9)


def test_llama_with_grouped_queries():
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    theirs = _randomised(transformers.LlamaForCausalLM(config))
    minillm.random.manual_seed(0)
    ours = GPT(
        GPTConfig(
            block_size=16,
            vocab_size=50,
            n_embd=32,
            hidden_size=48,
            n_layer=2,
            n_head=4,
            n_kv_head=2,
            bias=False,
            position="rotary",
            norm="rms_norm",
            activation="swiglu",
            tie_embeddings=False,
        )
    )

    def weights_of(get):
        state = {
            "token_embedding.weight": get("model.embed_tokens.weight"),
            "norm.weight": get("model.norm.weight"),
            "lm_head.weight": get("lm_head.weight"),
        }
        for i in range(2):
            us, them = f"blocks.{i}", f"model.layers.{i}"
            qkv = [get(f"{them}.self_attn.{x}_proj.weight") for x in "qkv"]
            state |= {
                f"{us}.attention_norm.weight": get(f"{them}.input_layernorm.weight"),
                f"{us}.attention.qkv.weight": np.concatenate(qkv),
                f"{us}.attention.proj.weight": get(f"{them}.self_attn.o_proj.weight"),
                f"{us}.mlp_norm.weight": get(f"{them}.post_attention_layernorm.weight"),
                f"{us}.mlp.gate.weight": get(f"{them}.mlp.gate_proj.weight"),
                f"{us}.mlp.up.weight": get(f"{them}.mlp.up_proj.weight"),
                f"{us}.mlp.proj.weight": get(f"{them}.mlp.down_proj.weight"),
            }
        return state

    _compare(ours.to("float64"), theirs, weights_of, 1e-5)  # their angles are float32
