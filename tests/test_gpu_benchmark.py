"""The GPU benchmark on a CPU with small networks: the layout of its file, its table, what it counts."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
from image_sets import one_thread_of_the_cpu  # noqa: F401
from torch import nn
from torchvision.ops import deform_conv2d

FILE = Path(__file__).parents[1] / "benchmarks/gpu.py"
SPEED = {"fp32", "tf32", "bf16"}


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_network_is_measured(gpu, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "repo_root", lambda: tmp_path)
    found = gpu.main(["--tiny"])
    table = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert set(found["networks"]) == set(gpu.TINY) <= set(gpu.PAPER)
    for name, row in found["networks"].items():
        kinds = {"score", "train"} if gpu.TINY[name].train else {"score"}
        assert kinds == {"score", "train"} & set(row)
        assert all(set(row[kind]) == set(row["memory"][kind]) == SPEED for kind in kinds)
        assert all(images > 0 for kind in kinds for images in row[kind].values())
        assert row["parity"] == 0
        assert 0 < row["drift"] < 0.5
        assert row["reading"] > 0
        assert row["mfu"] > 0
        assert f"| {name} " in table
    for folder in ("benchmarks", "docs"):
        (tmp_path / folder).mkdir()
    gpu.save(found)
    assert json.loads((tmp_path / "benchmarks/gpu.json").read_text()) == found
    assert "CPU to GPU" in (tmp_path / "docs/gpu.md").read_text()


def test_without_a_gpu_nothing_is_measured_at_the_papers_sizes(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "there is no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize(("left", "kept"), [(1000, True), (10, False)])
def test_what_is_compiled_fits_the_time_and_loses_nothing(gpu, capsys, monkeypatch, left, kept):
    case = gpu.TINY["FRNR"]
    monkeypatch.setattr(gpu, "compiled", lambda case, *_: ("train", 7.0) if case.train else [][0])
    found = {"networks": {"FRNR": {"train": {"bf16": 5.0}}, "LPIPSPlus": {"score": {"bf16": 3.0}}}}
    cases = {"FRNR": case, "LPIPSPlus": gpu.TINY["LPIPSPlus"]}
    gpu.add_compiled(found, cases, least=0.01, until=time.monotonic() + left)
    assert found["networks"]["FRNR"]["train"] == {"bf16": 5.0} | ({"bf16 compiled": 7.0} if kept else {})
    assert found["networks"]["LPIPSPlus"] == {"score": {"bf16": 3.0}}
    assert "LPIPSPlus: not compiled" in capsys.readouterr().out


def test_operations_are_two_for_each_multiply_add(gpu):
    layer, x = nn.Linear(8, 4, bias=False), torch.ones(3, 8, requires_grad=True)
    assert gpu.operations(lambda: layer(x)) == 2 * 3 * 8 * 4
    assert gpu.operations(lambda: layer(x).sum().backward()) == 3 * 2 * 3 * 8 * 4
    maps, offsets, weight = torch.rand(2, 4, 6, 5), torch.zeros(2, 18, 6, 5), torch.rand(7, 4, 3, 3, requires_grad=True)
    forward = 2 * (2 * 7 * 6 * 5) * (4 * 9)
    assert gpu.operations(lambda: deform_conv2d(maps, offsets, weight, padding=1)) == forward
    assert gpu.operations(lambda: deform_conv2d(maps, offsets, weight, padding=1).sum().backward()) == 3 * forward
