"""Files of our own: damaged ones are noticed, whatever the damage, and made anew or refused by name."""

import ast
import errno
import fcntl
import json
import math
import os
import random
import subprocess
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from image_sets import one_thread_of_the_cpu  # noqa: F401
from torch import nn

from iqa_lib.data.base import IQADataset, Label, Pair
from iqa_lib.files import (
    DamagedError,
    cache_dir,
    file_key,
    intact,
    load_tensors,
    locked,
    read_json,
    read_table,
    save_tensors,
    write_json,
)
from iqa_lib.lab import records, runs, tables
from iqa_lib.lab.trained import load_run
from iqa_lib.metrics import Estimate
from iqa_lib.models import FRNR
from iqa_lib.training import Task, fit
from iqa_lib.weights import Weights, WeightsError

CONTENT = {"name": "ü", "values": [0.1, 1e-300, math.inf], "nested": {"a": None, "b": True}}
TENSORS = {
    "a.weight": torch.arange(5000, dtype=torch.float32),
    "b": torch.tensor(True),
    "c": torch.arange(7, dtype=torch.bfloat16).view(7, 1),
    "d": torch.zeros(0, 3),
}
OPENERS = {"open", "read_text", "write_text"}
KINDS = {"json": (write_json, read_json, CONTENT), "safetensors": (save_tensors, load_tensors, TENSORS)}


def same(one: dict, other: dict) -> bool:
    """Equal names, and equal values with their types."""
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype
        if isinstance(one[key], torch.Tensor)
        else one[key] == other[key]
        for key in one
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_and_no_flipped_bit_or_cut_goes_unnoticed(tmp_path, kind):
    write, read, content = KINDS[kind]
    path, rng = tmp_path / "file", random.Random(0)
    write(path, content)
    assert same(read(path), content)
    whole = path.read_bytes()
    damages = [whole[:cut] for cut in (0, 1, 8, 100, len(whole) - 1)] + [whole + b"\0"]
    for place in (*range(min(600, len(whole))), *rng.choices(range(len(whole)), k=200)):
        damages.append(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
    noticed = 0
    for damaged in damages:
        path.write_bytes(damaged)
        with suppress(DamagedError):
            noticed += 1
            assert same(read(path), content), "a damage that matters was not noticed"
            noticed -= 1
    assert noticed > 0.9 * len(damages), "few bits do not matter: spaces, padding"
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match=f"^{path} is damaged"):
        read(path)
    path.write_bytes(whole.replace(b"checksum", b"checksun"))
    with pytest.raises(DamagedError, match=r"no checksum|or missing"):
        read(path)


def test_swapped_tensors_are_noticed(tmp_path):
    path = tmp_path / "file"
    save_tensors(path, {"a": torch.zeros(4096), "b": torch.ones(4096)})
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"x"').replace(b'"b"', b'"a"').replace(b'"x"', b'"b"'))
    with pytest.raises(DamagedError, match="its checksum is another"):
        load_tensors(path)


def test_a_damaged_file_that_can_be_made_again_says_so_in_a_line(tmp_path, capsys):
    path = tmp_path / "scores.json"
    assert intact(path, read_json, {}) == {}
    assert not capsys.readouterr().out
    write_json(path, {"a": 1.5})
    assert intact(path, read_json, {}) == {"a": 1.5}
    path.write_text("{")
    assert intact(path, read_json, {}) == {}
    assert capsys.readouterr().out.splitlines() == [
        f"{path} is damaged (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)): "
        "it is made anew"
    ]


