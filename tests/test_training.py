"""Training: killed at any moment it ends with the same bits, also where it keeps the best epoch; optimizers, schedules,
tasks, precision, processes."""

import json
import math
import multiprocessing
import os
import random
import signal
import time
from functools import partial
from itertools import chain, count
from threading import RLock

import pandas as pd
import pytest
import torch
from accelerate import debug_launcher
from image_sets import image_set, one_thread_of_the_cpu  # noqa: F401
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from tqdm import tqdm

from iqa_lib import training
from iqa_lib.losses import preference_bce, preference_mse
from iqa_lib.training import (
    Task,
    first_batch,
    fit,
    gradient_norms,
    load_weights,
    lower,
    peak_memory,
    save_weights,
    schedule_factor,
)
from iqa_lib.views import Crops, FixedFeatures

RESULTS = {"model.safetensors", "history.csv", "fit.json"}

children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["pytest", "torch._dynamo", "iqa_lib.training", "iqa_lib.views"])
"""All that a child needs: an optimizer imports torch._dynamo, which is slow."""


class Small(nn.Module):
    """A triplet model with all that makes it hard to go on: BatchNorm's statistics and dropout."""

    def __init__(self, seed: int = 0, norm: bool = True, dropout: float = 0.3):
        super().__init__()
        torch.manual_seed(seed)
        middle = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), middle, nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(8, 1)

    def forward(self, reference: Tensor, a: Tensor, b: Tensor) -> Tensor:
        reference, a, b = (self.body(image).mean((2, 3)) for image in (reference, a, b))
        return self.head((reference - a).abs() - (reference - b).abs()).squeeze(1)


class Records(Dataset):
    """Fixed records, whatever the epoch; notes which were asked for."""

    def __init__(self, *columns: Tensor):
        self.columns, self.asked = TensorDataset(*columns), []

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        self.asked.append(key)
        return self.columns[key[1]]


def triplets(number: int = 12, seed: int = 0) -> Records:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, number, 3, 12, 12, generator=generator)
    return Records(*images, torch.rand(number, generator=generator))


def train(folder, model=None, data=None, *, loss=preference_bce, **options):
    """Train a small model in the usual way; gives it and what `fit` said."""
    model = Small() if model is None else model
    options = dict(epochs=4, batch_size=4, lr=0.1, save_every=3, name="small") | options
    return model, fit(model, [Task(triplets() if data is None else data, loss)], folder=folder, **options)


def interrupted(folder, at: int, *arguments, **options) -> None:
    """Train until the loss of step `at`, counted from 0, is asked for, and be interrupted there."""
    calls = count()

    def loss(output, target):
        if next(calls) == at:
            raise KeyboardInterrupt
        return preference_bce(output, target)

    with pytest.raises(KeyboardInterrupt):
        train(folder, *arguments, loss=loss, **options)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def outcome(folder) -> tuple[bytes, bytes]:
    return (folder / "model.safetensors").read_bytes(), (folder / "history.csv").read_bytes()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(some: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return some.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in some.items())


def assert_close(some: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    for name, tensor in some.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance, msg=lambda text, name=name: name + text)


