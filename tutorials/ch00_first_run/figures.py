"""The figures of a run, worked out by hand: your file for chapter 00."""

import numpy as np


def other_units(losses, lengths):
    """What the losses of single tokens come to, in the three units in use.

    Args:
        losses: (N,) array, the surprise of each token in nats: -ln of the probability it was given.
        lengths: (N,) array, how many bytes of text each token stands for.

    Returns:
        Three numbers: the mean loss in nats a token (equation 1), the perplexity (2), and the bits
        per byte of the whole text (3).
    """
    # hole 1: nats a token; its exponential; all bits of the text over all its bytes
    loss = losses.mean()
    return loss, np.exp(loss), losses.sum() / np.log(2) / lengths.sum()
    # end of hole


def parameters(V, T, L, C, bias=False, tied=True):
    """How many numbers a GPT learns, equation (5).

    Args:
        V, T, L, C: vocabulary, longest context, layers, channels.
        bias: whether the linear layers and the norms inside the blocks, and the last norm, add one.
        tied: whether the output layer is the token embedding's matrix once more. If not, it has a
            matrix of its own, without a bias.
    """
    # hole 2: embeddings, L blocks, the last norm, an output matrix if it is not tied
    norm = C + bias * C
    attention = 4 * C * C + bias * 4 * C
    mlp = 8 * C * C + bias * 5 * C
    head = 0 if tied else V * C
    return V * C + T * C + L * (2 * norm + attention + mlp) + norm + head
    # end of hole


def flops_per_token(V, T, L, C, bias=False, tied=True):
    """Floating-point operations of training on one token, forward and backward, equation (6).

    N' of equation (6) counts every parameter but those of tables that are only looked up: the
    position embedding always, the token embedding where the output is not tied to it.
    """
    # hole 3: six a parameter that is multiplied with, and attention
    looked_up = T * C if tied else T * C + V * C
    return 6 * (parameters(V, T, L, C, bias, tied) - looked_up) + 12 * L * C * T
    # end of hole


def mfu(tokens_per_second, flops_a_token, peak):
    """Model FLOP utilisation, from 0 to 1: the operations of the model that are done in a second,
    over those that the machine could do at its peak."""
    # hole 3: operations a second done, over those possible
    return tokens_per_second * flops_a_token / peak
    # end of hole
