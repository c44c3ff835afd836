"""Weights: where they come from, and that they are never random unasked; checkpoints are loaded whole or not at all."""

import argparse
import hashlib
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from email.message import Message
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError, URLError

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from iqa_lib import weights
from iqa_lib.weights import (
    PACKAGED,
    URLS,
    Weights,
    WeightsError,
    cached_file,
    find_weights,
    load_complete,
    packaged_file,
    read_checkpoint,
    renamed,
)

RESNET = "resnet18.a1_in1k"
CODEC = "cheng2020-anchor-2"
on_hub = pytest.mark.parametrize("policy", ["auto", "hub"])
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


# --- Where weights come from


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Empty local caches and no network; `asked` lists the addresses that would have been asked."""
    state = SimpleNamespace(hugging_face=tmp_path / "hf", torch=tmp_path / "torch" / "checkpoints", asked=[])

    def urlopen(request, *, timeout):
        assert timeout <= 5
        state.asked.append(request.full_url)
        raise URLError("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(state.hugging_face))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(state.torch.parent))
    monkeypatch.setattr(weights, "urlopen", urlopen)
    return state


@pytest.fixture
def online(hub, monkeypatch):
    """The same with a network, on which every address answers."""
    monkeypatch.setattr(weights, "urlopen", lambda request, *, timeout: SimpleNamespace(close=lambda: None))
    return hub


@pytest.fixture
def release(hub, tmp_path, monkeypatch):
    """A file as if it had been released for CODEC, at an address of its own."""
    digest = hashlib.sha256(b"weights").hexdigest()
    path = tmp_path / "release" / f"codec-{digest[:8]}.pth.tar"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    monkeypatch.setitem(URLS, CODEC, path.as_uri())
    return SimpleNamespace(path=path, weights=Weights(CODEC, "hub", path.name, digest))


@on_hub
@pytest.mark.parametrize("network", [RESNET, *URLS])
def test_offline_without_weights_lists_the_options(hub, network, policy):
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        find_weights(network, policy)
    assert time.perf_counter() - start < 3
    url = URLS.get(network, constants.ENDPOINT)
    message = str(caught.value)
    assert f"weights of '{network}' not found: not in the local cache, and {url} failed (<urlopen error no" in message
    where = f"put the file of {url} into {hub.torch}" if network in URLS else "point HF_HOME to a cache"
    options = (f"(1) go online once, or {where}", "(2) give weights=<path>", "(3) give weights='random'")
    assert [option in message for option in options] == [True, True, True]
    assert (f"backbone='{PACKAGED}', weights='packaged'" in message) == (network not in URLS)
    assert hub.asked == [url]


def test_auto_falls_back_to_the_package_and_hub_does_not(hub):
    file, found = find_weights(PACKAGED)
    assert file == packaged_file()
    assert found == Weights(PACKAGED, "packaged", file.name, hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(hub.asked) == 1
    with pytest.raises(WeightsError, match="The options are"):
        find_weights(PACKAGED, "hub")


@pytest.mark.parametrize("network", [RESNET, CODEC, "dists"])
def test_few_networks_are_packaged(hub, network):
    with pytest.raises(WeightsError, match=f"'{network}' not found: the only packaged networks are '{PACKAGED}', 'st-"):
        find_weights(network, "packaged")
    assert not hub.asked


@pytest.mark.parametrize("network", [RESNET, CODEC, "dists"])
def test_random_weights_say_so_and_ask_nobody(hub, network):
    assert find_weights(network, "random") == (None, Weights(network, "random"))
    assert not hub.asked


@pytest.mark.parametrize("network", [RESNET, PACKAGED, CODEC, "dists"])
def test_no_file_is_an_error(hub, network, tmp_path):
    message = r"missing\.pth', which is not a file, expected auto, hub, packaged, random or a path"
    with pytest.raises(WeightsError, match=message):
        find_weights(network, tmp_path / "missing.pth")
    assert not hub.asked


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "path"])
@pytest.mark.parametrize("network", [RESNET, CODEC, "dists"])
def test_a_file_is_described_by_its_hash(tmp_path, network, kind):
    (tmp_path / "net.pth").write_bytes(b"x")
    found = find_weights(network, kind(tmp_path / "net.pth"))
    assert found == (tmp_path / "net.pth", Weights(network, "file", "net.pth", hashlib.sha256(b"x").hexdigest()))


@pytest.mark.parametrize("network", ["resnet18", "resnet18.a1_in2k", "cheng2020-anchor-7"])
def test_other_than_a_full_tag_is_an_error(network):
    with pytest.raises(
        ValueError, match=f"backbone: got '{network}', expected a full timm tag such as 'resnet50.a1_in"
    ):
        find_weights(network, "random")


def test_weights_as_dict_and_text():
    found = Weights("net.tag", "file", "net.safetensors", "0123456789abcdef" * 4)
    assert Weights(**found.as_dict()) == found
    assert str(found) == "net.tag, file (net.safetensors, sha256 0123456789ab)"
    assert str(Weights("net.tag", "random")) == "net.tag, random"


# --- The Hugging Face hub


@on_hub
@pytest.mark.parametrize("network", [RESNET, PACKAGED])
def test_the_local_cache_is_used_without_asking(hub, network, policy):
    repository = hub.hugging_face / f"models--{timm.get_pretrained_cfg(network).hf_hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    file, found = find_weights(network, policy)
    assert file.read_bytes() == b"x"
    assert found == Weights(network, "hub", "model.safetensors", hashlib.sha256(b"x").hexdigest())
    assert not hub.asked


def test_offline_by_choice_asks_nobody(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        find_weights(RESNET)
    assert not hub.asked


def test_a_hub_that_never_answers_costs_the_time_out_once(hub, monkeypatch):
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.hugging_face))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(weights, "_ONLINE_SECONDS", 0.2)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        timm.list_pretrained()
        start = time.perf_counter()
        with pytest.raises(WeightsError, match="timed out"):
            find_weights(RESNET)
        assert 0.2 <= time.perf_counter() - start < 2


@pytest.mark.parametrize("answer", [None, HTTPError("", 405, "Method Not Allowed", Message(), None)])
def test_what_the_hub_gives_is_used(online, tmp_path, monkeypatch, answer):
    def download(repository, file, *, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        assert (repository, file) == (f"timm/{RESNET}", "model.safetensors")
        return str(tmp_path / file)

    def urlopen(request, *, timeout):
        assert request.get_method() == "HEAD"
        if answer:
            raise answer
        return SimpleNamespace(close=lambda: None)

    (tmp_path / "model.safetensors").write_bytes(b"x")
    monkeypatch.setattr(weights, "urlopen", urlopen)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find_weights(RESNET)[0] == tmp_path / "model.safetensors"


def test_a_download_from_the_hub_that_breaks_lists_the_options(online, monkeypatch):
    def download(*_, local_files_only=False):
        raise LocalEntryNotFoundError("not in the cache") if local_files_only else ConnectionResetError("broken")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(WeightsError, match=r"(?s)failed \(broken\)\.\nThe options are"):
        find_weights(RESNET)


# --- torch.hub's cache


@on_hub
def test_torch_hubs_cache_is_used_without_asking(hub, release, policy):
    hub.torch.mkdir(parents=True)
    kept = release.path.rename(hub.torch / release.path.name)
    assert find_weights(CODEC, policy) == (kept, release.weights)
    assert not hub.asked


@on_hub
def test_a_damaged_file_in_torch_hubs_cache_is_an_error(hub, release, policy):
    hub.torch.mkdir(parents=True)
    (hub.torch / release.path.name).write_bytes(b"weight")
    message = rf"(?s){re.escape(release.path.name)} is damaged.*delete it\.\nThe options are"
    with pytest.raises(WeightsError, match=message):
        find_weights(CODEC, policy)


def test_weights_are_fetched_once(online, release):
    assert find_weights(CODEC) == (online.torch / release.path.name, release.weights)
    release.path.unlink()
    assert find_weights(CODEC)[1] == release.weights
    assert [path.name for path in online.torch.iterdir()] == [release.path.name]


def test_a_download_with_another_hash_is_not_kept(online, release):
    release.path.write_bytes(b"others")
    with pytest.raises(WeightsError, match=r"(?s)failed \(invalid hash value.*The options are"):
        find_weights(CODEC)
    assert list(online.torch.iterdir()) == []


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), IncompleteRead(b"")])
def test_a_download_that_breaks_lists_the_options(online, monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(WeightsError, match=r"(?s)failed \((reset|IncompleteRead).*The options are"):
        find_weights(CODEC)


def test_addresses_are_torchvisions_and_names_hold_hashes():
    for network, kind in {"lpips-alex": "AlexNet", "lpips-squeeze": "SqueezeNet1_1", "dists": "VGG16"}.items():
        assert URLS[network] == getattr(torchvision.models, f"{kind}_Weights").IMAGENET1K_V1.url
    assert URLS["lpips-vgg"] == URLS["dists-full"] == URLS["dists"]
    assert [network for network, url in URLS.items() if not re.search(r"-[0-9a-f]{8}\.pth", url)] == ["pieapp"]


@pytest.mark.parametrize(
    "variables", [{}, {"XDG_CACHE_HOME": "/x/cache"}, {"TORCH_HOME": "~/th", "XDG_CACHE_HOME": "/x"}]
)
def test_the_cache_is_found_without_torch(monkeypatch, variables):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = cached_file("dists")
    assert expected == Path(torch.hub.get_dir(), "checkpoints/vgg16-397923af.pth")
    monkeypatch.delitem(sys.modules, "torch")
    assert cached_file("dists") == expected


@pytest.mark.parametrize(
    ("code", "barred"),
    [
        ("from iqa_lib.baselines import BASELINES, REPORTED, available; [*map(available, BASELINES)]", "torch numpy"),
        ("from iqa_lib import baselines; baselines.table()", "torch"),
    ],
)
def test_nothing_is_imported_before_it_computes(code, barred):
    loaded = f"import sys; {code}; print([name for name in {barred.split()} if name in sys.modules])"
    command = [sys.executable, "-c", loaded]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "[]"


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
    with pytest.raises(WeightsError, match=r"none\.pt: there is no such file: check the path"):
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


def test_names_are_replaced_pattern_by_pattern():
    state = {"a.x": torch.zeros(1), "b.x": torch.ones(1)}
    assert renamed(state, [(r"^a\.", "c."), (r"\.x$", ".y")]) == {"c.y": state["a.x"], "b.y": state["b.x"]}
    assert list(state) == ["a.x", "b.x"]


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
        ({"first.bias": None}, (), r"it lacks first\.bias: give a file"),
        ({"norm.running_var": None, "last.bias": None}, (), r"it lacks norm\.running_var; it lacks last\.bias: give"),
        ({"last.bias": None}, ("first.", "norm."), r"it lacks last\.bias: give"),
        ({"last.bias": None}, ("bias",), r"it lacks last\.bias: give"),
        ({"extra.x": torch.zeros(1)}, (), r"it has extra\.x, which this network does not have: give"),
        ({"first.x": torch.zeros(1)}, ("first.",), r"it has first\.x, which this network does not have: give"),
        ({"last.bias": torch.zeros(2, 3)}, (), r"it has last\.bias \(2, 3\), expected \(1,\): give"),
        ({"last.weight": torch.zeros(1, 3)}, (), r"it has last\.weight \(1, 3\), expected \(1, 2\): give"),
        ({"last.bias": torch.zeros(2, 3)}, ("last.",), r"it has last\.bias \(2, 3\), expected \(1,\): give"),
        (
            {"first.bias": None, "x": torch.zeros(1), "last.weight": torch.zeros(2)},
            (),
            r"it lacks first\.bias; it has x, which .*; it has last\.weight \(2,\), expected \(1, 2\): give",
        ),
        (
            {"first.bias": None, "last.bias": None, "x": torch.zeros(1), "y": torch.zeros(1), "z": torch.zeros(1)},
            (),
            r"it lacks first\.bias; it lacks last\.bias; it has x, which this network does not have and 2 more: give",
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