# --- Killed and started again


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Random, mirrored crops of images on disk."""
    return Crops(image_set(tmp_path_factory.mktemp("images"), [(40, 36)] * 12), "random", 24, flip="horizontal")


def train_on_crops(folder, crops: Crops, began=None, **options):
    """The training that gets killed, in this process or another."""
    os.environ["ACCELERATE_USE_CPU"] = "1"
    torch.set_num_threads(1)
    tqdm.set_lock(RLock())  # its own is a semaphore, which a killed process leaves behind
    if began:
        began.send(True)
    return train(folder, data=crops, **dict(epochs=12, schedule="cosine", seed=3, save_every=2) | options)


def train_for(seconds: float, folder, crops: Crops) -> tuple[int, float]:
    """Train in another process and kill it after so many seconds; its exit code, and how long it took."""
    began, theirs = children.Pipe(duplex=False)
    process = children.Process(target=train_on_crops, args=(folder, crops, theirs))
    process.start()
    assert began.poll(60)
    since = time.monotonic()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode, time.monotonic() - since


def test_ten_kills_at_random_moments_leave_no_trace(tmp_path, crops):
    code, duration = train_for(60, tmp_path / "whole", crops)
    assert code == 0
    moments, kills, went_on = random.Random(0), 0, 0
    for attempt in range(30):
        folder = tmp_path / str(attempt)
        code, seconds = train_for(moments.uniform(0.05, 0.95) * duration, folder, crops)
        if (folder / "fit.json").exists():  # too late: the machine has become faster
            duration = seconds
            continue
        assert code == -signal.SIGKILL
        kills, went_on = kills + 1, went_on + (folder / "checkpoint.pt").exists()
        since = time.monotonic()
        train_on_crops(folder, crops)
        assert outcome(folder) == outcome(tmp_path / "whole")
        duration = max(duration, time.monotonic() - since)  # or slower
        if kills == 10:
            break
    assert kills == 10
    assert went_on >= 3


WRITES = ("checkpoint.pt", "checkpoint.pt", "model.safetensors", "history.csv", "fit.json")  # of 6 steps


def die_writing(write: int, half: bool, folder, crops: Crops, options: dict) -> None:
    """Train, and be killed at the given write: with half of it on disk, or right after it took its name."""
    replace, calls = os.replace, count()

    def dying(temporary, path):
        if next(calls) == write:
            if half:
                os.truncate(temporary, os.path.getsize(temporary) // 2)
            else:
                replace(temporary, path)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(temporary, path)

    os.replace = dying
    train_on_crops(folder, crops, **options)


def killed_writing(write: int, half: bool, folder, crops: Crops, **options) -> set[str]:
    """Train in another process that dies at the given write; what lies there then under its own name."""
    process = children.Process(target=die_writing, args=(write, half, folder, crops, options))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return {name for name in names(folder) if name[0] != "."}


@pytest.mark.parametrize("half", [True, False], ids=["half written", "just written"])
def test_a_kill_at_any_write_leaves_no_trace(tmp_path, crops, half):
    train_on_crops(tmp_path / "whole", crops, max_steps=6)
    for write in range(len(WRITES)):
        folder = tmp_path / str(write)
        left = killed_writing(write, half, folder, crops, max_steps=6)
        assert left == set(WRITES[: write if half else write + 1])
        model, result = train_on_crops(folder, crops, max_steps=6)
        assert result.loaded == (write == 4 and not half)
        assert outcome(folder) == outcome(tmp_path / "whole")
        assert same(model.state_dict(), load_file(tmp_path / "whole" / "model.safetensors"))
        if write < 3:
            assert names(folder) == RESULTS


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    saves, save = count(), torch.save

    def failing(state, path):
        if next(saves) == 1:
            path.write_bytes(b"half")
            raise OSError("no space left")
        save(state, path)

    whole, _ = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", failing)
        with pytest.raises(OSError, match="no space left"):
            train(tmp_path / "failed")
    assert names(tmp_path / "failed") == {"checkpoint.pt"}
    assert len(torch.load(tmp_path / "failed" / "checkpoint.pt", weights_only=True)["history"]) == 3
    assert same(train(tmp_path / "failed", Small(seed=9))[0].state_dict(), whole.state_dict())
    assert names(tmp_path / "failed") == RESULTS


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "schedule": "constant"},
        {"optimizer": "adam", "schedule_epochs": 1},
        {"optimizer": "adamw", "schedule": "cosine"},
        {"accumulate": 2},
        {"workers": 2},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_goes_on_exactly_with_a_model_made_anew(tmp_path, options):
    whole, result = train(tmp_path / "whole", **options)
    interrupted(tmp_path / "parts", 7, **options)
    assert names(tmp_path / "parts") == {"checkpoint.pt"}
    interrupted(tmp_path / "parts", 4, Small(seed=7), **options)
    model, resumed = train(tmp_path / "parts", Small(seed=9), **options)
    assert same(model.state_dict(), whole.state_dict())
    pd.testing.assert_frame_equal(resumed.history, result.history, check_exact=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_finished_training_is_loaded(tmp_path):
    model, result = train(tmp_path)
    assert names(tmp_path) == RESULTS
    data = triplets()
    again, loaded = train(tmp_path, Small(seed=9), data)
    assert (result.loaded, loaded.loaded) == (False, True)
    assert not data.asked
    assert not model.training
    assert not again.training
    assert same(again.state_dict(), model.state_dict())
    pd.testing.assert_frame_equal(loaded.history, result.history, check_exact=True)
    assert loaded.seconds == pytest.approx(result.seconds, abs=0.06)
    assert json.loads((tmp_path / "fit.json").read_text())["steps"] == 12


# --- The best epoch


class Walk(nn.Module):
    """Its one weight grows by the learning rate a step, if the loss is `away`; notes the modes it is called in."""

    def __init__(self):
        super().__init__()
        self.weight, self.modes = nn.Parameter(torch.zeros(1)), []

    def forward(self, image: Tensor) -> Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.weight.expand(len(image))


def away(output: Tensor, target: Tensor) -> Tensor:
    return -output.mean()


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.mean() - target.mean()).square()


def walk(folder, goal: float, loss=squared, **options):
    """Four epochs of three steps from 0, by 0.1 a step; the best epoch ends nearest to the goal."""
    model, data, held_out = Walk(), Records(torch.rand(12, 1), torch.zeros(12)), Records(torch.rand(5, 1), goals(goal))
    options = dict(epochs=4, batch_size=4, lr=0.1, momentum=0, weight_decay=0, schedule="constant") | options
    result = fit(model, [Task(data, away)], folder=folder, select=Task(held_out, loss), **options)
    return model, held_out, result


def goals(mean: float) -> Tensor:
    return mean + torch.tensor([0.0, -0.25, 0.25, -0.5, 0.5])


@pytest.mark.parametrize(("goal", "kept"), [(-1, 0.3), (0.5, 0.6), (0.65, 0.6), (0.85, 0.9), (9, 1.2)])
def test_the_weights_of_the_best_epoch_are_kept(tmp_path, goal, kept):
    model, _, result = walk(tmp_path, goal)
    assert model.weight.item() == pytest.approx(kept)
    assert not model.training
    assert load_file(tmp_path / "model.safetensors")["weight"].item() == pytest.approx(kept)
    expected = [(weight - goal) ** 2 for weight in (0.3, 0.6, 0.9, 1.2)]
    assert result.history.columns.tolist() == ["step", "epoch", "lr", "loss", "selection"]
    assert result.history.selection.dropna().tolist() == pytest.approx(expected, rel=1e-5)
    assert result.history.step[result.history.selection.notna()].tolist() == [3, 6, 9, 12]
    assert names(tmp_path) == RESULTS


@pytest.mark.parametrize(
    ("losses", "kept"),
    [((2, 5, 3, 4), 0.3), ((5, 2, 4, 3), 0.6), ((4, 5, 3, 1), 1.2), ((3, 2, 2, 2), 0.6), ((0, 0, 0, 0), 0.3)],
    ids=str,
)
def test_whatever_their_course_the_first_of_the_best_epochs_is_kept(tmp_path, losses, kept):
    model, _, result = walk(
        tmp_path, 0, loss=lambda output, target: torch.tensor(float(losses[round(output[0].item() / 0.3) - 1]))
    )
    assert model.weight.item() == pytest.approx(kept)
    assert result.history.selection.dropna().tolist() == list(losses)


def either_lower(values: list[float], kept: list[float]) -> bool:
    return any(value < before for value, before in zip(values, kept, strict=True))


def both_lower(values: list[float], kept: list[float]) -> bool:
    return all(value < before for value, before in zip(values, kept, strict=True))


@pytest.mark.parametrize(
    ("improves", "kept"),
    [(lower, 0.6), (both_lower, 0.9), (either_lower, 1.2)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_improves_compares_an_epochs_numbers_with_those_kept_before(tmp_path, improves, kept):
    losses = (2, 4), (1, 5), (1, 3), (2, 2)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return torch.tensor(losses[round(output[0].item() / 0.3) - 1], dtype=torch.float32)

    model, _, result = walk(tmp_path, 0, loss=loss, improves=improves)
    assert model.weight.item() == pytest.approx(kept)
    numbers = result.history[["selection", "selection_2"]].dropna().itertuples(index=False)
    assert [tuple(row) for row in numbers] == list(losses)


@pytest.mark.parametrize("at", [4, 7, 10])
def test_a_training_that_selects_by_two_numbers_goes_on_exactly(tmp_path, at):
    def both(output: Tensor, target: Tensor) -> Tensor:
        return torch.stack([preference_bce(output, target), -output.std()])

    options = dict(save_every=2, select=Task(held_out(), both), improves=either_lower)
    whole, result = train(tmp_path / "whole", **options)
    interrupted(tmp_path / "parts", at, **options)
    model, resumed = train(tmp_path / "parts", anew(tmp_path / "parts"), **options)
    assert same(model.state_dict(), whole.state_dict())
    pd.testing.assert_frame_equal(resumed.history, result.history, check_exact=True)


@pytest.mark.parametrize(("max_steps", "kept"), [(5, 0.5), (2, 0.2), (6, 0.6), (7, 0.6)])
def test_the_last_step_is_judged_too_where_it_ends_no_epoch(tmp_path, max_steps, kept):
    model, _, result = walk(tmp_path, 0.62 if max_steps == 7 else 9, max_steps=max_steps)
    assert model.weight.item() == pytest.approx(kept)
    judged = result.history.step[result.history.selection.notna()].tolist()
    assert judged == [step for step in range(1, max_steps + 1) if step % 3 == 0 or step == max_steps]


def test_selection_is_one_loss_over_all_records_in_eval_mode(tmp_path):
    seen = []

    def loss(output, target):
        seen.append((output.shape, target.tolist()))
        return squared(output, target)

    model, held_out, _ = walk(tmp_path, 1, loss=loss)
    assert seen == [((5,), goals(1).tolist())] * 4
    assert held_out.asked == [(0, index) for index in range(5)] * 4
    assert model.modes == ([(True, True)] * 3 + [(False, False)] * 2) * 4


def held_out() -> Records:
    return triplets(9, seed=5)


def off(output: Tensor, target: Tensor, centre: float) -> Tensor:
    return (preference_bce(output, target) - centre).abs()


def choosing(epoch: int, folder, trainer, data: Dataset, **options) -> Task:
    """A task whose loss will be lowest after the given epoch: each has a loss of its own, and this one's is taken."""
    history = trainer(folder, select=Task(data, preference_bce), **options)[1].history
    losses = history.selection.dropna().tolist()
    assert len({round(loss, 5) for loss in losses}) == len(losses) > epoch
    return Task(data, partial(off, centre=losses[epoch - 1]))