def test_texts_are_utf8_whatever_the_locale():
    """What opens a text says so; pandas does by itself."""
    for file in sorted((runs.repo_root() / "iqa_lib").rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in OPENERS:
                binary = any(isinstance(given, ast.Constant) and "b" in str(given.value) for given in call.args)
                other = binary or ast.unparse(call.func).startswith(("Image.", "os.", "member.", "tarfile."))
                said = "encoding" in {keyword.arg for keyword in call.keywords}
                assert said or other, f"{file}:{call.lineno}: {ast.unparse(call)} names no encoding"


def test_a_tables_numbers_are_those_that_were_written(tmp_path):
    numbers = [7 / 3, 10 / 3, *(random.Random(0).random() for _ in range(100))]
    pd.DataFrame({"number": numbers}).to_csv(tmp_path / "table.csv", index=False)
    assert read_table(tmp_path / "table.csv").number.tolist() == numbers


@pytest.mark.parametrize(("version", "asked"), [("3.0.6", {"float_precision": "round_trip"}), ("3.1.1", {})])
def test_a_pandas_that_rounds_is_asked_for_every_digit(monkeypatch, version, asked):
    given = {}
    monkeypatch.setattr(pd, "__version__", version)
    monkeypatch.setattr(pd, "read_csv", lambda file, **options: given.update(options))
    read_table("table.csv")
    assert given == asked


def test_a_files_key_is_that_of_the_file_that_is_opened(tmp_path, monkeypatch):
    one, other = tmp_path / "one/inner", tmp_path / "other"
    for folder in (one, one.parent, other):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x.png").write_bytes(b"same size")
        os.utime(folder / "x.png", ns=(1, 1))
    link = other / "link"
    link.symlink_to(one)
    keys = {file_key(folder / "x.png") for folder in (one, one.parent, other)}
    assert len(keys) == 3
    assert file_key(link / "x.png") == file_key(one / "x.png")
    assert file_key(link / "../x.png") == file_key(one.parent / "x.png"), "as the system follows it"
    monkeypatch.chdir(one)
    assert file_key(Path("x.png")) == file_key(one / "x.png")
    link.unlink()
    link.symlink_to(one.parent)
    assert file_key(link / "x.png") == file_key(one.parent / "x.png")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert file_key(other / "x.png") in keys


# --- Folders that cannot be used


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path, monkeypatch):
    """A file stands in the folder's place: root may write everywhere else."""
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("IQA_LIB_CACHE", raising=False)
    todo = "set IQA_LIB_CACHE to a folder that you may write, on a file system with locks"
    with pytest.raises(OSError, match=rf"{cache_dir()}/x.json cannot be written \(Not a directory\): {todo}"):
        write_json(cache_dir() / "x.json", {})
    with pytest.raises(OSError, match=rf"cannot be locked \(Not a directory\): {todo}"), locked(cache_dir() / ".lock"):
        pass
    with pytest.raises(OSError, match=r"x.json cannot be written \(File exists\): work in a folder"):
        write_json(tmp_path / "home/x.json", {})


