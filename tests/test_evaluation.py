"""Predictions: the mean over crops, bounded batches, and no influence of the neighbours, their order or the batch.

Baselines' scores: kept, each pair of images computed once, and again where anything changes.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from image_sets import image_set, one_thread_of_the_cpu  # noqa: F401
from PIL import Image
from torch import Tensor, nn

from iqa_lib import baselines, devices, evaluation
from iqa_lib.baselines import Baseline, b_is_closer
from iqa_lib.data.base import IQADataset, Label, Pair, Triplet
from iqa_lib.evaluation import (
    baseline_scores,
    crop_outputs,
    look,
    maps_of_crops,
    mean_outputs,
    predict,
    predict_baseline,
    prediction_table,
)
from iqa_lib.files import read_json
from iqa_lib.models import PRFNet
from iqa_lib.views import Crops, FixedFeatures
from iqa_lib.weights import Weights

SIZES = [(64, 64), (64, 64), (40, 36), (64, 64), (64, 64), (33, 70)]


class Difference(nn.Module):
    """How much brighter the (second) distorted image is; notes the sizes of its batches."""

    def __init__(self, limit: int = 100):
        super().__init__()
        self.scale, self.limit, self.batches = nn.Parameter(torch.tensor(300.0)), limit, []

    def forward(self, reference: Tensor, *distorted: Tensor, return_maps: bool = False):
        assert not self.training
        assert not torch.is_grad_enabled()
        assert len(reference) <= self.limit
        self.batches.append(len(reference))
        brightness = [image.mean((1, 2, 3)) for image in (reference, *distorted)]
        output = self.scale * (brightness[-1] - brightness[-2])
        return (output, {"reference": reference}) if return_maps else output


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of each test's own; here the baselines' scores are kept in it."""
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scores"


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    return image_set(tmp_path_factory.mktemp("triplets"), SIZES)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return image_set(tmp_path_factory.mktemp("pairs"), SIZES, pairs=True)


@pytest.fixture
def prfnet():
    torch.manual_seed(0)
    options = dict(se=False, weights="packaged", freeze_backbone=True, width=8, hidden=8, dropout=0.5)
    return PRFNet(backbone="tf_efficientnet_lite0.in1k", **options)


def by_hand(crops: Crops, index: int) -> np.ndarray:
    """What `Difference` gives for each crop of a record."""
    *_, before, after = (image.numpy() / 255 for image in crops.all(index)[:-1])
    return 300 * (after.mean((1, 2, 3)) - before.mean((1, 2, 3)))


@pytest.mark.parametrize("options", [("grid", 32), ("corners", 24), ("whole",)], ids=str)
def test_a_pair_gets_the_mean_score_of_its_crops(pairs, options):
    crops = Crops(pairs, *options, count=0)
    table = predict(Difference(), crops)
    expected = [by_hand(crops, index).mean() for index in range(len(pairs))]
    assert table.prediction.tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("options", [("grid", 32), ("corners", 24), ("whole",)], ids=str)
def test_a_triplet_gets_the_mean_probability_of_its_crops(triplets, options):
    crops = Crops(triplets, *options, count=0)
    table = predict(Difference(), crops)
    logits = [by_hand(crops, index) for index in range(len(triplets))]
    expected = [(1 / (1 + np.exp(-logit))).mean() for logit in logits]
    assert table.prediction.tolist() == pytest.approx(expected, abs=1e-4)
    if options[0] != "whole":  # the probability of the mean logit would be another
        assert np.abs(table.prediction - [1 / (1 + np.exp(-logit.mean())) for logit in logits]).max() > 0.01


def test_columns_say_which_record_it_is(pairs, triplets):
    table, results = predict(Difference(), Crops(triplets, "whole")), ["prediction", "logit"]
    assert table.columns.tolist() == ["reference_id", "reference", "a", "b", "kind_a", "kind_b", "target", *results]
    first = table.iloc[1].drop(results).tolist()
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
def test_no_more_than_max_batch_crops_reach_the_model(tmp_path, max_batch, batches):
    model = Difference(limit=max_batch)
    dataset = image_set(tmp_path, [(64, 64)] * 6)
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
    backwards = IQADataset("images", "all", triplets.records[::-1], triplets.label)
    other = predict(prfnet, Crops(backwards, *options, count=0))
    pd.testing.assert_frame_equal(other[::-1].reset_index(drop=True), table, rtol=0, atol=1e-6)
    alone = IQADataset("images", "all", triplets.records[2:3], triplets.label)
    assert predict(prfnet, Crops(alone, *options, count=0)).prediction[0] == pytest.approx(
        table.prediction[2], abs=1e-6
    )