def test_selection_leaves_the_training_as_it_was(tmp_path):
    """Dropout's draws, BatchNorm's statistics and the optimizer know nothing of it."""
    options = dict(schedule="constant", seed=2)
    _, plain = train(tmp_path / "plain", **options)
    chosen = choosing(2, tmp_path / "first", train, held_out(), **options)
    model, result = train(tmp_path / "chosen", select=chosen, **options)
    pd.testing.assert_frame_equal(result.history.drop(columns="selection"), plain.history, check_exact=True)
    assert result.history.selection.dropna().argmin() == 1
    until_then, _ = train(tmp_path / "until then", max_steps=6, **options)
    assert same(model.state_dict(), until_then.state_dict())


def anew(folder) -> Small:
    """A model for a training that goes on: what it is at first matters only where nothing was saved."""
    return Small(seed=9 if (folder / "checkpoint.pt").exists() else 0)


@pytest.mark.parametrize("save_every", [2, 3, 7])
def test_a_selecting_training_goes_on_exactly(tmp_path, save_every):
    options = dict(save_every=save_every, select=choosing(3, tmp_path / "first", train, held_out()))
    whole, result = train(tmp_path / "whole", **options)
    assert result.history.selection.dropna().argmin() == 2
    for at in (3, 6, 7, 10):
        folder = tmp_path / str(at)
        interrupted(folder, at, **options)
        assert names(folder) == {"best.safetensors"} | ({"checkpoint.pt"} if at >= save_every else set())
        model, resumed = train(folder, anew(folder), **options)
        assert same(model.state_dict(), whole.state_dict())
        pd.testing.assert_frame_equal(resumed.history, result.history, check_exact=True)
        assert outcome(folder) == outcome(tmp_path / "whole")
        assert names(folder) == RESULTS


