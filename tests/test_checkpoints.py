"""Checkpoints: what is read from a file and what is refused, and that nothing is ever loaded in part."""

import argparse
import os
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

from iqa_lib.weights import WeightsError, load_complete, read_checkpoint

DAMAGED = r"file\.pt (cannot be read|is damaged)"


def small(seed: int = 0) -> nn.Sequential:
    """Weights and buffers, none of them as a fresh layer has it."""
    torch.manual_seed(seed)
    model = nn.Sequential(OrderedDict(first=nn.Linear(3, 2), norm=nn.BatchNorm1d(2), last=nn.Linear(2, 1)))
    for tensor in model.norm.state_dict().values():
        tensor.copy_(7 * torch.rand(tensor.shape) + 1)
    return model


def same(some, other) -> bool:
    return list(some) == list(other) and all(torch.equal(some[key], other[key]) for key in some)


@pytest.fixture
def state():
    return small().state_dict()


@pytest.fixture
def save(tmp_path):
    def write(content, name="file.pt", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write


# --- Reading


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "path"])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_lies_under_the_key_is_read(save, state, kind, zipped):
    content = {"epoch": 3, "lr": 0.1, "name": "net", "state_dict": state, "other": {"x": torch.zeros(1)}}
    file = save(content, _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(kind(file), "state_dict"), state)
    assert same(read_checkpoint(kind(file), "other"), {"x": torch.zeros(1)})


def test_a_bare_state_dict_is_read(save, state):
    assert same(read_checkpoint(save(state), "state_dict"), state)


@pytest.mark.parametrize("bare", [True, False])
def test_the_prefix_of_parallel_training_is_dropped(save, bare):
    names = ["module.first.weight", "first.module.bias", "module.module.x", "modules.y"]
    state = {name: torch.tensor([float(i)]) for i, name in enumerate(names)}
    read = read_checkpoint(save(state if bare else {"model": state}), "model")
    assert list(read) == ["first.weight", "first.module.bias", "module.x", "modules.y"]
    assert [tensor.item() for tensor in read.values()] == [0, 1, 2, 3]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pt: there is no such file: give the path of the authors'"):
        read_checkpoint(tmp_path / "none.pt", "state_dict")


def test_a_folder_cannot_be_read(tmp_path):
    with pytest.raises(WeightsError, match=rf"{tmp_path} cannot be read \(.*[Ii]s a directory"):
        read_checkpoint(tmp_path, "state_dict")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_file_cut_short_cannot_be_read(save, state, zipped, share):
    file = save({"state_dict": state}, _use_new_zipfile_serialization=zipped)
    os.truncate(file, int(share * file.stat().st_size))
    with pytest.raises(WeightsError, match=DAMAGED):
        read_checkpoint(file, "state_dict")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"


@pytest.mark.parametrize("content", [b"hello", b"<!DOCTYPE html>\n<html>404</html>", LFS, b"{}", bytes(300)])
def test_what_is_no_checkpoint_at_all_cannot_be_read(tmp_path, content):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=DAMAGED):
        read_checkpoint(tmp_path / "file.pt", "state_dict")


