"""Norm-in-Norm against a derivation by loops, its bounds; it and its sum with the squared error can be learnt."""

import math

import pytest
import torch

from iqa_lib.losses import mse, mse_and_norm_in_norm, negative_srocc, norm_in_norm


def normed(values):
    """Plain numbers, centred and divided by their Euclidean length."""
    mean = sum(values) / len(values)
    length = math.sqrt(sum((value - mean) ** 2 for value in values))
    return [(value - mean) / length for value in values]


def test_norm_in_norm_is_the_mean_gap_of_normed_values():
    score, target = [0.2, 0.9, 0.4, 0.1, 0.6], [1.0, 3.5, 4.5, 2.0, 2.5]
    gaps = [abs(s - t) for s, t in zip(normed(score), normed(target), strict=True)]
    expected = sum(gaps) / (2 * math.sqrt(5))
    assert expected > 0.05
    assert norm_in_norm(torch.tensor(score), torch.tensor(target)).item() == pytest.approx(expected, abs=1e-6)
    both = mse_and_norm_in_norm(torch.tensor(score), torch.tensor(target)).item()
    squared = sum((s - t) ** 2 for s, t in zip(score, target, strict=True)) / 5
    assert both == pytest.approx(squared + expected, abs=1e-5)


def test_norm_in_norm_sees_neither_offset_nor_scale_but_the_sign():
    score = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert norm_in_norm(3 * score + 5, score).item() == pytest.approx(0, abs=1e-12)
    assert norm_in_norm(-score, score) > 0.5
    worst = torch.tensor([1.0, -1.0] * 8)
    assert norm_in_norm(worst, -worst).item() == pytest.approx(1, abs=1e-6), "the bound is reached"


def test_equal_values_give_a_finite_loss_and_gradient():
    score = torch.full((4,), 0.5, requires_grad=True)
    loss = norm_in_norm(score, torch.tensor([0.1, 0.2, 0.3, 0.9]))
    loss.backward()
    assert 0 < loss.item() <= 0.5
    assert score.grad.isfinite().all()


@pytest.mark.parametrize("loss", [norm_in_norm, mse_and_norm_in_norm])
def test_descent_orders_the_scores(loss):
    target = torch.linspace(0, 1, 8)
    score = torch.rand(8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    before, first = loss(score, target).item(), mse(score, target).item()
    optimizer = torch.optim.Adam([score], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss(score, target).backward()
        optimizer.step()
    assert loss(score, target) < 0.2 * before
    assert score.argsort().tolist() == list(range(8))
    assert loss is norm_in_norm or mse(score, target) < 0.2 * first


def test_negative_srocc_is_the_correlation_of_ranks():
    score, target = torch.tensor([0.2, 0.9, 0.4, 0.1, 0.6]), torch.tensor([1.0, 3.5, 4.5, 2.0, 2.5])
    expected = -sum(a * b for a, b in zip(normed([2, 5, 3, 1, 4]), normed([1, 4, 5, 2, 3]), strict=True))
    assert negative_srocc(score, target).item() == pytest.approx(expected)