@pytest.mark.parametrize("options", [{"optimizer": "adamw"}, {"precision": "bf16"}], ids=str)
def test_a_selecting_training_goes_on_exactly_under_all_options(tmp_path, options):
    options = options | {"select": choosing(2, tmp_path / "first", train, held_out(), **options)}
    whole, _ = train(tmp_path / "whole", **options)
    interrupted(tmp_path / "parts", 8, **options)
    model, _ = train(tmp_path / "parts", Small(seed=9), **options)
    assert same(model.state_dict(), whole.state_dict())
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_workers_change_nothing_of_a_selection(tmp_path):
    for workers in (0, 1):
        train(tmp_path / str(workers), epochs=2, workers=workers, select=Task(held_out(), preference_bce))
    assert outcome(tmp_path / "0") == outcome(tmp_path / "1")


def test_an_interrupted_selection_leaves_no_trace(tmp_path):
    chosen = choosing(2, tmp_path / "first", train, held_out())
    train(tmp_path / "whole", select=chosen)
    for selection in range(4):
        calls, folder = count(), tmp_path / str(selection)

        def dying(output, target, calls=calls, selection=selection):
            if next(calls) == selection:
                raise KeyboardInterrupt
            return chosen.loss(output, target)

        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            train(folder, select=Task(held_out(), dying))
        train(folder, anew(folder), select=chosen)
        assert outcome(folder) == outcome(tmp_path / "whole")
        assert names(folder) == RESULTS


SELECTING = ("best.safetensors", "checkpoint.pt", "best.safetensors", "checkpoint.pt", *WRITES[2:])  # of three epochs


def test_a_kill_at_any_write_of_a_selecting_training_leaves_no_trace(tmp_path, crops):
    options = dict(max_steps=9, save_every=3)
    views = Crops(crops.dataset, "corners", 24)
    options["select"] = choosing(2, tmp_path / "first", partial(train_on_crops, crops=crops), views, **options)
    train_on_crops(tmp_path / "whole", crops, **options)
    for write, half in ((0, True), (0, False), (1, False), (2, True), (2, False), (3, False), (4, False), (6, False)):
        folder = tmp_path / f"{write} {half}"
        left = killed_writing(write, half, folder, crops, **options)
        assert left == set(SELECTING[: write if half else write + 1])
        model, result = train_on_crops(folder, crops, **options)
        assert result.loaded == (write == 6)
        assert outcome(folder) == outcome(tmp_path / "whole")
        assert same(model.state_dict(), load_file(tmp_path / "whole" / "model.safetensors"))
        assert names(folder) == RESULTS


