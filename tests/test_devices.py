"""Precision `auto`: bf16 where it is native, on every kind of machine that can be pretended; what needs no torch."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from image_sets import image_set, one_thread_of_the_cpu  # noqa: F401
from test_runs import here  # noqa: F401
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from iqa_lib import baselines, devices
from iqa_lib.devices import (
    ahead,
    autocast,
    check_device,
    determinism,
    device_of,
    digits_of,
    exact_kernels,
    fast_kernels,
    resolved_precision,
    to_device,
)
from iqa_lib.evaluation import look, maps_of_crops, predict, predict_baseline
from iqa_lib.lab import runs
from iqa_lib.views import Crops, FixedFeatures

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch):
    """Pretend a CPU: its vector instructions, the flags it lists, and the instructions that oneDNN may use."""

    def pretend(capability: str = "AVX512", listed: bool = True, limit: str | None = None) -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(devices, "_cpu_lists_bf16", lambda: listed)
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        if limit is not None:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)

    return pretend


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "bf16"),
        ({"capability": "SVE256"}, "bf16"),
        ({"limit": "AVX512_CORE_BF16"}, "bf16"),
        ({"limit": "avx512_core_amx"}, "bf16"),
        ({"capability": "AVX2"}, "fp32"),
        ({"capability": "DEFAULT"}, "fp32"),
        ({"listed": False}, "fp32"),
        ({"limit": "AVX2"}, "fp32"),
        ({"limit": "avx512_core_vnni"}, "fp32"),
    ],
    ids=str,
)
def test_auto_on_a_cpu(machine, given, expected):
    machine(**given)
    assert resolved_precision("auto", CPU) == expected
    assert [resolved_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with autocast(CPU, "auto"):
        assert (nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16) == (expected == "bf16")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu(monkeypatch, native, expected):
    """Emulation does not count."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert resolved_precision("auto", CUDA) == expected


def test_auto_on_another_device_is_fp32(machine):
    machine()
    assert resolved_precision("auto", torch.device("mps")) == "fp32"


def test_an_unknown_precision_is_an_error():
    with pytest.raises(ValueError, match="precision: got 'fp16', expected one of 'auto', 'fp32', 'bf16'"):
        resolved_precision("fp16")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fma avx2 avx512f avx512_bf16", True),
        ("amx_bf16 amx_tile", True),
        ("asimd bf16 sve", True),
        ("avx2 f16c", False),
    ],
)
def test_the_flags_of_a_cpu(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert devices._cpu_lists_bf16(tmp_path / "cpuinfo") == expected
    assert not devices._cpu_lists_bf16(tmp_path / "none")


def test_a_processor_held_to_avx2_resolves_auto_to_fp32():
    code = "from iqa_lib.devices import resolved_precision as r; import torch; print(r('auto', torch.device('cpu')))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "ALL"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "fp32\n"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_record_says_which_precision_auto_was(here, monkeypatch, capsys, precision):  # noqa: F811
    monkeypatch.setattr(devices, "_has_native_bf16", lambda device: precision == "bf16")
    run = runs.start("03_prfnet", {"row": "auto", "precision": "auto"})
    assert f"precision = {precision!r}" in capsys.readouterr().out
    path = run.finish(metrics={}, predictions=pd.DataFrame({"prediction": []}), data={}, weights={})
    assert json.loads(path.read_text())["parameters"]["precision"] == precision


def test_moving_makes_floats_of_images_and_keeps_the_nesting():
    image, score = torch.tensor([0, 51, 255], dtype=torch.uint8), torch.tensor([3.0])
    moved = to_device([image, [score, [image]]], "cpu")
    assert torch.equal(moved[0], torch.tensor([0, 0.2, 1]))
    assert torch.equal(moved[1][0], score)
    assert moved[1][1][0].dtype == torch.float32
    model = nn.BatchNorm1d(3, affine=False)
    assert to_device(model, "cpu") is model
    assert device_of(model) == CPU


def test_on_a_gpu_images_and_convolutions_are_channels_last():
    class Moved(nn.Module):
        def to(self, *where, memory_format):
            return *where, memory_format

    with FakeTensorMode():
        image = to_device(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "cuda")
    assert image.dtype == torch.float32
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert to_device(Moved(), "cuda") == ("cuda", torch.channels_last)
    assert to_device(Moved(), "cpu") == ("cpu", torch.preserve_format)


def kernels() -> tuple[bool, ...]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark


def test_kernels_are_chosen_and_left_as_they_were(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    before = kernels()
    with fast_kernels():
        assert kernels() == (True, True, True)
        with exact_kernels():
            assert kernels() == (False, False, False)
        assert kernels() == (True, True, True)
    assert kernels() == before == (False, True, False)


class Noting(nn.Module):
    """A network on pairs that notes the kernels that it is computed with."""

    def __init__(self):
        super().__init__()
        self.seen, self.backbone, self.scale = [], nn.Identity(), nn.Parameter(torch.ones(()))
        self.backbone.frozen = True

    def extract(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.seen.append(kernels())
        return [images.mean((2, 3), keepdim=True)]

    def forward(self, reference, distorted, return_maps: bool = False):
        self.seen.append(kernels())
        score = self.scale * (reference - distorted).mean((1, 2, 3))
        return (score, {"difference": reference - distorted}) if return_maps else score


def test_scores_maps_and_features_are_computed_in_true_fp32(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    data, model = image_set(tmp_path, [(40, 36)], pairs=True), Noting()
    crops = Crops(data, "grid", 32)
    predict(model, crops)
    look(model, data, 0)
    maps_of_crops(model, 32, *data[0][:2])
    FixedFeatures(crops, model)
    metric = replace(baselines.load("mse"), compute=lambda *pair: model(*pair))
    predict_baseline(metric, data)
    metric.score(*(image[None] for image in data[0][:2]))
    assert len(model.seen) >= 6
    assert set(model.seen) == {(False, False, False)}


def test_what_is_kept_is_known_by_what_its_digits_hang_on(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert (digits_of(CPU), digits_of(CUDA)) == ("3 threads", "cuda")


def test_what_a_record_says_of_determinism():
    assert determinism(CPU).endswith(f"{torch.get_num_threads()} threads: the same digits")
    assert "move the last digits" in determinism(CUDA)


def test_a_device_that_is_not_here_is_an_error():
    check_device("cpu")
    with pytest.raises(ValueError, match=r"device: got 'cuda:99', expected one of this machine .*: use 'cpu'"):
        check_device("cuda:99")


def test_agreements_files_and_checks_need_no_torch():
    code = "import sys; import iqa_lib.metrics, iqa_lib.files, iqa_lib.checks; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "accelerate", "scipy.stats", "scipy.optimize", "matplotlib"} & set(loaded)


# Reading ahead


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_ahead_is_map_in_order(device):
    def slow_at_first(number: int) -> int:
        time.sleep(0.01 / (1 + number))
        return number**2

    assert list(ahead(slow_at_first, range(50), device)) == [number**2 for number in range(50)]
    assert list(ahead(slow_at_first, [], device)) == []


def test_beside_a_gpu_a_few_are_computed_before_their_turn_and_beside_a_cpu_none(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    begun = []
    first = ahead(begun.append, range(100), CUDA)
    next(first)
    first.close()
    assert 6 <= len(begun) <= 7
    begun.clear()
    next(ahead(begun.append, range(100), CPU))
    assert begun == [0]


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_an_error_ahead_comes_at_its_turn(device):
    results = ahead(lambda number: 6 / number, [2, 1, 0, 3], device)
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
