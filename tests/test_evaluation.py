"""Predictions: the mean over windows, bounded batches, and no influence of the neighbours, their order or the batch."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_crops import one_thread_of_the_cpu, picture_set  # noqa: F401
from torch import Tensor, nn

from iqa_lib import baselines
from iqa_lib.data.base import IQADataset
from iqa_lib.data.crops import Crops
from iqa_lib.evaluation import look, predict, predict_baseline
from iqa_lib.features import FixedFeatures
from iqa_lib.models import PRFNet

SIZES = [(64, 64), (64, 64), (40, 36), (64, 64), (64, 64), (33, 70)]


class Difference(nn.Module):
    """How much brighter the (second) distorted picture is; notes the sizes of its batches."""

    def __init__(self, limit: int = 100):
        super().__init__()
        self.scale, self.limit, self.batches = nn.Parameter(torch.tensor(300.0)), limit, []

    def forward(self, reference: Tensor, *distorted: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert len(reference) <= self.limit
        self.batches.append(len(reference))
        brightness = [image.mean((1, 2, 3)) for image in (reference, *distorted)]
        return self.scale * (brightness[-1] - brightness[-2])


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    return picture_set(tmp_path_factory.mktemp("triplets"), SIZES)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return picture_set(tmp_path_factory.mktemp("pairs"), SIZES, pairs=True)


@pytest.fixture
def prfnet():
    torch.manual_seed(0)
    options = dict(se=False, weights="packaged", freeze_backbone=True, width=8, hidden=8, dropout=0.5)
    return PRFNet(backbone="tf_efficientnet_lite0.in1k", **options)


def by_hand(crops: Crops, index: int) -> np.ndarray:
    """What `Difference` gives for each window of a record."""
    *_, before, after = (image.numpy() / 255 for image in crops.all(index)[:-1])
    return 300 * (after.mean((1, 2, 3)) - before.mean((1, 2, 3)))


@pytest.mark.parametrize("options", [("grid", 32), ("corners", 24), ("whole",)], ids=str)
def test_a_pair_gets_the_mean_score_of_its_windows(pairs, options):
    crops = Crops(pairs, *options, count=0)
    table = predict(Difference(), crops)
    expected = [by_hand(crops, index).mean() for index in range(len(pairs))]
    assert table.prediction.tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("options", [("grid", 32), ("corners", 24), ("whole",)], ids=str)
def test_a_triplet_gets_the_mean_probability_of_its_windows(triplets, options):
    crops = Crops(triplets, *options, count=0)
    table = predict(Difference(), crops)
    logits = [by_hand(crops, index) for index in range(len(triplets))]
    expected = [(1 / (1 + np.exp(-logit))).mean() for logit in logits]
    assert table.prediction.tolist() == pytest.approx(expected, abs=1e-4)
    if options[0] != "whole":  # the probability of the mean logit would be another
        assert np.abs(table.prediction - [1 / (1 + np.exp(-logit.mean())) for logit in logits]).max() > 0.01


def test_columns_say_which_record_it_is(pairs, triplets):
    table = predict(Difference(), Crops(triplets, "whole"))
    assert table.columns.tolist() == ["reference_id", "reference", "a", "b", "kind_a", "kind_b", "target", "prediction"]
    first = table.iloc[1].drop("prediction").tolist()
    assert first == ["reference 1", "1_reference.png", "1_a.png", "1_b.png", "", "", triplets.records[1].p_b]
    table = predict(Difference(), Crops(pairs, "whole"))
    assert table.columns.tolist() == ["reference_id", "reference", "distorted", "kind", "target", "prediction"]
    assert table.target.tolist() == [pair.score for pair in pairs.records]
    assert table.reference_id.tolist() == pairs.reference_ids


@pytest.mark.parametrize(
    ("max_batch", "batches"),
    [
        (1, [1] * 24),
        (3, [3, 1] * 6),
        (4, [4] * 6),
        (10, [8, 8, 8]),
        (16, [16, 8]),
        (100, [24]),
    ],
)
def test_no_more_than_max_batch_windows_reach_the_model(tmp_path, max_batch, batches):
    model = Difference(limit=max_batch)
    dataset = picture_set(tmp_path, [(64, 64)] * 6)
    predict(model, Crops(dataset, "grid", 32, count=0), max_batch=max_batch)
    assert model.batches == batches


def test_whole_images_of_one_size_share_a_batch(triplets):
    model = Difference(limit=4)
    predict(model, Crops(triplets, "whole"), max_batch=4)
    assert model.batches == [2, 1, 2, 1]


@pytest.mark.parametrize("options", [("grid", 32), ("whole",)], ids=str)
def test_batches_and_order_do_not_matter(triplets, prfnet, options):
    table = predict(prfnet.train(), Crops(triplets, *options, count=0))
    assert table.prediction.nunique() == len(triplets)
    for max_batch in (1, 3):
        other = predict(prfnet, Crops(triplets, *options, count=0), max_batch=max_batch)
        pd.testing.assert_frame_equal(other, table, rtol=0, atol=1e-6)
    backwards = IQADataset("pictures", "all", triplets.records[::-1], triplets.label)
    other = predict(prfnet, Crops(backwards, *options, count=0))
    pd.testing.assert_frame_equal(other[::-1].reset_index(drop=True), table, rtol=0, atol=1e-6)
    alone = IQADataset("pictures", "all", triplets.records[2:3], triplets.label)
    assert predict(prfnet, Crops(alone, *options, count=0)).prediction[0] == pytest.approx(
        table.prediction[2], abs=1e-6
    )


def test_kept_features_give_the_same_predictions(triplets, prfnet, tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path))
    crops = Crops(triplets, "corners", 32)
    expected = predict(prfnet, crops)
    features = FixedFeatures(crops, prfnet)
    monkeypatch.setattr(prfnet, "extract", None)
    for max_batch in (1, 3, 16):
        table = predict(prfnet, features, max_batch=max_batch)
        pd.testing.assert_frame_equal(table, expected, rtol=0, atol=1e-5)


def test_bf16_stays_close(triplets, prfnet):
    exact, rough = (predict(prfnet, Crops(triplets, "corners", 32), precision=name) for name in ("fp32", "bf16"))
    assert (exact.prediction != rough.prediction).any()
    assert rough.prediction.dtype == np.float32
    assert rough.prediction.tolist() == pytest.approx(exact.prediction.tolist(), abs=0.02)


def test_look_shows_what_predict_says(triplets, prfnet):
    images, value, maps = look(prfnet.train(), triplets, 5)
    assert [image.shape for image in images] == [(3, 70, 33)] * 3
    assert value == pytest.approx(predict(prfnet, Crops(triplets, "whole")).prediction[5], abs=1e-6)
    assert maps["gate_w2"].shape[:2] == (1, 1)


def test_baselines_have_the_same_table(pairs, triplets):
    psnr = baselines.load("psnr")
    table = predict_baseline(psnr, pairs)
    expected = [psnr.score(*(image[None] for image in pairs[index][:2])).item() for index in range(len(pairs))]
    assert table.prediction.tolist() == pytest.approx(expected)
    assert table.drop(columns="prediction").equals(
        predict(Difference(), Crops(pairs, "whole")).drop(columns="prediction")
    )
    closer = []
    for reference, *distorted, _ in triplets:
        error_a, error_b = ((image - reference).square().mean() for image in distorted)
        closer.append(float(error_b < error_a))
    assert predict_baseline(psnr, triplets).prediction.tolist() == closer
    assert set(closer) == {0, 1}