def test_a_finished_selection_is_loaded(tmp_path):
    data = held_out()
    select = Task(data, choosing(2, tmp_path / "first", train, data).loss)
    model, result = train(tmp_path / "run", select=select)
    data.asked.clear()
    again, loaded = train(tmp_path / "run", Small(seed=9), select=select)
    assert loaded.loaded
    assert not data.asked
    assert same(again.state_dict(), model.state_dict())
    pd.testing.assert_frame_equal(loaded.history, result.history, check_exact=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_selection_that_is_not_finite_stops(tmp_path, bad):
    with pytest.raises(FloatingPointError, match=f"training: the selection is {bad} at step 2"):
        walk(tmp_path, 1, loss=lambda output, target: output.sum() * bad)


# --- Seeds, steps, schedules


def test_a_seed_gives_the_same_bits_and_another_gives_others(tmp_path):
    (first, _), (second, _), (third, _) = (train(tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2)))
    assert outcome(tmp_path / "0") == outcome(tmp_path / "1") != outcome(tmp_path / "2")
    assert same(first.state_dict(), second.state_dict())
    assert not same(first.state_dict(), third.state_dict())


def test_the_seed_decides_the_order(tmp_path):
    first, second, third = triplets(), triplets(), triplets()
    for number, (data, seed) in enumerate(((first, 1), (second, 1), (third, 2))):
        train(tmp_path / str(number), data=data, seed=seed)
    assert first.asked == second.asked != third.asked


def test_what_was_drawn_before_does_not_matter(tmp_path):
    first, second = Small(), Small()
    train(tmp_path / "first", first)
    torch.rand(5)
    train(tmp_path / "second", second, workers=2)
    assert same(first.state_dict(), second.state_dict())


def test_history_and_epochs(tmp_path):
    data = triplets(13)
    _, result = train(tmp_path, data=data, epochs=3)
    history = result.history
    assert history.columns.tolist() == ["step", "epoch", "lr", "loss"]
    assert history.step.tolist() == list(range(1, 10))
    assert history.epoch.tolist() == pytest.approx([step / 3 for step in range(1, 10)])
    assert [epoch for epoch, _ in data.asked] == [0] * 12 + [1] * 12 + [2] * 12
    orders = [[index for epoch, index in data.asked if epoch == number] for number in range(3)]
    assert all(len(set(order)) == 12 for order in orders)
    assert len(set(map(tuple, orders))) == 3
    assert set(chain(*orders)) == set(range(13))


def test_training_learns(tmp_path):
    label = torch.arange(32) % 2
    images = torch.rand(3, 32, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images[1:] += torch.stack([label, 1 - label])[..., None, None, None]  # the farther one is brighter
    _, result = train(tmp_path, Small(norm=False), Records(*images, label.float()), epochs=10)
    assert result.history.loss[0] > 0.5
    assert result.history.loss[-4:].mean() < 0.05


def test_max_steps_stops_there(tmp_path):
    model, result = train(tmp_path / "five", max_steps=5, schedule="constant")
    assert len(result.history) == 5
    interrupted(tmp_path / "more", 6, save_every=5, schedule="constant")
    assert same(model.state_dict(), torch.load(tmp_path / "more" / "checkpoint.pt", weights_only=True)["model"])
    assert len(train(tmp_path / "all", max_steps=100)[1].history) == 12


def test_schedules_by_hand(tmp_path):
    step = [schedule_factor("step", step, 10**6, 10 * 7) for step in (0, 69, 70, 139, 140, 210)]
    assert step == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])
    cosine = [schedule_factor("cosine", step, 120, 1) for step in (0, 30, 40, 60, 80, 120)]
    assert cosine == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.75, 0.5, 0.25, 0])
    assert {schedule_factor("constant", step, 10, 1) for step in range(10)} == {1}
    one_cycle = [schedule_factor("one_cycle", step, 110, 1) for step in (0, 5, 10, 11, 11 + 33, 11 + 66, 109)]
    assert one_cycle == pytest.approx([1 / 12, 6 / 12, 11 / 12, 1, 0.75, 0.25, 0], abs=1e-3)
    assert [schedule_factor("one_cycle", 0, total, 1) for total in (1, 2)] == [0.5, 0.5]


