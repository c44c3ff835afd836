"""The losses of the five papers, each in its paper's convention, and a criterion to choose an epoch by."""

import torch
from torch import Tensor
from torch.nn import functional as F


def preference_bce(logit: Tensor, p_b: Tensor) -> Tensor:
    """Cross-entropy of a preference (PRFNet, eq. 5): `-mean(y log p + (1 - y) log(1 - p))` with `p = sigmoid(logit)`.

    `logit` `(B,)` are log-odds that B is closer to the reference; `p_b` `(B,)` is 1 if B is closer, 0 if A is, or the
    share of human votes for B.
    """
    return F.binary_cross_entropy_with_logits(logit, p_b)


def preference_lsgan(logit: Tensor, p_b: Tensor) -> Tensor:
    """Squared error of the raw output, no sigmoid (IQA-TMFM, Table 2's "Ours (MSE)"): `mean((logit - y)^2)`.

    The raw output `(B,)` learns `p_b` `(B,)`, 0 for A and 1 for B, so the answer is B above 0.5. The released code
    tests `sigmoid(logit) > 0.5`, which nearly every such output passes.
    """
    return F.mse_loss(logit, p_b)


def preference_mse(logit: Tensor, p_b: Tensor) -> Tensor:
    """Squared error of the probability (PRFNet, eq. 6): `mean((q - q_hat)^2)` with `q_hat = sigmoid(logit)`.

    Arguments as in `preference_bce`; the paper's labels q are soft, the shares of human votes for B.
    """
    return F.mse_loss(logit.sigmoid(), p_b)


def mse(score: Tensor, target: Tensor) -> Tensor:
    """Squared error of predicted and human scores, both `(B,)` (AHIQ, FR+NR, TOPIQ): `mean((s - y)^2)`."""
    return F.mse_loss(score, target)


def norm_in_norm(score: Tensor, target: Tensor) -> Tensor:
    """Norm-in-Norm, p = 1 and q = 2 (Li, Jiang and Jiang, ACM MM 2020, https://arxiv.org/abs/2008.03889; TOPIQ).

    `sum |s^ - y^| / (2 sqrt(N))`, where ^ subtracts the batch's mean and divides by the L2 norm of the rest: 0 if the
    scores `(N,)` are a rising linear function of the targets `(N,)`, which may have any scale; at most 1. Values that
    are all equal count as zeros.
    """
    score, target = (F.normalize(values - values.mean(), dim=0, eps=1e-8) for values in (score, target))
    return (score - target).abs().sum() / (2 * len(score) ** 0.5)


def mse_and_norm_in_norm(score: Tensor, target: Tensor) -> Tensor:
    """The sum of `mse` and `norm_in_norm`, as in the no-reference configuration that TOPIQ's authors released."""
    return mse(score, target) + norm_in_norm(score, target)


def negative_srocc(score: Tensor, target: Tensor) -> Tensor:
    """-SROCC over all pairs, lower is better. It has no gradient: use it in `iqa_lib.training.fit(select=...)`."""
    from scipy.stats import spearmanr  # slow to import

    return torch.tensor(-spearmanr(score.numpy(), target.numpy()).statistic)