def ahead_of_a_gpu(function, items, device):
    """`ahead` as beside a GPU."""
    return devices.ahead(function, items, torch.device("cuda"))


def test_reading_ahead_changes_nothing(triplets, prfnet, monkeypatch):
    crops = Crops(triplets, "random", 32, count=3)
    expected = predict(prfnet, crops, max_batch=4)
    monkeypatch.setattr(evaluation, "ahead", ahead_of_a_gpu)
    pd.testing.assert_frame_equal(predict(prfnet, crops, max_batch=4), expected)


def test_kept_features_give_the_same_predictions(triplets, prfnet, monkeypatch):
    crops = Crops(triplets, "corners", 32)
    expected = predict(prfnet, crops)
    features = FixedFeatures(crops, prfnet)
    monkeypatch.setattr(prfnet, "extract", None)
    for max_batch in (1, 3, 16):
        table = predict(prfnet, features, max_batch=max_batch)
        pd.testing.assert_frame_equal(table, expected, rtol=0, atol=1e-5)


def test_look_shows_what_predict_says(triplets, prfnet):
    images, value, maps = look(prfnet.train(), triplets, 5)
    assert [image.shape for image in images] == [(3, 70, 33)] * 3
    assert value == pytest.approx(predict(prfnet, Crops(triplets, "whole")).prediction[5], abs=1e-6)
    assert maps["gate_w2"].shape[:2] == (1, 1)


def test_look_shows_a_crop_of_crops(triplets, prfnet):
    crops = Crops(triplets, "grid", 32, count=0)
    outputs = crop_outputs(prfnet, crops)
    spread = [crop.double().std().item() for crop in crops.all(5)[0]]
    for options, crop in (((), spread.index(max(spread))), ((0,), 0), ((3,), 3), ((5,), 5)):
        images, value, maps = look(prfnet.train(), crops, 5, *options)
        expected = [image[crop] / 255 for image in crops.all(5)[:3]]
        assert all(torch.equal(image, cut) for image, cut in zip(images, expected, strict=True))
        assert value == pytest.approx(outputs[5][crop].sigmoid().item(), abs=1e-6)
        assert maps["gate_w2"].shape[:2] == (1, 1)
    with pytest.raises(IndexError):
        look(prfnet, crops, 5, 6)


def test_look_without_a_number_shows_the_crop_that_varies_most(pairs):
    crops = Crops(pairs, "grid", 16, count=0)
    shown = []
    for index in range(len(pairs)):
        cut = crops.all(index)[0] / 255
        shown.append(cut.double().flatten(1).std(dim=1).argmax().item())
        assert torch.equal(look(Difference(), crops, index)[0][0], cut[shown[-1]])
    assert set(shown) != {0}


@pytest.mark.parametrize("as_crops", [False, True])
def test_look_gives_a_pairs_score(pairs, as_crops):
    crops = Crops(pairs, "whole")
    images, value, maps = look(Difference(), crops if as_crops else pairs, 2)
    assert [image.shape for image in images] == [(3, 36, 40)] * 2
    assert all(torch.equal(image, whole) for image, whole in zip(images, pairs[2], strict=False))
    assert value == pytest.approx(by_hand(crops, 2)[0], abs=1e-3)
    assert torch.equal(maps["reference"][0], images[0])


# --- Outputs of crops, and what is made of them