@pytest.mark.parametrize("epochs", [1, 3, 4])
def test_a_cosine_by_epoch_is_torchs(epochs):
    """To zero after so many epochs of 7 steps, and back again; the same within an epoch."""
    updater = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(updater, epochs)
    expected = []
    for _ in range(3 * epochs):
        expected += 7 * theirs.get_last_lr()
        updater.step()
        theirs.step()
    factors = [schedule_factor("cosine_epoch", step, 99, 7 * epochs, 7) for step in range(len(expected))]
    assert factors == pytest.approx(expected, abs=1e-9)
    assert factors[7 * epochs] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [0.1] * 12),
        ({"schedule": "step", "schedule_epochs": 2}, [0.1] * 6 + [0.01] * 6),
        ({"schedule": "cosine"}, [0.05 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]),
        ({"schedule": "cosine_epoch", "schedule_epochs": 2}, [0.1] * 3 + [0.05] * 3 + [0.0] * 3 + [0.05] * 3),
        (
            {"schedule": "cosine_step", "schedule_epochs": 4},
            [0.05 * (1 + math.cos(math.pi * step / 4)) for step in range(12)],
        ),
        ({"schedule": "cosine", "lr_end": 0.02}, [0.06 + 0.04 * math.cos(math.pi * step / 12) for step in range(12)]),
        (
            {"schedule": "cosine_epoch", "schedule_epochs": 2, "lr_end": 0.02},
            [0.1] * 3 + [0.06] * 3 + [0.02] * 3 + [0.06] * 3,
        ),
        ({"schedule": "step", "schedule_epochs": 2, "lr_end": 0.02}, [0.1] * 6 + [0.01] * 6),
        (
            {"schedule": "one_cycle", "lr_end": 0.02},
            [0.06, *(0.06 + 0.04 * math.cos(math.pi * step / 11) for step in range(11))],
        ),
        ({"schedule": "cosine", "max_steps": 4}, [0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.05 * (1 - math.sqrt(0.5))]),
    ],
    ids=str,
)
def test_the_rate_follows_the_schedule(tmp_path, options, expected):
    assert train(tmp_path, **options)[1].history.lr.tolist() == pytest.approx(expected)


def test_the_rate_of_the_schedule_is_the_one_that_is_used(tmp_path):
    """Without a gradient there is only weight decay, which takes the rate's share of a weight in each step."""
    options = dict(loss=lambda output, target: 0 * output.sum(), momentum=0, weight_decay=1, schedule_epochs=2)
    model, result = train(tmp_path, **options)
    shrunk = (1 - 0.1) ** 6 * (1 - 0.01) ** 6
    expected = {name: shrunk * parameter.data for name, parameter in Small().named_parameters()}
    assert_close(expected, model.state_dict(), 1e-6)
    assert result.history.loss.tolist() == [0] * 12


# --- One step by hand, tasks, parts of a batch


def test_losses_of_tasks_are_summed(tmp_path):
    votes, shares = triplets(4, seed=1), triplets(4, seed=2)
    expected, model = Small(dropout=0), Small(dropout=0)
    *images, target = votes.columns[:]
    loss = preference_bce(expected(*images), target)
    *images, target = shares.columns[:]
    loss = loss + preference_mse(expected(*images), target)
    loss.backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= 0.1 * (parameter.grad + 0.01 * parameter)
    tasks = [Task(votes, preference_bce), Task(shares, preference_mse)]
    result = fit(model, tasks, folder=tmp_path, epochs=1, batch_size=4, lr=0.1, weight_decay=0.01)
    assert_close(model.state_dict(), expected.state_dict(), 1e-6)
    assert result.history.loss.tolist() == pytest.approx([loss.item()], abs=1e-6)


def test_a_step_by_hand_is_the_first_of_fit(tmp_path):
    """With what a notebook shows: the batch, the loss, the norms; and `fit` starts without these gradients."""
    model, data = Small(norm=False, dropout=0).eval(), triplets(9)
    *inputs, target = first_batch(data, 4, seed=5, model=model)
    assert data.asked == [(0, index) for index in data_order(9, seed=5)[:4]]
    loss = preference_bce(model(*inputs), target)
    loss.backward()
    norms, before = gradient_norms(model), weights(model)
    assert norms.index.tolist() == ["body", "head"]
    for part, norm in norms.items():
        squares = sum(p.grad.double().square().sum() for p in getattr(model, part).parameters())
        assert norm == pytest.approx(squares.sqrt().item(), rel=1e-6)
    _, result = train(tmp_path, model, data, max_steps=1, seed=5, momentum=0, weight_decay=0)
    assert result.history.loss.tolist() == pytest.approx([loss.item()], abs=1e-7)
    moved = {
        part: sum((model.state_dict()[n] - t).square().sum() for n, t in before.items() if part in n)
        for part in norms.index
    }
    assert {part: (square.sqrt() / 0.1).item() for part, square in moved.items()} == pytest.approx(
        dict(norms), rel=1e-4
    )


def data_order(records: int, seed: int) -> list[int]:
    return torch.randperm(records, generator=torch.Generator().manual_seed(seed * 1_000_003)).tolist()


def test_parts_without_a_gradient_have_norm_zero_and_images_become_floats(tmp_path):
    model = prfnet()
    *images, target = first_batch(Crops(image_set(tmp_path, [(40, 36)] * 4), "random", 32), 4)
    assert {(image.dtype, image.shape, image.max().item() <= 1) for image in images} == {
        (torch.float32, (4, 3, 32, 32), True)
    }
    preference_bce(model(*images), target).backward()
    norms = gradient_norms(model)
    assert norms["backbone"] == 0
    assert (norms.drop("backbone") > 0).all()


