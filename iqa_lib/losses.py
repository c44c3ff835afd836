"""Losses of the five papers, each under the paper's own convention; and what chooses an epoch, which is no loss."""

import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor
from torch.nn import functional as F


def preference_bce(logit: Tensor, p_b: Tensor) -> Tensor:
    """Cross-entropy of a preference (PRFNet, eq. 5): `-mean(y log p + (1 - y) log(1 - p))` with `p = sigmoid(logit)`.

    Args:
        logit: That B is the closer one, `(B,)`.
        p_b: Label, 1 where B is the closer one; a share in [0, 1] works too, `(B,)`.
    """
    return F.binary_cross_entropy_with_logits(logit, p_b)


def preference_lsgan(logit: Tensor, p_b: Tensor) -> Tensor:
    """Squared error of the raw output, no sigmoid (IQA-TMFM, Table 2's "Ours (MSE)"): `mean((logit - y)^2)`.

    A network trained so gives about 0 for A and 1 for B: B is its answer above 0.5. The released code asks for
    `sigmoid(logit) > 0.5`, which nearly every such output passes.

    Args:
        logit: Raw output of the network, `(B,)`.
        p_b: Label, 1 where B is the closer one, `(B,)`.
    """
    return F.mse_loss(logit, p_b)


def preference_mse(logit: Tensor, p_b: Tensor) -> Tensor:
    """Squared error of the probability (PRFNet, eq. 6): `mean((q - q_hat)^2)` with `q_hat = sigmoid(logit)`.

    Args:
        logit: That B is the closer one, `(B,)`.
        p_b: Soft label, the share of people to whom B is the closer one, `(B,)` in [0, 1].
    """
    return F.mse_loss(logit.sigmoid(), p_b)


def mse(score: Tensor, target: Tensor) -> Tensor:
    """Squared error of a score (AHIQ, FR+NR, TOPIQ): `mean((s - y)^2)`.

    Args:
        score: What the network gives a pair, `(B,)`.
        target: People's score, on the scale that the network learns, `(B,)`.
    """
    return F.mse_loss(score, target)


def norm_in_norm(score: Tensor, target: Tensor) -> Tensor:
    """Norm-in-Norm, p = 1 and q = 2 (Li, Jiang and Jiang, ACM MM 2020, https://arxiv.org/abs/2008.03889; TOPIQ).

    `sum |s^ - y^| / (2 sqrt(N))`, where ^ takes the batch's mean away and divides by the L2 norm of the rest: 0 where
    scores are a rising linear function of the targets, at most 1. Values that are all equal count as zeros.

    Args:
        score: What the network gives a pair, `(N,)`.
        target: People's score, on any scale, `(N,)`.
    """
    score, target = (F.normalize(values - values.mean(), dim=0, eps=1e-8) for values in (score, target))
    return (score - target).abs().sum() / (2 * len(score) ** 0.5)


def mse_and_norm_in_norm(score: Tensor, target: Tensor) -> Tensor:
    """The sum of `mse` and `norm_in_norm` (the configuration that TOPIQ's authors released, for no-reference)."""
    return mse(score, target) + norm_in_norm(score, target)


def negative_srocc(score: Tensor, target: Tensor) -> Tensor:
    """-SROCC over all pairs: lower is better. Has no gradient; for `iqa_lib.training.fit(select=...)`."""
    return torch.tensor(-spearmanr(score.numpy(), target.numpy()).statistic)


def negative_srocc_and_plcc(score: Tensor, target: Tensor) -> Tensor:
    """-SROCC and -PLCC, `(2,)`, by which AHIQ's released code chooses the epoch. Likewise for `fit(select=...)`."""
    plcc = pearsonr(score.double().numpy(), target.double().numpy()).statistic
    return torch.stack([negative_srocc(score, target), torch.tensor(-plcc)])
