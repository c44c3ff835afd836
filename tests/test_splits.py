"""Splits by reference: shares, disjoint sides, and nothing but the ids and the seed deciding."""

import random
from itertools import chain

import pytest

from iqa_lib.data.splits import by_reference

IDS = [f"I{number:02}" for number in range(1, 82)]


@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [
        ({"train": 0.8, "test": 0.2}, [65, 16]),
        ({"train": 0.6, "validation": 0.2, "test": 0.2}, [49, 16, 16]),
        ({"train": 1 / 3, "validation": 1 / 3, "test": 1 / 3}, [27, 27, 27]),
        ({"all": 1.0, "none": 0.0}, [81, 0]),
    ],
)
def test_every_reference_is_on_one_side_and_the_shares_hold(fractions, sizes):
    sides = by_reference(IDS, fractions)
    assert list(sides) == list(fractions)
    assert [len(ids) for ids in sides.values()] == sizes
    assert sorted(chain(*sides.values())) == IDS
    assert all(ids == sorted(ids) for ids in sides.values())


def test_order_and_repeats_of_the_input_do_not_matter():
    fractions = {"train": 0.8, "test": 0.2}
    mixed = random.Random(5).sample(IDS * 3, 3 * len(IDS))
    assert by_reference(iter(mixed), fractions, seed=3) == by_reference(IDS, fractions, seed=3)


def test_the_deal_is_the_documented_one():
    shuffled = IDS.copy()
    random.Random(7).shuffle(shuffled)
    assert by_reference(IDS, {"train": 0.8, "test": 0.2}, seed=7)["test"] == sorted(shuffled[65:])


def test_seeds_give_different_splits_that_reach_every_reference():
    tests = [by_reference(IDS, {"train": 0.8, "test": 0.2}, seed=seed)["test"] for seed in range(30)]
    assert len(set(map(tuple, tests))) == 30
    assert set(chain(*tests)) == set(IDS)


@pytest.mark.parametrize("fractions", [{"train": 0.8, "test": 0.1}, {"train": 1.2, "test": -0.2}])
def test_shares_must_sum_to_one(fractions):
    with pytest.raises(ValueError, match="expected shares of at least 0 that sum to 1"):
        by_reference(IDS, fractions)


def test_a_side_with_a_share_needs_a_reference():
    with pytest.raises(ValueError, match=r"references: got 2, expected more .*: 'test' gets none"):
        by_reference("aabb", {"train": 0.8, "test": 0.2})
    with pytest.raises(ValueError, match=r"references: got 0, expected more .*: 'train'"):
        by_reference([], {"train": 0.8, "test": 0.2})