def test_an_epoch_is_the_first_tasks_and_the_others_go_round(tmp_path):
    first, second = triplets(12), triplets(9)
    tasks = [Task(first, preference_bce), Task(second, preference_mse)]
    fit(Small(), tasks, folder=tmp_path, epochs=4, batch_size=4, lr=0.1)
    assert len(first.asked) == len(second.asked) == 48
    assert [epoch for epoch, _ in second.asked] == [epoch for epoch in range(6) for _ in range(8)]
    for epoch in range(6):
        assert len({index for number, index in second.asked if number == epoch}) == 8


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_come_to_the_whole(tmp_path, accumulate):
    whole, result = train(tmp_path / "whole", Small(norm=False, dropout=0))
    data = triplets()
    parts, in_parts = train(tmp_path / "parts", Small(norm=False, dropout=0), data, accumulate=accumulate)
    assert_close(parts.state_dict(), whole.state_dict(), 1e-6)
    assert in_parts.history.loss.tolist() == pytest.approx(result.history.loss.tolist(), abs=1e-6)
    assert len(data.asked) == 48


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8}),
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
    ],
)
def test_optimizers_are_torchs_own(tmp_path, name, kind, options):
    data = triplets(4)
    *images, target = data.columns[:]
    expected, model = (Small(norm=False, dropout=0) for _ in range(2))
    updater = kind(expected.parameters(), lr=0.01, weight_decay=0.05, **options)
    for _ in range(3):
        updater.zero_grad()
        preference_bce(expected(*images), target).backward()
        updater.step()
    settings = dict(optimizer=name, epochs=3, lr=0.01, weight_decay=0.05, schedule="constant")
    train(tmp_path, model, data, **settings, **options)
    assert_close(model.state_dict(), expected.state_dict(), 1e-5)


def test_bf16_runs_and_stays_close(tmp_path):
    (exact, _), (rough, result) = (train(tmp_path / p, Small(dropout=0), precision=p) for p in ("fp32", "bf16"))
    assert not same(rough.state_dict(), exact.state_dict())
    assert_close(rough.state_dict(), exact.state_dict(), 0.02)
    assert {parameter.dtype for parameter in rough.parameters()} == {torch.float32}
    assert result.history.loss.notna().all()


def test_a_compiled_model_comes_to_the_same_weights(tmp_path, monkeypatch):
    """By torch's tracer and no compiler, which takes a minute; the whole forward pass is one graph."""
    compiled = []
    traced = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or traced(model))
    expected, _ = train(tmp_path / "plain", Small(dropout=0), max_steps=4, accumulate=2)
    model, _ = train(tmp_path / "compiled", Small(dropout=0), max_steps=4, accumulate=2, compile=True)
    assert compiled == [model]
    assert_close(model.state_dict(), expected.state_dict(), 1e-6)


def test_training_has_fast_kernels_and_leaves_them_as_they_were(tmp_path):
    def settings() -> tuple[bool, ...]:
        backends = torch.backends
        return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark

    before, seen = settings(), []
    train(tmp_path / "a", loss=lambda *given: seen.append(settings()) or preference_bce(*given), max_steps=1)
    assert seen == [(True, True, True)]
    assert settings() == before != seen[0]
    with pytest.raises(ValueError, match="epochs"):
        train(tmp_path / "b", epochs=0)
    assert settings() == before


# --- Frozen backbones


def prfnet(frozen: bool = True) -> nn.Module:
    from iqa_lib.models import PRFNet  # slow to import, in each process that this module starts

    torch.manual_seed(0)
    options = dict(se=False, weights="packaged", freeze_backbone=frozen, width=8, hidden=8, dropout=0.3)
    return PRFNet(backbone="tf_efficientnet_lite0.in1k", **options)


def backbone(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights(model).items() if name.startswith("backbone.")}


def test_a_frozen_backbone_stays_as_it_was_and_costs_the_optimizer_nothing(tmp_path):
    data = Crops(image_set(tmp_path, [(40, 36)] * 8), "random", 32)
    before, options = prfnet(), dict(max_steps=4, save_every=2)
    model, _ = train(tmp_path / "whole", prfnet(), data, **options)
    assert same(backbone(model), backbone(before))
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert changed == {name for name in before.state_dict() if not name.startswith("backbone.")}
    interrupted(tmp_path / "parts", 3, prfnet(), data, **options)
    optimizer = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["optimizer"]
    shapes = [parameter.shape for parameter in model.parameters() if parameter.requires_grad]
    assert [entry["momentum_buffer"].shape for entry in optimizer["state"].values()] == shapes
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == len(shapes)
    assert same(train(tmp_path / "parts", prfnet(), data, **options)[0].state_dict(), model.state_dict())


def test_a_thawed_backbone_learns(tmp_path):
    data = Crops(image_set(tmp_path, [(40, 36)] * 4), "random", 32)
    model, _ = train(tmp_path / "fit", prfnet(frozen=False), data, max_steps=1)
    before, after = backbone(prfnet()), backbone(model)
    assert not any(torch.equal(after[name], tensor) for name, tensor in before.items() if name.endswith("running_mean"))


