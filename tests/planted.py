"""A small model without norms in which exactly two components of one site push the global answer."""

import inplace
import numpy as np
import torch
from architectures import build, with_tokenizer

#: Where the two are in the spectrum of the last W_out.
SITE, PLANTED = "blocks.2.mlp.W_out", (5, 11)


def planted(kind: str, answers: list[int], global_answer: int, dtype: torch.dtype = torch.float64):
    """The model: `W_out = U diag(S) V^T` with known factors.

    Logits are linear in what the last W_out writes. All components but two write at right angles to the
    unembedding of every answer; those two raise the global answer and lower or spare the others, for
    every prompt, since they read sums of activations of a ReLU.
    """
    model = with_tokenizer(build(kind, "no-norm", dtype))
    unembed = model.W_U.detach().double().numpy()
    rng = np.random.default_rng(0)
    told = np.column_stack([unembed[:, global_answer], *(unembed[:, each] for each in answers)])
    pushes = np.zeros((told.shape[1], 2))
    pushes[0], pushes[1:, 1] = (1.0, 0.0), -1.0
    v = np.linalg.qr(np.linalg.pinv(told.T) @ pushes)[0]
    lead = (told[:, :1] - told[:, 1:]).T @ v
    v *= np.sign(lead.sum(0))
    assert (lead * np.sign(lead.sum(0)) > 0).all()
    u = np.zeros((48, 2))
    u[:24, 0] = u[24:, 1] = 24**-0.5
    others = [place for place in range(32) if place not in PLANTED]
    left, right = np.zeros((48, 32)), np.zeros((32, 32))
    left[:, PLANTED], right[:, PLANTED] = u, v
    # The others: orthonormal, the outputs outside of the span of all answers as far as there is room.
    away = np.linalg.qr(np.column_stack([told, rng.normal(size=(32, 32 - told.shape[1]))]))[0]
    free = away[:, told.shape[1] :]
    left[:, others] = np.linalg.qr(np.column_stack([u, rng.normal(size=(48, 30))]))[0][:, 2:]
    right[:, others[: free.shape[1]]] = free
    values = np.linspace(3.0, 0.5, 32)
    values[others[free.shape[1] :]] = 0.0  # no room left for them
    inplace.write(model, 2, "W_out", (left * values) @ right.T)
    return model