class Trap:
    """Makes a folder when a pickle of it is read without care."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_does_not_run(save, state, tmp_path, zipped):
    file = save({"state_dict": state, "trap": Trap(tmp_path / "trapped")}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="could run code when read"):
        read_checkpoint(file, "state_dict")
    assert not (tmp_path / "trapped").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "trapped").exists()  # so it was a trap


@pytest.mark.parametrize(
    "extra", [argparse.Namespace(lr=0.1), nn.Linear(1, 1), os.path.join], ids=["namespace", "module", "function"]
)
def test_objects_beside_tensors_are_refused_with_a_way_out(save, state, extra):
    file = save({"params": state, "extra": extra})
    with pytest.raises(WeightsError, match=r"file\.pt .*could run code when read") as caught:
        read_checkpoint(file, "params")
    way_out = "torch.save(torch.load(path, weights_only=False)['params'], new_path)"
    assert way_out in str(caught.value)
    eval(way_out, {"torch": torch, "path": file, "new_path": file.with_name("new.pt")})
    assert same(read_checkpoint(file.with_name("new.pt"), "params"), state)


def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / "file.pt").write_bytes(pickle.dumps({"state_dict": argparse.Namespace()}, protocol=2))
    with pytest.raises(WeightsError, match=r"file\.pt "):
        read_checkpoint(tmp_path / "file.pt", "state_dict")


@pytest.mark.parametrize(("content", "kind"), [(torch.zeros(2), "Tensor"), ([1, 2], "list"), (None, "NoneType")])
def test_other_than_a_dict_is_refused(save, content, kind):
    with pytest.raises(WeightsError, match=rf"file\.pt holds a {kind}, expected a dict with 'params', or a state dict"):
        read_checkpoint(save(content), "params")


@pytest.mark.parametrize("content", [torch.zeros(2), None, {0: torch.zeros(2)}], ids=["tensor", "none", "numbered"])
def test_other_than_a_state_dict_under_the_key_is_refused(save, content):
    with pytest.raises(WeightsError, match=r"file\.pt holds "):
        read_checkpoint(save({"params": content}), "params")


@pytest.mark.parametrize("content", [{"epoch": 3, "model": {"last.bias": torch.zeros(1)}}, {"params": {}}, {}])
def test_a_file_without_the_weights_cannot_be_loaded(save, content):
    file = save(content)
    with pytest.raises(WeightsError, match=r"file\.pt "):
        load_complete(small(), read_checkpoint(file, "params"), file)


# --- Loading


def test_a_whole_state_is_loaded(state):
    model = small(seed=1)
    assert not same(model.state_dict(), state)
    load_complete(model, state, "file.pt")
    assert same(model.state_dict(), state)


def test_the_order_of_a_state_does_not_matter(state):
    model = small(seed=1)
    load_complete(model, dict(reversed(state.items())), "file.pt")
    assert same(model.state_dict(), state)


@pytest.mark.parametrize("absent", [("first.", "norm."), ["first.", "norm."]], ids=["tuple", "list"])
def test_what_may_be_absent_stays_as_it_was(state, absent):
    model = small(seed=1)
    own = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    rest = {key: tensor for key, tensor in state.items() if key.startswith("last.")}
    load_complete(model, rest, "file.pt", absent=absent)
    assert same(model.state_dict(), own | rest)


def test_what_may_be_absent_is_loaded_where_it_is_there(state):
    model = small(seed=1)
    own = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    some = {key: tensor for key, tensor in state.items() if key != "first.bias"}
    load_complete(model, some, "file.pt", absent=("first.",))
    assert same(model.state_dict(), own | some)


@pytest.mark.parametrize(
    ("change", "absent", "message"),
    [
        ({"first.bias": None}, (), r"it lacks first\.bias: give the file"),
        ({"norm.running_var": None, "last.bias": None}, (), r"it lacks norm\.running_var; it lacks last\.bias: give"),
        ({"last.bias": None}, ("first.", "norm."), r"it lacks last\.bias: give"),
        ({"last.bias": None}, ("bias",), r"it lacks last\.bias: give"),
        ({"extra.x": torch.zeros(1)}, (), r"it has extra\.x, which this network has not: give"),
        ({"first.x": torch.zeros(1)}, ("first.",), r"it has first\.x, which this network has not: give"),
        ({"last.bias": torch.zeros(2, 3)}, (), r"it has last\.bias \(2, 3\), expected \(1,\): give"),
        ({"last.weight": torch.zeros(1, 3)}, (), r"it has last\.weight \(1, 3\), expected \(1, 2\): give"),
        ({"last.bias": torch.zeros(2, 3)}, ("last.",), r"it has last\.bias \(2, 3\), expected \(1,\): give"),
        (
            {"first.bias": None, "x": torch.zeros(1), "last.weight": torch.zeros(2)},
            (),
            r"it lacks first\.bias; it has x, which this network has not; it has last\.weight \(2,\), expected \(1, 2\)",
        ),
        (
            {"first.bias": None, "last.bias": None, "x": torch.zeros(1), "y": torch.zeros(1), "z": torch.zeros(1)},
            (),
            r"it lacks first\.bias; it lacks last\.bias; it has x, which this network has not and 2 more: give",
        ),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(state, change, absent, message):
    model = small(seed=1)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = {key: tensor for key, tensor in (state | change).items() if tensor is not None}
    with pytest.raises(WeightsError, match=r"weights/file\.pt does not fit Sequential: " + message) as caught:
        load_complete(model, state, "weights/file.pt", absent=absent)
    assert "the constructor's options that it was trained with" in str(caught.value)
    assert same(model.state_dict(), before)


def test_an_empty_file_fits_nothing():
    with pytest.raises(WeightsError, match=r"lacks .*and 6 more"):
        load_complete(small(), {}, "file.pt")


def test_a_file_is_read_and_loaded(save, state):
    file = save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}})
    model = small(seed=1)
    load_complete(model, read_checkpoint(file, "state_dict"), file)
    assert same(model.state_dict(), state)