def test_the_maps_of_crops_are_those_of_each_crop_side_by_side(prfnet):
    images = [torch.rand(3, 70, 100, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    cut, outputs, maps = maps_of_crops(prfnet, 32, *images)
    assert outputs.shape == (1, 1, 2, 3)
    assert maps["difference_a_1"].shape[2:] == (2 * 8, 3 * 8)
    for image, whole in zip(cut, images, strict=True):
        assert torch.equal(image, whole[:, :64, :96])
    for row, column in ((0, 0), (0, 2), (1, 1)):
        crop = [image[None, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] for image in images]
        with torch.inference_mode():
            output, of_crop = prfnet(*crop, return_maps=True)
        assert outputs[0, 0, row, column] == pytest.approx(output.item(), abs=1e-5)
        for name, values in of_crop.items():
            height, width = values.shape[2:]
            part = maps[name][..., row * height : (row + 1) * height, column * width : (column + 1) * width]
            torch.testing.assert_close(part, values, atol=1e-5, rtol=1e-4)


def test_each_crops_number_is_a_place_of_a_map():
    """As IQA-TMFM's logits of a scale are."""
    model = Difference()
    images = torch.rand(2, 3, 8, 12)
    _, outputs, maps = maps_of_crops(model.eval(), 4, *images)
    assert outputs.shape == (1, 1, 2, 3)
    assert torch.equal(maps["reference"], images[:1])
    brightness = images.unflatten(3, (3, 4)).unflatten(2, (2, 4)).mean((1, 3, 5))
    torch.testing.assert_close(outputs[0, 0], 300 * (brightness[1] - brightness[0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("max_batch", [1, 3, 100])
def test_crop_outputs_are_a_models_answers_to_each_crop(pairs, max_batch):
    crops = Crops(pairs, "grid", 32, count=0)
    outputs = crop_outputs(Difference().train(), crops, max_batch=max_batch)
    assert [len(output) for output in outputs] == [4, 4, 4, 4, 4, 6]
    assert {(output.dtype, output.ndim) for output in outputs} == {(torch.float32, 1)}
    for index, output in enumerate(outputs):
        assert output.tolist() == pytest.approx(by_hand(crops, index).tolist(), abs=1e-3)


def test_what_is_asked_of_each_crop_may_be_another_answer(pairs):
    crops = Crops(pairs, "grid", 32, count=0)
    outputs = crop_outputs(Difference(), crops, call=lambda reference, distorted: distorted[:, :2, 0, 0], max_batch=3)
    assert [tuple(output.shape) for output in outputs] == [(4, 2)] * 5 + [(6, 2)]
    means = mean_outputs(outputs)
    assert means.shape == (6, 2)
    first = mean_outputs(outputs, crops=2)
    for index in range(len(pairs)):
        corners = crops.all(index)[1][:, :2, 0, 0].numpy() / 255
        assert means[index].tolist() == pytest.approx(corners.mean(0).tolist(), abs=1e-6)
        assert first[index].tolist() == pytest.approx(corners[:2].mean(0).tolist(), abs=1e-6)


def test_predictions_are_the_table_of_the_outputs(triplets):
    crops = Crops(triplets, "corners", 32)
    outputs = crop_outputs(Difference(), crops)
    for options in ({}, {"average": "probability"}, {"average": "logit"}):
        table = predict(Difference(), crops, **options)
        pd.testing.assert_frame_equal(prediction_table(triplets, outputs, **options), table)


OUTPUTS = [[0.0, 4.0], [-3.0], [2.0, 2.0, -6.0], [1.0, -1.0], [5.0, 5.0], [0.5, 0.25, 8.0, -9.0]]


@pytest.mark.parametrize("crops", [None, 1, 2, 9])
def test_what_a_triplets_prediction_is(triplets, crops):
    outputs = [torch.tensor(output) for output in OUTPUTS]
    logits = [np.mean(output[:crops]) for output in OUTPUTS]
    shares = [np.mean([1 / (1 + np.exp(-x)) for x in output[:crops]]) for output in OUTPUTS]
    table = prediction_table(triplets, outputs, crops=crops)
    assert table.prediction.tolist() == pytest.approx(shares, abs=1e-6)
    by_logit = prediction_table(triplets, outputs, crops=crops, average="logit")
    assert by_logit.prediction.tolist() == pytest.approx([1 / (1 + np.exp(-logit)) for logit in logits], abs=1e-6)
    assert table.logit.tolist() == by_logit.logit.tolist() == pytest.approx(logits, abs=1e-6)


@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize("crops", [None, 2])
def test_a_pairs_prediction_is_the_mean_score(pairs, average, crops):
    table = prediction_table(pairs, [torch.tensor(output) for output in OUTPUTS], average=average, crops=crops)
    assert table.prediction.tolist() == pytest.approx([np.mean(output[:crops]) for output in OUTPUTS])
    assert "logit" not in table
    assert table.target.tolist() == [pair.score for pair in pairs.records]


def test_an_unknown_average_is_an_error(triplets, pairs):
    for dataset in (triplets, pairs):
        with pytest.raises(ValueError, match="average: got 'median', expected one of 'probability', 'logit'"):
            prediction_table(dataset, [torch.zeros(2)] * 6, average="median")


# --- Baselines


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


def counted(name: str = "psnr", **changes) -> tuple[Baseline, list[int]]:
    """A baseline that notes each pair of images it computes, and the notes."""
    baseline, calls = baselines.load(name), []

    def compute(reference: Tensor, distorted: Tensor) -> Tensor:
        calls.append(len(calls))
        return baseline.compute(reference, distorted)

    return replace(baseline, compute=compute, **changes), calls


def computed(dataset: IQADataset, name: str = "psnr", **changes) -> int:
    """How many pairs of images a baseline computes for a data set."""
    baseline, calls = counted(name, **changes)
    baseline_scores(baseline, dataset)
    return len(calls)


def set_of(*records: Pair | Triplet) -> IQADataset:
    return IQADataset("images", "all", records, Label("share", 0, 1, True))


def triplet(*paths: Path) -> Triplet:
    return Triplet(*paths, 0.5, paths[0].stem, 0.5)


def repaint(path: Path, value: int = 128) -> None:
    with Image.open(path) as image:
        flat = Image.new("RGB", image.size, (value, value, value))
    flat.save(path)


def direct(baseline: Baseline, dataset: IQADataset) -> list[list[float]]:
    """Scores without anything kept."""
    return [
        [baseline.score(item[0][None], distorted[None]).item() for distorted in item[1:-1]]
        for item in (dataset[index] for index in range(len(dataset)))
    ]


@pytest.mark.parametrize("name", ["psnr", "mse", "gmsd", "ssim"])
@pytest.mark.parametrize("kind", ["pairs", "triplets"])
def test_scores_are_kept_and_not_computed_again(request, cache, name, kind):
    dataset = request.getfixturevalue(kind)
    (baseline, calls), expected = counted(name), direct(baselines.load(name), dataset)
    scores = baseline_scores(baseline, dataset)
    assert (scores.dtype, scores.tolist()) == (np.float64, expected)  # A in the first column, B in the second
    assert len(calls) == scores.size == 6 * (1 + (kind == "triplets"))
    assert len(list(cache.rglob("*.json"))) == 6
    again, calls = counted(name)
    assert baseline_scores(again, dataset).tolist() == expected
    assert not calls


def test_a_gpus_scores_are_kept_by_themselves_and_its_images_read_ahead(pairs, cache, monkeypatch):
    beside = []
    monkeypatch.setattr(evaluation, "ahead", lambda *given: beside.append(given[2].type) or devices.ahead(*given))
    (on_cpu, before), (on_gpu, calls) = counted("gmsd"), counted("gmsd", device=torch.device("cuda"))
    expected = baseline_scores(on_cpu, pairs)
    for _ in range(2):
        assert baseline_scores(on_gpu, pairs).tolist() == expected.tolist()
    assert len(before) == len(calls) == 6
    assert beside == ["cpu"] * 6 + ["cuda"] * 6
    assert len(list(cache.rglob("*.json"))) == 12


def test_an_image_of_another_size_is_named(tmp_path):
    dataset = image_set(tmp_path, [(12, 9)] * 2, pairs=True)
    with Image.open(dataset.records[1].distorted) as image:
        image.resize((12, 12)).save(dataset.records[1].distorted)
    with pytest.raises(ValueError, match=rf"{dataset.records[1].distorted}: psnr: images: got unequal shapes"):
        baseline_scores(baselines.load("psnr"), dataset)


def test_an_infinite_psnr_is_kept(tmp_path):
    dataset = image_set(tmp_path, [(12, 9)] * 2, pairs=True)
    record = dataset.records[0]
    record.distorted.write_bytes(record.reference.read_bytes())
    baseline, calls = counted()
    for _ in range(2):
        first, second = baseline_scores(baseline, dataset)[:, 0]
        assert first == np.inf
        assert 0 < second < 100
    assert len(calls) == 2


def test_a_image_shared_by_triplets_is_scored_once(tmp_path):
    (x,), c = image_set(tmp_path, [(12, 9)]).records, tmp_path / "c.png"
    Image.new("RGB", (12, 9)).save(c)
    dataset = set_of(*(triplet(x.reference, *two) for two in ((x.a, x.b), (x.b, c), (c, x.a), (x.a, x.b))))
    baseline, calls = counted()
    scores = baseline_scores(baseline, dataset)
    assert scores.tolist() == direct(baselines.load("psnr"), dataset)
    assert len(calls) == len(set(scores.flat)) == 3


def test_data_sets_share_the_scores_of_their_images(tmp_path):
    dataset = image_set(tmp_path, [(12, 9)] * 3)
    first, *others = dataset.records
    pairs = set_of(*(Pair(record.reference, record.b, 1.0, "", 1.0) for record in dataset.records))
    assert computed(set_of(first)) == 2
    assert computed(dataset) == 4
    assert computed(pairs) == computed(set_of(*others)) == 0
    assert computed(set_of(triplet(first.reference, first.a, others[0].a))) == 1  # beside another reference: anew
    assert baseline_scores(counted()[0], pairs)[:, 0].tolist() == baseline_scores(counted()[0], dataset)[:, 1].tolist()


def test_a_changed_image_is_scored_again(tmp_path):
    dataset = image_set(tmp_path, [(12, 9)] * 3)
    first, second, _ = dataset.records
    assert computed(dataset) == 6
    repaint(second.b)
    assert computed(dataset) == 1
    first.a.rename(moved := tmp_path / "moved.png")
    dataset = set_of(replace(first, a=moved), *dataset.records[1:])
    assert computed(dataset) == 1
    assert computed(dataset) == 0
    assert baseline_scores(counted()[0], dataset).tolist() == direct(baselines.load("psnr"), dataset)


def test_a_changed_reference_is_scored_again(tmp_path):
    dataset = image_set(tmp_path, [(12, 9)] * 3)
    assert computed(dataset) == 6
    repaint(dataset.records[1].reference)
    assert computed(dataset) == 2
    assert computed(dataset) == 0
    decoded = IQADataset("images", "all", dataset.records, dataset.label)
    decoded.pixel_cache = True  # holds no image in memory
    expected = direct(baselines.load("psnr"), decoded)
    assert baseline_scores(counted()[0], dataset).tolist() == expected


def test_another_metric_is_computed_anew(triplets, monkeypatch, cache):
    weights = Weights("net", "file", "net.pth", "01")
    kinds = [
        {},
        {"name": "mse"},
        {"weights": weights},
        {"weights": replace(weights, sha256="02")},
        {"max_pixels": 10_000},
    ]
    assert [computed(triplets, **changes) for changes in kinds] == [12] * 5
    assert [computed(triplets, **changes) for changes in kinds] == [0] * 5
    assert len(list(cache.iterdir())) == 5
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "version", lambda library: f"{library} of tomorrow")
        assert computed(triplets) == 12
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "sha256", lambda path: f"{path} with other code")
        assert computed(triplets) == 12
    assert computed(triplets) == 0


@pytest.mark.parametrize("reached", range(1, 8))
def test_a_killed_computation_loses_one_reference_at_most(tmp_path, cache, reached):
    records = image_set(tmp_path, [(12, 9)] * 2).records
    swapped = [replace(record, a=other.a, b=other.b) for record, other in zip(records, records[::-1], strict=True)]
    dataset = set_of(*records, *swapped)  # a reference's records do not stand together
    baseline, calls = counted()

    def dying(*pair: Tensor) -> Tensor:
        if len(calls) == reached:
            raise KeyboardInterrupt
        return baseline.compute(*pair)

    with pytest.raises(KeyboardInterrupt):
        baseline_scores(replace(baseline, compute=dying), dataset)
    whole = reached // 4
    assert len(list(cache.rglob("*.json"))) == whole
    assert computed(dataset) == 4 * (2 - whole)
    assert baseline_scores(baseline, dataset).tolist() == direct(baselines.load("psnr"), dataset)
    assert len(calls) == reached


def test_two_at_once_share_the_work(pairs):
    baseline, calls = counted()

    def slow(*pair: Tensor) -> Tensor:
        time.sleep(0.02)
        return baseline.compute(*pair)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(baseline_scores, [replace(baseline, compute=slow)] * 2, [pairs] * 2))
    assert both[0].tolist() == both[1].tolist() == direct(baselines.load("psnr"), pairs)
    assert len(calls) == 6


def test_a_write_that_fails_leaves_what_was_kept(tmp_path, cache, monkeypatch):
    dataset = image_set(tmp_path, [(12, 9)] * 2)
    assert computed(set_of(dataset.records[0])) == 2
    kept = {path: path.read_bytes() for path in cache.rglob("*.json")}

    def failing(temporary, path):
        raise OSError("no space left")

    more = set_of(triplet(dataset.records[0].reference, dataset.records[0].a, dataset.records[1].a))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="no space"):
            baseline_scores(counted()[0], more)
    assert {path: path.read_bytes() for path in cache.rglob("*.json")} == kept
    assert computed(more) == 1
    assert [len(read_json(path)) for path in kept] == [3]


def test_a_kept_score_with_another_digit_is_computed_again(pairs, cache, capsys):
    expected = baseline_scores(counted()[0], pairs).tolist()
    file = sorted(cache.rglob("*.json"))[0]
    text = file.read_text()
    digit = next(place for place in range(text.index(": ") + 2, len(text)) if text[place] in "12345678")
    for damaged in (f"{text[:digit]}9{text[digit + 1 :]}", text[: len(text) // 2]):
        file.write_text(damaged)
        assert baseline_scores(counted()[0], pairs).tolist() == expected
        assert f"{file} is damaged" in capsys.readouterr().out
        assert file.read_text() == text


@pytest.mark.parametrize("name", ["psnr", "mse", "gmsd"])
def test_a_baselines_predictions_are_those_computed_directly(pairs, triplets, tmp_path, name):
    baseline = baselines.load(name)
    same = image_set(tmp_path, [(64, 64)]).records[0]
    mixed = set_of(*triplets.records, replace(same, b=same.a), replace(same, b=same.reference))
    expected = [b_is_closer(baseline, *scores) for scores in direct(baseline, mixed)]
    for _ in range(2):
        assert predict_baseline(baseline, pairs).prediction.tolist() == [score for (score,) in direct(baseline, pairs)]
        table = predict_baseline(baseline, mixed)
        assert table.prediction.tolist() == expected
        assert table.a.tolist() == [record.a.name for record in mixed.records]
    assert expected[-2:] == [0.5, 1]
    assert {0, 1} <= set(expected)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
@pytest.mark.parametrize(("name", "closer"), [("psnr", [1.0, 0.0, 0.5, 0.5, 1.0]), ("mse", [0.0, 1.0, 0.5, 0.5, 0.0])])
def test_preference_from_scores(kind, name, closer):
    a, b = kind([1.0, 2.0, 3.0, np.inf, 1.0]), kind([1.5, 1.5, 3.0, np.inf, np.inf])
    answer = b_is_closer(baselines.load(name), a, b)
    assert type(answer) is type(a)
    assert answer.tolist() == closer


def test_the_most_disputed_images_are_of_one_reference():
    """Ranks: people 1 2 3 4 5 6; the metric puts x's second below and y's first above, but these are two references."""
    table = pd.DataFrame(
        {
            "reference_id": list("xxxyyy"),
            "target": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "prediction": [0.5, 0.1, 0.6, 0.9, 0.7, 0.8],
        }
    )
    assert evaluation.most_disputed(table) == (4, 3)
    worse = table.assign(prediction=-table.prediction)
    assert evaluation.most_disputed(worse, sign=-1) == (4, 3)
    same = table.assign(prediction=[0.6, 0.5, 0.1, 0.7, 0.8, 0.9])
    assert evaluation.most_disputed(same) == (2, 0)


def test_the_worst_mistakes_of_pairs_are_the_farthest_in_rank():
    """Ranks: targets 1 2 3 4, predictions 4 1 3 2, whatever the scale."""
    table = pd.DataFrame({"target": [1.0, 2.0, 3.0, 4.0], "prediction": [9e9, -1.0, 3.0, 2.0]})
    assert evaluation.worst_mistakes(table, 2) == [0, 3]
    assert evaluation.worst_mistakes(table, 9) == [0, 3, 1, 2]
    assert evaluation.worst_mistakes(table.assign(prediction=-table.prediction), 3, sign=-1) == [0, 3, 1]


def test_the_worst_mistakes_of_triplets_are_the_farthest_in_value():
    table = pd.DataFrame({"a": "p", "b": "q", "prediction": [0.9, 0.5, 0.2], "target": [1.0, 1.0, 0.0]})
    assert evaluation.worst_mistakes(table, 2) == [1, 2]


def test_agreement_with_triplets_is_the_accuracy_with_half_a_point_for_a_tie():
    table = pd.DataFrame({"a": "p", "b": "q", "prediction": [0.9, 0.5, 0.2], "target": [1.0, 1.0, 0.75]})
    found = evaluation.agreements(table.assign(reference_id=list("rst")))
    assert list(found) == ["accuracy"]
    assert found["accuracy"].value == pytest.approx((1 + 0.5 + 0.25) / 3)
