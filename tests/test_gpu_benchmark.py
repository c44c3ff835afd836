"""The GPU benchmark on a CPU with small networks: the layout of its file, its page, what it counts, when it ends."""

import importlib.util
import json
import re
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from image_sets import one_thread_of_the_cpu  # noqa: F401
from torch import nn
from torchvision.ops import deform_conv2d

from iqa_lib.models import PRFNet

FILE = Path(__file__).parents[1] / "benchmarks/gpu.py"
SPEED = {"train": {"fp32", "tf32", "bf16"}, "score": {"fp32", "bf16"}}


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measure(gpu):
    return partial(gpu.measure, metrics=(), least=0.01, side=64, pixels=192, workers=0)


def test_every_network_is_measured(gpu, measure, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "repo_root", lambda: tmp_path)
    found = measure(gpu.TINY, (gpu.Bench.most, gpu.Bench.fp32), metrics=("gmsd", "lpips-squeeze"), keep=gpu.save)
    assert set(found["networks"]) == set(gpu.TINY) <= set(gpu.PAPER)
    for name, row in found["networks"].items():
        kinds = {"score", "train"} if gpu.TINY[name].train else {"score"}
        assert kinds == {"score", "train"} & set(row)
        assert all(set(row[kind]) == set(row["memory"][kind]) == SPEED[kind] for kind in kinds)
        assert all(images > 0 for kind in kinds for images in row[kind].values())
        assert row["parity"] == 0
        assert 0 < row["drift"] < 0.5
        assert row["reading"] > 0
        assert row["mfu"] > 0
    for name, row in found["metrics"].items():
        assert row["parity"] == 0
        assert row["pairs"] > 0
        assert f"| {name} | {row['pairs']:.0f} | 0e+00 | - |" in gpu.table(found)
    printed = capsys.readouterr().out.splitlines()
    assert all(line.endswith(" s)") for line in printed)
    assert sum(line.startswith("FRNR: train") for line in printed) == 4
    assert json.loads((tmp_path / "benchmarks/gpu.json").read_text()) == found
    page = (tmp_path / "docs/gpu.md").read_text()
    assert all(f"## {part}\n" in page for part in ("Right", "Training", "Scoring", "Memory", "Metrics"))
    assert all(page.count(f"| {name} ") == 4 for name in gpu.TINY)
    assert found["date"] in page


def test_the_page_in_docs_is_of_what_was_measured(gpu):
    found = json.loads((FILE.parent / "gpu.json").read_text())
    assert (FILE.parents[1] / "docs/gpu.md").read_text() == gpu.table(found)


def test_on_a_cpu_it_only_prints(gpu, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "repo_root", lambda: tmp_path)
    monkeypatch.setattr(gpu, "TINY", {"LPIPSPlus": gpu.TINY["LPIPSPlus"]})
    assert not gpu.main(["--tiny"])
    assert "| LPIPSPlus " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["IQATMFM", "FRNR", "LPIPSPlus", "PRFNet"])
