"""What AHIQ's released code does otherwise: its crops, its labels, its test set, its choice of the epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from image_sets import image_set
from test_runs import Noise, here  # noqa: F401

from iqa_lib.data.base import IQADataset
from iqa_lib.lab import runs
from iqa_lib.lab.ahiq_released import (
    ReleasedCrops,
    either_rises,
    last_batch_dropped,
    negative_srocc_and_plcc,
    scaled_by_side,
)
from iqa_lib.losses import preference_bce, preference_mse
from iqa_lib.training import Task
from iqa_lib.views import Crops, crop_places


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return image_set(tmp_path_factory.mktemp("pairs"), [(60, 50)] * 6, pairs=True)


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("flip", ["none", "vertical", "both"])
def test_averaged_crops_are_the_mean_of_those_that_were_drawn(pairs, count, flip):
    """The stream of a record in an epoch: the places, whether to mirror; no draw decides which of the places."""
    mean = ReleasedCrops(Crops(pairs, "random", 16, count=count, flip=flip, seed=2), averaged=3)
    for index in range(len(pairs)):
        *images, target = pairs.read(index)
        rng = np.random.default_rng((2, 4, index))
        places = crop_places("random", 50, 60, 16, max(count, 3), rng)[:3]
        axes = {"none": (), "vertical": (-2,), "both": (-1, -2)}[flip]
        axes = [axis for axis in axes if rng.random() < 0.5]
        *seen, seen_target = mean[4, index]
        for image, average in zip(images, seen, strict=True):
            cut = [image[:, top : top + 16, left : left + 16].double() / 255 for top, left in places]
            assert torch.allclose(average.double(), (sum(cut) / 3).flip(axes), atol=1e-6)
            assert average.dtype == torch.float32
        assert seen_target == target
    assert mean.fingerprint() != Crops(pairs, "random", 16, count=count, flip=flip, seed=2).fingerprint()


def test_crops_that_never_reach_the_edge_are_drawn_in_training_and_evaluation(pairs):
    crops = ReleasedCrops(Crops(pairs, "random", 48, count=300), last_place=False)
    for seen in (crops.all(0)[0], [crops[epoch, 0][0] for epoch in range(300)]):
        places = {(int(crop[0].min()), int(crop[1].min())) for crop in seen}
        assert places == {(top, left) for top in range(2) for left in range(12)}
    rng = np.random.default_rng((0, 0))
    assert int(crops.all(0)[0][0, 0].min()) == rng.integers(2)
    with pytest.raises(ValueError, match="size: got 50, expected 1 to 49"):
        ReleasedCrops(Crops(pairs, "random", 50), last_place=False)[0, 0]


def test_without_options_the_crops_are_the_ordinary_ones(pairs):
    for options in ({"protocol": "random"}, {"protocol": "grid", "count": 2}):
        plain = Crops(pairs, size=32, flip="both", **options)
        released = ReleasedCrops(plain, last_place=options["protocol"] == "random")  # fixed crops know no last place
        for index in range(3):
            for one, other in ((plain[1, index], released[1, index]), (plain.all(index), released.all(index))):
                assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("options", [{"averaged": 2, "draws": 2}, {"averaged": 2, "protocol": "grid"}])
def test_averages_need_random_crops(pairs, options):
    averaged = options.pop("averaged")
    with pytest.raises(ValueError, match=f"averaged: got {averaged}, expected 1, or protocol 'random' with draws=0"):
        ReleasedCrops(Crops(pairs, **{"protocol": "random", "size": 16} | options), averaged=averaged)
    with pytest.raises(ValueError, match="averaged: got 0, expected at least 1"):
        ReleasedCrops(Crops(pairs, "random", 16), averaged=0)


def scores(dataset: IQADataset) -> list[float]:
    return [pair.score for pair in dataset.records]


def test_each_side_is_scaled_by_its_own_range_but_the_cross_test(pairs):
    sides = {}
    for side, values in {"train": (1.0, 3.0, 5.0), "test": (2.0, 3.0, 4.0)}.items():
        records = [replace(pair, score=value) for pair, value in zip(pairs.records, values, strict=False)]
        sides[side] = IQADataset("x", side, records, pairs.label)
    scaled = scaled_by_side(sides | {"cross": sides["train"]})
    assert scores(scaled["train"]) == scores(scaled["test"]) == [0, 0.5, 1]
    assert scores(scaled["cross"]) == [1, 3, 5]


@pytest.mark.parametrize(("batch", "left"), [(0, 6), (4, 4), (3, 6), (5, 5)])
def test_an_incomplete_last_batch_is_dropped(pairs, batch, left):
    kept = last_batch_dropped(pairs, batch)
    assert kept.records == pairs.records[:left]
    assert kept.split == ("all, last batch dropped" if batch else "all")


def test_an_epoch_is_chosen_by_both_correlations():
    score, target = torch.tensor([0.2, 0.9, 0.4, 0.1, 0.6]), torch.tensor([1.0, 3.5, 4.5, 2.0, 2.5])
    ranks = np.corrcoef([2, 5, 3, 1, 4], [1, 4, 5, 2, 3])[0, 1], np.corrcoef(score, target)[0, 1]
    assert negative_srocc_and_plcc(score, target).tolist() == pytest.approx([-value for value in ranks])


def test_a_step_that_is_chosen_otherwise_is_another_step(here):  # noqa: F811
    task, criterion = Task(Noise(here), preference_bce), Task(Noise(here), preference_mse)

    def loaded(**options) -> bool:
        run = runs.start("03_prfnet", {"row": "a", "seed": 0})
        model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))
        return run.fit("step 1", model, [task], select=criterion, epochs=2, batch_size=2, lr=0.1, **options).loaded

    assert [loaded(), loaded(improves=either_rises)] == [False, False]
    assert [loaded(), loaded(improves=either_rises)] == [True, True]


def test_either_correlation_must_rise():
    assert either_rises([-0.5, -0.9], [-0.4, -0.95])
    assert either_rises([-0.3, -0.96], [-0.4, -0.95])
    assert not either_rises([-0.4, -0.95], [-0.4, -0.95])