def test_without_a_home_the_error_names_the_variable(monkeypatch):
    monkeypatch.delenv("IQA_LIB_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(OSError, match="set IQA_LIB_CACHE to a folder"):
        cache_dir()


def test_a_file_system_without_locks_is_named_with_what_to_do(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    wanted = r"x/.lock cannot be locked \(No locks available\): set IQA_LIB_CACHE .* on a file system with locks"
    with pytest.raises(OSError, match=wanted), locked(tmp_path / "x" / ".lock"):
        pass


# --- A run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A repository of its own for outputs."""
    for name in ("notebooks", "params"):
        (tmp_path / name).symlink_to(runs.repo_root() / name)
    for module in (records, runs, tables):
        monkeypatch.setattr(module, "repo_root", lambda: tmp_path)
    return tmp_path


def network(seed: int = 0) -> FRNR:
    torch.manual_seed(seed)
    return FRNR(branches=("nr",), backbone="tf_mobilenetv3_small_minimal_100.in1k", hidden=(8,))


def finish(here, seed: int = 0):
    """A finished run of the row `mine` whose network is drawn from `seed`; its folder."""
    image = here / "x.png"
    image.touch()
    data = {"test": IQADataset("demo", "test", [Pair(image, image, 1.0, "r", 1.0)], Label("MOS", 1, 5, True))}
    run = runs.start("05_fr_nr", {"row": "mine"})
    table = pd.DataFrame({"reference_id": ["r"], "target": [1.0], "prediction": [float(seed)], "side": ["test"]})
    metrics = {"srocc FRNR": Estimate(0.5, 0.4, 0.6, 9, 3)}
    weights = Weights("net", "packaged", "file", "0123")
    return run.finish(network(seed), metrics=metrics, predictions=table, data=data, weights=weights).parent


def flip(path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("place", [200, -1, -100_001])
def test_weights_of_a_run_with_a_flipped_bit_are_refused_by_name(here, place):
    folder = finish(here)
    assert same(load_run(folder)[0].state_dict(), network().state_dict())
    flip(folder / records.WEIGHTS, place)
    with pytest.raises(WeightsError, match=r"model.safetensors is damaged, or not of the run .*run the row again"):
        load_run(folder)


def test_weights_of_another_run_beside_a_record_are_refused(here):
    other = (finish(here, seed=1) / records.WEIGHTS).read_bytes()
    folder = finish(here)
    (folder / records.WEIGHTS).write_bytes(other)
    with pytest.raises(WeightsError, match="not of the run that its record is about"):
        load_run(folder)


@pytest.mark.parametrize("written", ["model.safetensors", "predictions.csv", "run.json"])
def test_a_kill_while_a_run_is_written_leaves_no_old_record_beside_new_files(here, monkeypatch, written):
    folder, replace = finish(here), os.replace

    def killed(source, target):
        if os.path.basename(target) == written:
            replace(source, target)
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(here, seed=1)
    if written == "run.json":
        assert same(load_run(folder)[0].state_dict(), network(1).state_dict())
    else:
        with pytest.raises(ValueError, match=r"holds no run.json"):
            load_run(folder)


def test_a_record_that_was_edited_or_lacks_keys_is_refused(here):
    file = finish(here) / records.RECORD
    text = file.read_text()
    file.write_text(text.replace('"value": 0.5', '"value": 0.9'))
    with pytest.raises(DamagedError, match=r"run.json is damaged, or was edited .*delete its run.json and run the row"):
        records.read(file.parent)
    older = {key: value for key, value in json.loads(text).items() if key not in ("checksum", "files")}
    file.write_text(json.dumps(older))
    assert records.read(file.parent)["metrics"]["srocc FRNR"]["value"] == 0.5
    with pytest.raises(WeightsError, match=r"has no hash in its record, which older code wrote: delete its run.json"):
        load_run(file.parent)
    file.write_text(json.dumps({key: older[key] for key in older if key not in ("data", "device")}))
    with pytest.raises(DamagedError, match=r"run.json lacks data, device: delete"):
        records.read(file.parent)
    file.write_text(json.dumps(older | {"metrics": [], "files": "x"}))
    with pytest.raises(DamagedError, match=r"run.json is damaged \(metrics, files of another kind\)"):
        records.read(file.parent)
    for damaged in (text[:300], "[" * 100_000):
        file.write_text(damaged)
        with pytest.raises(DamagedError, match=r"run.json is damaged \("):
            records.read(file.parent)


def test_a_damaged_run_costs_its_own_row_which_says_why(here):
    damages = {
        "table2_fpn": lambda folder: (folder / "run.json").write_text("{"),
        "table2_bifpn": lambda folder: (folder / "predictions.csv").unlink(),
        "table2_prfblock": lambda folder: None,
    }
    image = here / "x.png"
    image.touch()
    data = {"test": IQADataset("clic", "validation", [Pair(image, image, 1.0, "r", 1.0)], Label("votes", 0, 1, True))}
    for row, damage in damages.items():
        for seed in (0, 1):
            run = runs.start("03_prfnet", {"row": row, "seed": seed, "scale": "paper"})
            metrics = {"accuracy PRFNet": Estimate(0.75, 0.7, 0.8, 9, 3)}
            table = pd.DataFrame({"reference_id": ["r"], "target": [1.0], "prediction": [0.7], "side": ["test"]})
            run.finish(metrics=metrics, predictions=table, data=data, weights=Weights("net", "random"))
        damage(run.folder)
    text = tables.write("prfnet_table2", "paper").read_text().partition("## Differences")[0]
    lines = {line.split(" | ")[0]: line for line in text.splitlines()}
    where = "outputs/paper/03_prfnet/table2"
    assert (
        f"0.750 [0.700, 0.800] | 9 (3) | PRFNet in 03_prfnet/table2_fpn, seed 0; not used: {where}_fpn"
        in lines["| FPN"]
    )
    assert "seed1/run.json is damaged (Expecting" in lines["| FPN"]
    assert "seed1/predictions.csv is missing" in lines["| BiFPN"]
    assert "seeds 0, 1 |" in lines["| PRFBlock"]


# --- The commit


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A function that makes a git repository with one commit, and the environment of a user without settings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_text(folder.name)
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        for command in (["init", "-q"], ["add", "file"], [*who, "commit", "-qm", folder.name]):
            subprocess.run(["git", "-C", folder, *command], check=True)
        head = ["git", "-C", folder, "rev-parse", "HEAD"]
        return subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()

    return make


def test_the_commit_is_that_of_this_checkout_and_of_no_other(tmp_path, monkeypatch, checkout):
    ours, inside, other = tmp_path / "ours", tmp_path / "ours" / "unpacked", tmp_path / "other"
    head = checkout(ours)
    checkout(other)
    monkeypatch.setattr(runs, "repo_root", lambda: ours)
    assert runs._commit() == {"commit": head, "dirty": False}
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(ours))
    assert runs._commit() == {"commit": head, "dirty": False}
    (ours / "outputs.txt").write_text("a number does not depend on it")
    assert runs._commit() == {"commit": head, "dirty": False}
    (ours / "iqa_lib").mkdir()
    (ours / "iqa_lib" / "new.py").touch()
    assert runs._commit() == {"commit": head, "dirty": True}
    inside.mkdir()
    monkeypatch.setattr(runs, "repo_root", lambda: inside)
    unknown = {"commit": f"unknown: no checkout of its own, but inside that of {ours}", "dirty": None}
    assert runs._commit() == unknown
    assert records.commit(unknown) == unknown["commit"]
    monkeypatch.setattr(runs, "repo_root", lambda: tmp_path / "nowhere")
    assert runs._commit()["commit"].startswith("unknown: fatal: cannot change to ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_checkout_of_another_owner_is_recorded_as_unknown_with_the_reason(tmp_path, monkeypatch, checkout):
    checkout(tmp_path / "ours")
    monkeypatch.setattr(runs, "repo_root", lambda: tmp_path / "ours")
    for path in (tmp_path / "ours", tmp_path / "ours" / ".git"):
        os.chown(path, 12345, 12345)
    found = runs._commit()
    assert found["commit"].startswith("unknown: fatal: detected dubious ownership in repository")
    assert found["dirty"] is None


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runs._commit()["commit"].startswith("unknown: [Errno 2] No such file")


# --- A training step


class Line(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, key):
        return torch.full((1,), float(key[1])), torch.tensor(float(key[1]))


def train(folder, seed: int = 0, stop: int = 99, select: bool = False):
    """Train a line, interrupted at step `stop`."""
    torch.manual_seed(seed)
    model, calls = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0)), []

    def loss(output, target):
        calls.append(0)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return (output - target).square().mean()

    select = Task(Line(), loss) if select else None
    options = dict(epochs=3, batch_size=2, lr=1e-3, optimizer="adam", save_every=4, select=select)
    return fit(model, [Task(Line(), loss)], folder=folder, **options), model


@pytest.mark.parametrize("name", ["model.safetensors", "history.csv", "fit.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_finished_step_that_is_damaged_is_trained_anew(tmp_path, capsys, name, damage):
    _, whole = train(tmp_path)
    file = tmp_path / name
    if damage == "flip":
        flip(file, file.stat().st_size // 2)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif name != "fit.json":
        file.unlink()
    again, model = train(tmp_path)
    assert again.loaded == (damage == "remove" and name == "fit.json")
    assert same(model.state_dict(), whole.state_dict())
    assert again.loaded or f"{name} is damaged" in capsys.readouterr().out
    assert train(tmp_path)[0].loaded


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.safetensors"])
def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path, capsys, name):
    _, whole = train(tmp_path / "whole", select=True)
    rng, size = random.Random(0), None
    for number in range(12):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            train(folder, stop=11, select=True)
        file = folder / name
        size = file.stat().st_size
        if number == 0:
            file.write_bytes(file.read_bytes()[: size // 2])
        else:
            flip(file, rng.randrange(size))
        result, model = train(folder, select=True)
        assert same(model.state_dict(), whole.state_dict())
        assert len(result.history) == 12
        assert number or f"{name} is damaged" in capsys.readouterr().out


LABEL = Label("DMOS", 1, 5, True)


class Pixels(Line):
    """A view of a data set's files."""

    def __init__(self, dataset: IQADataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()


def test_a_step_on_other_pixels_is_another_step(here):
    """Names, labels and sizes are the same: only the pixels differ, as in two copies of a data set."""

    def step(folder) -> bool:
        data = IQADataset("kadid10k", "train", [Pair(folder / "i.png", folder / "d.png", 1.0, "r", 1.0)] * 4, LABEL)
        view = Pixels(data)
        run = runs.start("05_fr_nr", {"row": "mine"})
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
        return run.fit("step 1", model, [Task(view, nn.functional.mse_loss)], epochs=1, batch_size=2, lr=0.1).loaded

    for tree in ("a", "b"):
        (here / tree).mkdir()
        for name in ("i.png", "d.png"):
            (here / tree / name).write_bytes(tree.encode() * 9)
    assert [step(here / tree) for tree in ("a", "b", "a", "b")] == [False, False, True, True]
    (here / "a" / "d.png").write_bytes(b"c" * 9)
    assert [step(here / tree) for tree in ("a", "b")] == [False, True]


def test_a_files_key_is_one_by_all_its_names_and_another_once_it_changes(tmp_path, monkeypatch):
    file, other = tmp_path / "set" / "image.png", tmp_path / "set" / "other.png"
    file.parent.mkdir()
    file.write_bytes(b"pixels")
    os.link(file, other)
    (tmp_path / "linked").symlink_to(tmp_path / "set")
    (tmp_path / "link.png").symlink_to(file)
    monkeypatch.chdir(file.parent)
    names = [file, tmp_path / "linked/image.png", tmp_path / "link.png", Path("image.png"), Path("../set/image.png")]
    (key,) = {file_key(name) for name in names}
    assert file_key(other) != key
    os.utime(file, ns=(0, 0))
    assert file_key(file) != key