@torch.no_grad()
def test_a_network_that_is_a_little_different_is_found(gpu, name):
    prfnet = gpu.Case(partial(PRFNet, weights="random", width=8, hidden=8), 3, (2, 3, 32, 32))
    case, cpu = {**gpu.TINY, "PRFNet": prfnet}[name], torch.device("cpu")
    model = case.built()
    expected = gpu.outputs(case, model, cpu, "fp32")
    assert gpu.difference(gpu.outputs(case, case.built(), cpu, "fp32"), expected)[0] == 0
    kernels = [weight for weight in model.parameters() if weight.ndim == 4]
    for kernel in (kernels[1], kernels[len(kernels) // 4], kernels[len(kernels) // 2]):
        right = kernel.clone()
        kernel += 0.02 * kernel.std() * torch.randn_like(kernel)
        assert gpu.difference(gpu.outputs(case, model, cpu, "fp32"), expected)[0] > 1e-4
        kernel.copy_(right)


def test_an_output_that_is_no_number_is_found(gpu):
    expected = {"score": torch.ones(2), "map": torch.ones(2)}
    found, which = gpu.difference({"score": torch.zeros(2), "map": torch.tensor([1, torch.nan])}, expected)
    assert found != found
    assert which == "map"


@pytest.mark.parametrize("given", ["--minutes 0.75", "--minutes -3", "--minutes nan", "--workers -1"])
def test_impossible_limits_are_refused(gpu, capsys, given):
    with pytest.raises(SystemExit):
        gpu.main(given.split())
    option, value = given.split()
    assert re.search(rf"{option}: got {value}(\.0)?, expected", capsys.readouterr().err)


def test_without_a_gpu_nothing_is_measured_at_the_papers_sizes(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "there is no GPU here" in capsys.readouterr().err


def test_what_is_compiled_is_the_training_step_or_scoring(gpu, measure, monkeypatch):
    options = []
    monkeypatch.setattr(torch, "compile", lambda model, **given: options.append(given) or model)
    cases = {name: gpu.TINY[name] for name in ("FRNR", "LPIPSPlus")}
    found = measure(cases, (gpu.Bench.compiled, gpu.Bench.graphs))["networks"]
    assert set(found["FRNR"]["train"]) == set(found["LPIPSPlus"]["score"]) == {"bf16 compiled", "bf16 graphs"}
    assert "score" not in found["FRNR"]
    assert options == [{}, {}, {"mode": "reduce-overhead"}, {"mode": "reduce-overhead"}]


def test_what_fails_is_told_and_the_others_go_on(gpu, measure, monkeypatch):
    def first(bench, case, row):
        row["parity"] = 1.0
        yield "one"
        if case is gpu.TINY["FRNR"]:
            raise torch.OutOfMemoryError("no memory\nfor this")
        yield "two"

    def second(bench, case, row):
        row["drift"] = 1.0
        yield "three"

    found = measure(gpu.TINY, (first, second))
    assert found["networks"].pop("FRNR") == {
        "parity": 1.0,
        "error": "first: OutOfMemoryError: no memory",
        "drift": 1.0,
    }
    assert [*found["networks"].values()] == [{"parity": 1.0, "drift": 1.0}] * 2
    monkeypatch.setattr(gpu, "measure", lambda *_, **__: found | {"networks": {"FRNR": {"error": "no memory"}}})
    assert gpu.main(["--tiny"])
    monkeypatch.setattr(gpu, "measure", lambda *_, **__: found | {"metrics": {"gmsd": {"error": "no memory"}}})
    assert gpu.main(["--tiny"])


def test_it_ends_in_time_with_what_it_has(gpu, measure, capsys):
    def stage(bench, case, row):
        row["parity"] = 1.0
        yield "one"
        try:
            time.sleep(60)
        except Exception:  # as a library may
            row["drift"] = 1.0
        yield "two"

    kept, started = [], time.monotonic()
    found = measure(gpu.TINY, (stage,), seconds=2, keep=lambda found: kept.append(json.dumps(found["networks"])))
    assert time.monotonic() - started < 10
    assert found["networks"] == {"IQATMFM": {"parity": 1.0}, "FRNR": {}, "LPIPSPlus": {}}
    assert kept == [json.dumps(found["networks"])] * 2
    assert "the time is over" in capsys.readouterr().out
    assert "| FRNR | - | - | - | - |" in gpu.table(found)


def test_operations_are_two_for_each_multiply_add(gpu):
    layer, x = nn.Linear(8, 4, bias=False), torch.ones(3, 8, requires_grad=True)
    assert gpu.operations(lambda: layer(x)) == 2 * 3 * 8 * 4
    assert gpu.operations(lambda: layer(x).sum().backward()) == 3 * 2 * 3 * 8 * 4
    maps, offsets, weight = torch.rand(2, 4, 6, 5), torch.zeros(2, 18, 6, 5), torch.rand(7, 4, 3, 3, requires_grad=True)
    forward = 2 * (2 * 7 * 6 * 5) * (4 * 9)
    assert gpu.operations(lambda: deform_conv2d(maps, offsets, weight, padding=1)) == forward
    assert gpu.operations(lambda: deform_conv2d(maps, offsets, weight, padding=1).sum().backward()) == 3 * forward
