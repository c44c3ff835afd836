"""Scoring images of one's own: what is taken, what is refused with advice, and that every way gives one number."""

import csv
import io
import json
import math
import multiprocessing
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image, ImageCms

import iqa_lib
from iqa_lib import baselines, evaluation
from iqa_lib.backbones import PACKAGED
from iqa_lib.baselines import BASELINES
from iqa_lib.data.base import IQADataset, Label, Pair, Triplet
from iqa_lib.data.demo import packaged_photos
from iqa_lib.files import cache_dir, read_json, write_json
from iqa_lib.images import as_image
from iqa_lib.lab import networks, runs, scoring
from iqa_lib.models import AHIQ, FRNR, IQATMFM, CFANet, FusedIQATMFM, PRFNet, rebuild
from iqa_lib.views import Crops
from iqa_lib.weights import Weights, WeightsError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(48, 64, 3), dtype=np.uint8)
NOISY = np.clip(PIXELS.astype(int) + RNG.integers(-30, 30, PIXELS.shape), 0, 255).astype(np.uint8)
GREY = PIXELS[..., 0]
RGB = Image.fromarray(PIXELS)


def tensor(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def with_alpha(pixels, alpha):
    return np.dstack([pixels, np.full(pixels.shape[:2], alpha, pixels.dtype)])


def saved(image, **options):
    """A writer of one file."""
    return lambda path: image.save(path, **options)


def several(*images):
    return lambda path: images[0].save(path, save_all=True, append_images=images[1:])


def damaged(image, share):
    def write(path):
        image.save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return write


def png(width, height, depth, colour, data=b""):
    """A PNG file by hand: Pillow writes neither 16 bits a channel nor a size it would refuse to read."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    chunks = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def profile(kind):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return lambda path: Image.fromarray(np.rot90(PIXELS)).save(path, exif=exif)


SIXTEEN = b"".join(b"\0" + RNG.bytes(6 * 20) for _ in range(20))
TRANSPARENT_PALETTE = RGB.quantize(8)

REFUSED_FILES = {
    "empty.png": (lambda path: path.write_bytes(b""), "cannot be decoded"),
    "half.png": (damaged(RGB, 0.5), "cannot be decoded"),
    "half.jpg": (damaged(RGB, 0.5), "cannot be decoded"),
    "page.png": (lambda path: path.write_text("<html>404</html>"), "cannot be decoded"),
    "animated.gif": (several(RGB, Image.fromarray(NOISY)), "holds 2 images, expected one: save"),
    "animated.png": (several(RGB, Image.fromarray(NOISY)), "holds 2 images, expected one: save"),
    "animated.webp": (several(RGB, Image.fromarray(NOISY)), "holds 2 images, expected one: save"),
    "pages.tif": (several(RGB, RGB, RGB), "holds 3 images, expected one: save"),
    "deep_grey.png": (saved(Image.fromarray(GREY.astype(np.uint16) * 257)), "mode I;16, expected 8-bit"),
    "deep.png": (png(20, 20, 16, 2, SIXTEEN), "16 bits a channel, expected 8-bit"),
    "print.jpg": (saved(RGB.convert("CMYK")), "mode CMYK, expected 8-bit RGB or grey: convert"),
    "float.tif": (saved(Image.fromarray(GREY.astype(np.float32))), "mode F, expected 8-bit"),
    "int.tif": (saved(Image.fromarray(GREY.astype(np.int32))), "mode I, expected 8-bit"),
    "lab.tif": (saved(Image.new("LAB", (20, 20))), "mode LAB, expected 8-bit"),
    "glass.png": (saved(Image.fromarray(with_alpha(PIXELS, 100))), "partly transparent.*lay it over a background"),
    "sticker.png": (saved(TRANSPARENT_PALETTE, transparency=0), "partly transparent"),
    "profile.png": (saved(RGB, icc_profile=b"no profile"), "ICC profile cannot be used.*convert it to sRGB"),
    "bomb.png": (png(60000, 60000, 8, 2), "too large to be read.*downscale"),
    "smaller.png": (saved(RGB.resize((32, 24))), "unequal sizes: reference 64x48, distorted 32x24.*crop or resize"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED_FILES)
def test_a_file_that_would_be_misread_is_refused_with_advice(tmp_path, name):
    write, message = REFUSED_FILES[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        iqa_lib.score(RGB, tmp_path / name, "psnr")
    assert name in str(caught.value) or "distorted" in str(caught.value)


TAKEN_FILES = {
    "opaque.png": (saved(Image.fromarray(with_alpha(PIXELS, 255))), PIXELS),
    "grey.png": (saved(Image.fromarray(GREY)), np.dstack([GREY] * 3)),
    "grey_opaque.png": (saved(Image.fromarray(GREY).convert("LA")), np.dstack([GREY] * 3)),
    "palette.png": (saved(RGB.quantize(8)), np.asarray(RGB.quantize(8).convert("RGB"))),
    "still.gif": (saved(RGB.quantize(8)), np.asarray(RGB.quantize(8).convert("RGB"))),
    "bits.png": (saved(Image.fromarray(GREY > 127)), np.dstack([np.where(GREY > 127, 255, 0).astype(np.uint8)] * 3)),
    "turned.png": (turned(), PIXELS),
    "srgb.png": (saved(RGB, icc_profile=profile("sRGB")), PIXELS),
    "UPPER CASE ä 图.PNG": (saved(RGB, format="PNG"), PIXELS),
    "wrong_ending.jpg": (saved(RGB, format="PNG"), PIXELS),
    "image.bmp": (saved(RGB), PIXELS),
    "phone.jpg": (several(RGB, RGB), None),
}


@pytest.mark.parametrize("name", TAKEN_FILES)
def test_a_file_is_read_as_it_is_meant(tmp_path, name):
    write, pixels = TAKEN_FILES[name]
    if name == "phone.jpg":  # MPO: a JPEG with a second image behind, as phones write it
        RGB.save(tmp_path / name, format="MPO", save_all=True, append_images=[RGB], quality=95)
        RGB.save(tmp_path / "plain.jpg", quality=95)
        pixels = np.asarray(Image.open(tmp_path / "plain.jpg"))
    else:
        write(tmp_path / name)
    assert torch.equal(as_image(tmp_path / name), tensor(pixels))
    assert math.isinf(iqa_lib.score(pixels, tmp_path / name, "psnr"))


def wide_gamut():
    """A matrix profile that is not sRGB: sRGB's own with red and blue exchanged and another name."""
    data = bytearray(profile("sRGB"))
    tags = {bytes(data[i : i + 4]): i for i in range(132, 132 + 12 * data[131], 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    return bytes(data).replace("sRGB".encode("utf-16-be"), "Mine".encode("utf-16-be"))


def test_an_icc_profile_is_followed_for_files_and_pil_images_alike(tmp_path):
    pure = Image.new("RGB", (32, 32), (255, 0, 0))
    pure.save(tmp_path / "wide.png", icc_profile=wide_gamut())
    read = as_image(tmp_path / "wide.png")
    assert (read[2] > 200).all()  # that profile calls blue what sRGB calls red
    assert (read[0] < 60).all()
    assert torch.equal(read, as_image(Image.open(tmp_path / "wide.png")))


FLOAT = PIXELS / 255
REFUSED_VALUES = {
    "NaN": (np.where(FLOAT > 0.5, np.nan, FLOAT), "NaN or infinite.* expected"),
    "infinite": (np.where(FLOAT > 0.5, np.inf, FLOAT), "NaN or infinite.* expected"),
    "0 to 255 as float": (PIXELS.astype(np.float32), "values 0 to 255.*divide by 255"),
    "-1 to 1": (FLOAT * 2 - 1, r"values -1 to 1.*\(x \+ 1\) / 2"),
    "int64 array": (PIXELS.astype(np.int64), "array of int64, expected uint8.*astype"),
    "uint16 array": (PIXELS.astype(np.uint16), "array of uint16.*value of white"),
    "bool array": (PIXELS > 9, "array of bool"),
    "complex array": (FLOAT + 0j, "array of complex128"),
    "object array": (PIXELS.astype(object), "array of object"),
    "channels first array": (PIXELS.transpose(2, 0, 1), r"shape \(3, 48, 64\).*array.transpose\(1, 2, 0\)"),
    "two channels": (PIXELS[..., :2], r"shape \(48, 64, 2\), expected \(H, W, 3\)"),
    "array batch": (PIXELS[None], "one image at a time"),
    "one row": (PIXELS[0, :, 0], r"shape \(64,\)"),
    "empty array": (PIXELS[:0], "holds no pixel"),
    "masked array": (np.ma.array(PIXELS, mask=PIXELS > 9), "masked pixels"),
    "transparent array": (with_alpha(PIXELS, 9), "partly transparent"),
    "transparent float array": (with_alpha(FLOAT, 0.5), "partly transparent"),
    "tensor batch": (torch.rand(2, 3, 48, 64), "one image at a time"),
    "channels last tensor": (torch.rand(48, 64, 3), r"tensor.permute\(2, 0, 1\)"),
    "int64 tensor": (tensor(PIXELS).long(), "tensor of torch.int64, expected uint8"),
    "NaN tensor": (torch.full((3, 48, 64), torch.nan), "NaN or infinite"),
    "0 to 255 tensor": (tensor(PIXELS).float(), "divide by 255"),
    "empty tensor": (torch.rand(3, 0, 64), "holds no pixel"),
    "empty PIL image": (Image.new("RGB", (0, 5)), "0x5 pixels, expected at least 1x1"),
    "None": (None, "got NoneType, expected a file's path"),
    "bytes": (b"\x89PNG", "got bytes"),
    "list": (PIXELS.tolist(), "got list"),
    "folder": (".", "got the folder .*iqa_lib.score"),
    "address": ("https://example.org/a.png", "address https.*download it first"),
    "CMYK PIL image": (RGB.convert("CMYK"), "mode CMYK"),
}


@pytest.mark.parametrize("kind", REFUSED_VALUES)
def test_a_value_that_is_no_image_is_refused_with_advice(kind):
    came, message = REFUSED_VALUES[kind]
    with pytest.raises(ValueError, match="(?s)" + message) as caught:
        iqa_lib.score(RGB, came, "psnr")
    assert "distorted" in str(caught.value)
    with pytest.raises(ValueError, match="reference"):
        iqa_lib.score(came, RGB, "psnr")


TAKEN_VALUES = {
    "grey array": (GREY, np.dstack([GREY] * 3)),
    "grey array with an axis": (GREY[..., None], np.dstack([GREY] * 3)),
    "opaque array": (with_alpha(PIXELS, 255), PIXELS),
    "mirrored view": (PIXELS[:, ::-1], PIXELS[:, ::-1]),
    "float array": (FLOAT, PIXELS),
    "big-endian float array": (FLOAT.astype(">f4"), PIXELS),
    "opaque float array": (with_alpha(FLOAT, 1.0), PIXELS),
    "tensor": (tensor(PIXELS), PIXELS),
    "tensor of one": (tensor(PIXELS)[None], PIXELS),
    "grey tensor": (tensor(PIXELS)[:1], np.dstack([GREY] * 3)),
    "float tensor": (tensor(PIXELS).float() / 255, PIXELS),
    "float64 tensor": (tensor(PIXELS).double() / 255, PIXELS),
    "tensor with gradient": ((tensor(PIXELS).float() / 255).requires_grad_(), PIXELS),
}


@pytest.mark.parametrize("kind", TAKEN_VALUES)
def test_every_form_of_an_image_gives_the_same_score(kind):
    came, pixels = TAKEN_VALUES[kind]
    wanted = iqa_lib.score(Image.fromarray(NOISY), Image.fromarray(np.ascontiguousarray(pixels)), "ssim")
    assert iqa_lib.score(NOISY, came, "ssim") == pytest.approx(wanted, abs=1e-6)


def test_a_path_a_pil_image_an_array_and_a_tensor_agree_with_the_baseline_itself(tmp_path):
    RGB.save(tmp_path / "r.png")
    Image.fromarray(NOISY).save(tmp_path / "d.png")
    forms = [
        (tmp_path / "r.png", str(tmp_path / "d.png")),
        (RGB, Image.fromarray(NOISY)),
        (PIXELS, NOISY),
        (tensor(PIXELS), tensor(NOISY)),
    ]
    scores = {float(iqa_lib.score(*form, "gmsd")) for form in forms}
    assert scores == {BASELINES["gmsd"].score(*(tensor(x)[None].float() / 255 for x in (PIXELS, NOISY))).item()}


# --- the number and its meaning


@pytest.mark.parametrize("name", [name for name, baseline in BASELINES.items() if not baseline.needs_weights])
def test_identical_images_get_the_extreme_score(name):
    photo = np.asarray(Image.open(packaged_photos()[1]))[60:236, 120:296]
    baseline, found = BASELINES[name], iqa_lib.score(photo, photo, name)
    extreme = baseline.high if baseline.higher_is_better else baseline.low
    assert found == pytest.approx(1 if name == "vifp" else extreme, abs=1e-4)
    worse = iqa_lib.score(photo, np.roll(photo, 9, axis=1), name)
    assert worse < found if baseline.higher_is_better else worse > found


def test_the_number_tells_its_direction_and_range_and_computes_like_any_other():
    found = iqa_lib.score(PIXELS, NOISY, "ssim")
    assert re.fullmatch(r"0\.\d+  ssim \(higher is better, -1 to 1\): SSIM, piq", repr(found))
    assert f"{found:.2f}" == f"{float(found):.2f}"
    assert "lower is better, 0 to 0.5" in iqa_lib.score(PIXELS, NOISY, "gmsd").meaning


def test_a_score_is_a_number_in_every_file():
    found = scoring.Score(0.1 + 0.2, "ssim (higher is better)")
    out = io.StringIO()
    csv.writer(out).writerow([found])
    assert out.getvalue().strip() == f"{found}" == "0.30000000000000004"
    assert json.loads(json.dumps([found])) == [0.1 + 0.2]
    assert yaml.safe_load(yaml.safe_dump([found])) == yaml.safe_load(yaml.dump([found])) == [0.1 + 0.2]
    again = pickle.loads(pickle.dumps(found))
    assert (float(again), again.meaning) == (float(found), found.meaning)
    assert pd.Series([found]).to_csv(index=False, header=False).strip() == "0.30000000000000004"


def test_a_metric_goes_to_other_processes():
    metric = scoring.load("gmsd")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.starmap(metric.score, [(PIXELS, NOISY), (PIXELS, PIXELS)])
    assert found == [metric.score(PIXELS, NOISY), 0]
    assert found[0].meaning == metric.meaning
    assert pickle.loads(pickle.dumps(metric)) is pickle.loads(pickle.dumps(metric))  # loaded once a process


def test_a_result_that_is_no_number_is_refused():
    broken = scoring.Metric("broken", "weights of NaN", lambda *_: math.nan)
    with pytest.raises(ValueError, match=r"broken: got NaN.*check weights of NaN"):
        broken.score(PIXELS, NOISY)
    with pytest.raises(pickle.PicklingError, match="broken does not come from `load`"):
        pickle.dumps(broken)


def test_prefer_by_a_metric_follows_its_direction():
    worse = np.roll(NOISY, 5, axis=1)
    for name in ("ssim", "gmsd"):
        assert iqa_lib.prefer(PIXELS, worse, NOISY, name) == 1
        assert iqa_lib.prefer(PIXELS, NOISY, worse, name) == 0
        assert iqa_lib.prefer(PIXELS, NOISY, NOISY, name) == 0.5
    assert "1: B is closer, 0: A is, by A" in iqa_lib.prefer(PIXELS, NOISY, worse, "ssim").meaning


# --- metrics that are not here


@pytest.mark.parametrize("name", ["iqa-tmfm", "prfnet", "fr-nr"])
def test_a_network_without_weights_lists_the_options(name):
    with pytest.raises(WeightsError, match="needs trained weights") as caught:
        iqa_lib.score(PIXELS, NOISY, name)
    assert all(word in str(caught.value) for word in ("checkpoint=", networks.NETWORKS[name].notebook, "ssim"))
    assert ("authors" in str(caught.value)) == networks.NETWORKS[name].authors


def test_the_default_works_at_once():
    assert iqa_lib.score(PIXELS, NOISY).meaning.startswith("st-lpips-alex (lower is better, 0 to inf)")
    assert iqa_lib.prefer(PIXELS, NOISY, PIXELS) == 1


def test_without_a_home_the_variable_to_set_is_named(monkeypatch):
    for name in ("IQA_LIB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user without a home
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(OSError, match=r"Could not determine home directory.*set IQA_LIB_CACHE"):
        cache_dir()
    with pytest.raises(WeightsError, match="no home folder to keep them in: set TORCH_HOME"):
        scoring.load("lpips-alex")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metric": "ssmi"}, ValueError, "unknown, did you mean ssim"),
        ({"metric": "no/such/folder"}, ValueError, "holds no run.json"),
        ({"metric": "topiq-fr", "checkpoint": "no.pth"}, WeightsError, "there is no checkpoint no.pth"),
        ({"metric": "topiq-fr", "checkpoint": __file__}, WeightsError, "cannot be read"),
        ({"metric": "ssim", "checkpoint": __file__}, ValueError, "has no network: leave them out"),
        ({"metric": "ssim", "vit": "b16"}, ValueError, "options vit, which only a checkpoint of the authors takes"),
        ({"metric": "ssim", "device": "cuda:77"}, ValueError, "use 'cpu'"),
        ({"metric": "ssim", "device": "tpu9"}, ValueError, "use 'cpu'"),
        ({"metric": "ssim", "device": "meta"}, ValueError, "got 'meta'.*use 'cpu'"),
        (
            {"metric": "topiq-fr", "checkpoint": __file__, "wings": 2},
            ValueError,
            "got the options wings, expected some",
        ),
    ],
)
def test_a_wrong_metric_checkpoint_device_or_option_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        iqa_lib.score(PIXELS, NOISY, **arguments)


def test_the_authors_checkpoint_of_cfanet_scores_whole_images(tmp_path, monkeypatch):
    """The layout is tested in test_topiq.py; here: what is read is what scores."""
    torch.manual_seed(0)
    model = CFANet(backbone=PACKAGED, weights="random", dim=16).eval()
    (tmp_path / "authors.pth").write_bytes(b"weights")
    monkeypatch.setattr(CFANet, "from_author_checkpoint", lambda path, **options: model)
    found = iqa_lib.score(PIXELS, NOISY, "topiq-fr", checkpoint=tmp_path / "authors.pth")
    pair = (tensor(x)[None].float() / 255 for x in (PIXELS, NOISY))
    with torch.inference_mode():
        assert found == pytest.approx(model(*pair).item(), abs=1e-5)
    assert "authors.pth (sha256" in found.meaning


def test_an_image_smaller_than_the_authors_crops_is_refused(tmp_path, monkeypatch):
    model = AHIQ(cnn="packaged", cnn_weights="random", fusion="cnn", width=1 / 64).eval()
    (tmp_path / "authors.pth").write_bytes(b"weights")
    monkeypatch.setattr(AHIQ, "from_author_checkpoint", lambda path, **options: model)
    metric = scoring.load("ahiq", checkpoint=tmp_path / "authors.pth", vit="b16")
    with pytest.raises(ValueError, match=r"crops of 224 px: got images of 64x48, expected .* 224: enlarge"):
        metric.score(PIXELS, NOISY)
    larger = [Image.fromarray(x).resize((300, 230)) for x in (PIXELS, NOISY)]
    tops = [(0, 0), (6, 0), (0, 76), (6, 76)]
    cut = [[as_image(x)[None, :, t : t + 224, s : s + 224].float() / 255 for x in larger] for t, s in tops]
    with torch.inference_mode():
        crops = [model(*pair).item() for pair in cut]
    assert metric.score(*larger) == pytest.approx(np.mean(crops), abs=1e-4)


# --- runs of this repository

SMALL = {"backbone": PACKAGED, "weights": "random"}
TMFM = SMALL | dict(crop=32, dim=8, heads=2, head_dim=4, hidden=8)
MODELS = {
    "ahiq": lambda: AHIQ(cnn="packaged", cnn_weights="random", fusion="cnn", width=1 / 64),
    "fr-nr": lambda: FRNR(**SMALL, branches=("frp", "nr"), hidden=(8,)),
    "topiq-fr": lambda: CFANet(**SMALL, dim=16, taps=(1, 3)),
    "prfnet": lambda: PRFNet(**SMALL, width=4, hidden=4, se=False),
    "iqa-tmfm": lambda: IQATMFM(**TMFM),
    "iqa-tmfm, fused": lambda: FusedIQATMFM(IQATMFM(**TMFM), 2),
}


def records(folder, count, triplets):
    """A demo set of a few images on disk."""
    names = ("r", "a", "b") if triplets else ("r", "d")
    rng, found = np.random.default_rng(1), []
    for number in range(count):
        paths = [folder / f"{name}{number}.png" for name in names]
        for path in paths:
            Image.fromarray(rng.integers(256, size=(48, 64, 3), dtype=np.uint8)).save(path)
        found.append((Triplet if triplets else Pair)(*paths, 0.5, str(number), 0.5))
    return IQADataset("demo", "test", found, Label("simulated MOS", 1, 5, True))


def finished(folder, name):
    """A run of a random network, recorded as a notebook does it, and its predictions."""
    torch.manual_seed(2)
    model = MODELS[name]().eval()
    triplets = not hasattr(model, "higher_is_better")
    data = records(folder, 2, triplets)
    views = Crops(data, "corners", 32, count=5, enlarge=True)
    average = "logit" if "tmfm" in name else "probability"
    if "fused" in name:
        metrics = [baselines.load(metric) for metric in ("psnr", "gmsd")]
        outputs = evaluation.crop_outputs(model.network, views)
        logit = model.fuse(evaluation.mean_outputs(outputs), evaluation.metric_scores(metrics, data))
        predictions = evaluation.prediction_table(data, outputs, average=average).assign(
            prediction=logit.sigmoid().numpy()
        )
    else:
        predictions = evaluation.predict(model, views, average=average)
    given = {"test_crops": "corners", "crop": 32, "test_crop_count": 5, "seed": 0, "max_batch": 4, "precision": "bf16"}
    run = runs.Run(networks.NETWORKS[name.split(",")[0]].notebook, given | {"metrics": "psnr, gmsd"}, folder / "seed0")
    run.finish(model, metrics={}, predictions=predictions, data={"test": data}, weights=Weights(PACKAGED, "random"))
    return data, predictions


@pytest.mark.parametrize("name", MODELS)
def test_a_run_scores_its_test_images_as_its_predictions_tell(tmp_path, monkeypatch, name):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    data, predictions = finished(tmp_path, name)
    metric = scoring.load(tmp_path / "seed0")
    assert metric.name == name.split(",")[0]
    ask = metric.prefer if metric.triplets else metric.score
    found = [ask(*record.images) for record in data.records]
    assert found == pytest.approx(predictions.prediction.tolist(), abs=1e-5)
    assert "a demo number" in found[0].meaning
    same = scoring.load(metric.name, checkpoint=str(tmp_path / "seed0"))
    assert float(found[0]) == (same.prefer if same.triplets else same.score)(*data.records[0].images)


def test_a_triplet_network_has_no_score_and_says_so(tmp_path):
    finished(tmp_path, "prfnet")
    with pytest.raises(ValueError, match=r"use iqa_lib.prefer\(reference, a, b"):
        iqa_lib.score(PIXELS, NOISY, tmp_path / "seed0")


def test_a_pair_network_prefers_by_its_scores(tmp_path):
    finished(tmp_path, "fr-nr")
    metric = scoring.load(tmp_path / "seed0")
    a, b = metric.score(PIXELS, NOISY), metric.score(PIXELS, PIXELS)
    assert metric.prefer(PIXELS, NOISY, PIXELS) == float(b > a)


def test_a_run_of_another_network_a_broken_or_an_old_one_is_refused(tmp_path):
    finished(tmp_path, "fr-nr")
    folder = tmp_path / "seed0"
    with pytest.raises(ValueError, match="is a run of fr-nr: give metric='fr-nr'"):
        scoring.load("ahiq", checkpoint=folder)
    record = read_json(folder / "run.json")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(WeightsError, match="run the row again"):
        scoring.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds no model"):
        scoring.load(folder)
    for changed, message in (
        ({"model": None}, "names no trained network"),
        ({"model": {"class": "os.system", "options": {}}}, "no 'os.system'"),
        ({"model": {"class": "FRNR", "options": {"wings": 2}}}, r"no option \['wings'\]"),
    ):
        write_json(folder / "run.json", record | changed)
        (folder / "model.safetensors").write_bytes(weights)
        with pytest.raises(ValueError, match=message):
            scoring.load(folder)
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        scoring.load(folder)


def test_options_are_kept_and_make_the_same_network_again():
    model = MODELS["iqa-tmfm, fused"]()
    description = json.loads(json.dumps(rebuild.described(model)))
    again = rebuild.rebuilt(description)
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (model, again)]
    assert shapes[0] == shapes[1]
    assert description["options"]["network"]["options"]["crop"] == 32
    assert rebuild.described(torch.nn.Linear(1, 1)) is None


# --- the name of a function and a module


@pytest.mark.parametrize(
    "order",
    [
        "import iqa_lib; first = iqa_lib.score; import iqa_lib.score; from iqa_lib import score",
        "import iqa_lib.score; from iqa_lib import score; first = iqa_lib.score",
        "from iqa_lib import score; from iqa_lib.score import CallableModule; import iqa_lib; first = score",
    ],
)
def test_the_name_is_one_thing_whatever_is_imported_first(order):
    light = "import pickle, sys, types; sys.modules['iqa_lib.lab.scoring'] = types.SimpleNamespace(score=max)"
    checks = "assert first is score is iqa_lib.score is sys.modules['iqa_lib.score'] and score(1, 2) == 2"
    script = f"{light}\n{order}\n{checks}\nassert pickle.loads(pickle.dumps(score)) is score"
    done = subprocess.run(
        [sys.executable, "-c", f"{script} and 'torch' not in sys.modules"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