def test_kept_features_train_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    crops = Crops(image_set(tmp_path, [(40, 36)] * 8), "corners", 32)
    options = dict(max_steps=4, lr=0.01)
    from_images, _ = train(tmp_path / "images", prfnet(), crops, **options)
    features = FixedFeatures(crops, prfnet())
    monkeypatch.setattr(type(prfnet()), "extract", None)
    from_features, result = train(tmp_path / "features", prfnet(), features, **options)
    assert_close(from_features.state_dict(), from_images.state_dict(), 1e-5)
    assert not result.loaded


# --- Several processes


def train_two_tasks(folder, processes: int = 1, select: Task | None = None):
    torch.set_num_threads(1)
    votes, shares = triplets(seed=1), triplets(seed=2)
    options = dict(epochs=4, batch_size=4, lr=0.1, accumulate=2)
    tasks = [Task(votes, preference_bce), Task(shares, preference_mse)]
    result = fit(Small(norm=False, dropout=0), tasks, folder=folder, select=select, **options)
    assert len(votes.asked) == len(shares.asked) == 48 // processes
    return None, result


def train_slowly(*arguments) -> None:
    """The second process is late in reading weights."""
    if torch.distributed.get_rank() == 1:
        training.load_weights = lambda model, path: time.sleep(0.5) or load_weights(model, path)
    train_two_tasks(*arguments)


@pytest.mark.parametrize("selecting", [False, True])
def test_two_processes_come_to_the_same_weights(tmp_path, selecting):
    select = choosing(2, tmp_path / "first", train_two_tasks, held_out()) if selecting else None
    train_two_tasks(tmp_path / "one", select=select)
    # Started from a fresh process: Accelerate has already decided that this one is alone.
    launcher = children.Process(target=debug_launcher, args=(train_slowly, (tmp_path / "two", 2, select)))
    launcher.start()
    launcher.join(60)
    assert launcher.exitcode == 0
    assert names(tmp_path / "two") == RESULTS
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert_close(two, one, 1e-5)
    if selecting:
        one, two = (pd.read_csv(tmp_path / name / "history.csv").selection.dropna() for name in ("one", "two"))
        pd.testing.assert_series_equal(two, one, rtol=0, atol=1e-5)
        assert two.argmin() == 1


# --- Weights on disk


def test_weights_are_safetensors(tmp_path):
    model = Small()
    save_weights(model, tmp_path / "deep" / "small.safetensors")
    with safe_open(tmp_path / "deep" / "small.safetensors", "pt") as file:
        assert same({name: file.get_tensor(name) for name in file.keys()}, model.state_dict())  # noqa: SIM118
    assert names(tmp_path / "deep") == {"small.safetensors"}
    other = Small(seed=9)
    load_weights(other, tmp_path / "deep" / "small.safetensors")
    assert same(other.state_dict(), model.state_dict())


def test_weights_must_fit(tmp_path):
    save_weights(Small(norm=False), tmp_path / "small.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(Small(), tmp_path / "small.safetensors")


def test_peak_memory_is_in_bytes():
    assert 1e8 < peak_memory() < 1e11  # torch alone takes more than 100 MB


# --- Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "optimizer: got 'lion', expected one of 'sgd', 'adam', 'adamw'"),
        ({"schedule": "poly"}, "schedule: got 'poly', expected one of 'constant', 'step', 'cosine', "),
        ({"precision": "fp16"}, "precision: got 'fp16', expected one of 'auto', 'fp32', 'bf16'"),
        ({"accumulate": 3}, "batch_size: got 4, expected a multiple of 3"),
        ({"batch_size": 16}, "small: got 12 records, expected at least one batch of 16"),
        ({"lr": -0.1}, r"learning rate|lr \(-0\.1\)"),
        ({"lr_end": 0.2}, r"lr_end: got 0\.2, expected 0 to lr \(0\.1\)"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_impossible_arguments_stop_before_any_work(tmp_path, options, message):
    data = triplets()
    with pytest.raises(ValueError, match=message):
        train(tmp_path, data=data, **options)
    assert not data.asked
    assert not names(tmp_path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_at_its_step(tmp_path, bad):
    calls = count()

    def loss(output, target):
        return preference_bce(output, target) * (bad if next(calls) == 5 else 1)

    with pytest.raises(FloatingPointError, match=f"small: the loss is {bad} at step 5: lower lr"):
        train(tmp_path, loss=loss)
    assert names(tmp_path) == {"checkpoint.pt"}
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_weights_that_are_not_finite_at_the_end_are_no_result(tmp_path):
    """The last step's loss is that before it."""
    with pytest.raises(
        FloatingPointError, match=r"small: the weights are not finite after step 1: lower lr \(1e\+39\)"
    ):
        train(tmp_path, lr=1e39, max_steps=1, optimizer="sgd", schedule="constant")
    assert not names(tmp_path)
