"""Training: one `fit` for every paper, on Accelerate; killed at any moment, it goes on where it last saved."""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from iqa_lib.checks import check_at_least, check_choice
from iqa_lib.devices import resolved_precision, to_device
from iqa_lib.files import atomic
from iqa_lib.progress import progress

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "cosine_epoch", "cosine_step")
PRECISIONS = ("auto", "fp32", "bf16")
SELECTION = ("selection", "selection_2")


@dataclass(frozen=True)
class Task:
    """What a model learns: a data set that is indexed by `(epoch, index)`, and `loss(output, target)`."""

    data: Dataset
    loss: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """A training's end: one row a step (`step`, `epoch`, `lr`, `loss`), its seconds, whether it was only loaded."""

    history: pd.DataFrame
    seconds: float
    loaded: bool


def fit(
    model: nn.Module,
    tasks: list[Task],
    *,
    folder: Path | str,
    epochs: int,
    batch_size: int,
    lr: float,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    schedule: str = "step",
    schedule_epochs: int = 10,
    lr_end: float = 0.0,
    precision: str = "fp32",
    accumulate: int = 1,
    seed: int = 0,
    workers: int = 0,
    save_every: int = 200,
    max_steps: int = 0,
    select: Task | None = None,
    name: str = "training",
) -> Fit:
    """Train what requires a gradient in `model`, and leave it in eval mode with the weights of the last step.

    Everything random about step s follows from `seed` and s: the order of the records, their crops, dropout. So a run
    that was killed and is started again with the same arguments continues from `folder`'s last checkpoint and, on one
    CPU, ends with the same bits as one that was not. A run that is complete in `folder` is loaded, not repeated.

    Args:
        model: Takes what its tasks' data give, less the last item, which is the target.
        tasks: Their losses are summed in each step. An epoch is a pass through the first; the others go round.
        folder: For `checkpoint.pt` while it lasts, then `model.safetensors`, `history.csv` and `fit.json`.
        epochs: Passes through the first task's data.
        batch_size: Records a step and task, over all processes; an incomplete last batch is left out.
        lr: Learning rate at the start.
        optimizer: `"sgd"`, `"adam"` or `"adamw"`.
        momentum: For SGD.
        weight_decay: For all three.
        schedule: `"constant"`; `"step"`: a tenth after each `schedule_epochs`; `"cosine"`: to zero at the end, by step;
            `"cosine_epoch"`: to zero after `schedule_epochs` and back again, changed once an epoch; `"cosine_step"`: to
            zero after `schedule_epochs` steps, not epochs, and back again (AHIQ's released code).
        schedule_epochs: See `schedule`.
        lr_end: Learning rate that a cosine falls to instead of zero.
        precision: `"fp32"`, `"bf16"` autocast, or `"auto"`: see `resolved_precision`.
        accumulate: Parts that a batch is computed in, to save memory.
        seed: See above.
        workers: Processes that read ahead.
        save_every: Steps between checkpoints.
        max_steps: Stop after so many steps; 0 for all.
        select: Keep the weights of the epoch after which this task's loss, over all its data at once, was lowest,
            instead of the last. The history tells it as `selection`. A loss of two numbers, `(2,)`, keeps an epoch
            if either is below that of the epoch kept before (AHIQ's released code).
        name: Beside the progress bar.

    Raises:
        ValueError: An argument out of its range, or a data set smaller than one batch.
        FloatingPointError: The loss is not finite.
    """
    check_choice(OPTIMIZERS, optimizer=optimizer)
    check_choice(SCHEDULES, schedule=schedule)
    check_choice(PRECISIONS, precision=precision)
    check_at_least(
        1,
        epochs=epochs,
        batch_size=batch_size,
        schedule_epochs=schedule_epochs,
        accumulate=accumulate,
        save_every=save_every,
        tasks=len(tasks),
    )
    if not 0 <= lr_end <= lr:
        raise ValueError(f"lr_end: got {lr_end}, expected 0 to lr ({lr})")
    if max_steps < 0:
        raise ValueError(f"max_steps: got {max_steps}, expected 0 (all) or more")
    folder, started = Path(folder), time.monotonic()
    if (folder / "fit.json").exists():
        return _load_finished(model, folder)
    accelerator = Accelerator(mixed_precision="no")
    device, precision = accelerator.device, resolved_precision(precision, accelerator.device)
    if batch_size % (accumulate * accelerator.num_processes):
        raise ValueError(
            f"batch_size {batch_size} cannot be shared by {accelerator.num_processes} processes x {accumulate}"
        )
    steps_per_epoch = len(tasks[0].data) // batch_size
    if not steps_per_epoch:
        raise ValueError(f"{name}: {len(tasks[0].data)} records came, expected at least one batch of {batch_size}")
    total = min(epochs * steps_per_epoch, max_steps or epochs * steps_per_epoch)
    model.to(device, memory_format=torch.channels_last if device.type == "cuda" else torch.preserve_format)
    updater = _optimizer(model, optimizer, lr, momentum, weight_decay)
    first, history, spent = _resume(folder, model, updater)
    wrapped = accelerator.prepare_model(model)
    shares = dict(batch_size=batch_size, accumulate=accumulate, seed=seed, first=first, total=total)
    streams = [iter(_loader(task.data, workers, accelerator, **shares)) for task in tasks]

    kept = None
    for values in filter(None, map(_selection, history)):
        kept = values if _improves(values, kept) else kept

    def add_gradients(step: int) -> float:
        loss = 0.0
        for part in range(1, accumulate + 1):
            with accelerator.no_sync(wrapped) if part < accumulate else nullcontext():
                losses = []
                for task, stream in zip(tasks, streams, strict=True):
                    *inputs, target = to_device(next(stream), device)
                    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                        output = wrapped(*inputs)
                    losses.append(task.loss(output.float(), target))
                part_loss = sum(losses) / accumulate
                accelerator.backward(part_loss)
            loss += part_loss.item()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"{name}: the loss is {loss} at step {step}: lower lr ({lr}), or use precision='fp32'"
            )
        return loss

    model.train()
    bar = progress(range(first, total), name, initial=first, total=total)
    for step in bar:
        torch.manual_seed(seed * 1_000_003 + step)
        factor = schedule_factor(schedule, step, total, steps_per_epoch * schedule_epochs, steps_per_epoch)
        rate = lr_end + (lr - lr_end) * factor if schedule.startswith("cosine") else lr * factor
        for group in updater.param_groups:
            group["lr"] = rate
        loss = add_gradients(step)
        updater.step()
        updater.zero_grad(set_to_none=True)
        history.append({"step": step + 1, "epoch": (step + 1) / steps_per_epoch, "lr": rate, "loss": loss})
        bar.set_postfix(loss=f"{loss:.4f}")
        if select and ((step + 1) % steps_per_epoch == 0 or step + 1 == total):
            values = _loss_over_all(model, select, batch_size, workers, device, precision)
            if not all(map(math.isfinite, values)):
                raise FloatingPointError(f"{name}: the selection is {', '.join(map(str, values))} at step {step}")
            history[-1] |= dict(zip(SELECTION, values, strict=False))
            if _improves(values, kept):
                kept = values
                if accelerator.is_main_process:
                    save_weights(model, folder / "best.safetensors")
        if (step + 1) % save_every == 0 and step + 1 < total and accelerator.is_main_process:
            _save(folder, model, updater, history, spent + time.monotonic() - started)
    model.eval()
    if select:
        accelerator.wait_for_everyone()
        load_weights(model, folder / "best.safetensors")
        accelerator.wait_for_everyone()
    result = Fit(pd.DataFrame(history), spent + time.monotonic() - started, loaded=False)
    if accelerator.is_main_process:
        _finish(folder, model, result)
    accelerator.wait_for_everyone()
    return result


def schedule_factor(schedule: str, step: int, total: int, period: int, steps_per_epoch: int = 1) -> float:
    """What the learning rate is multiplied with at `step` of `total`; `period` is `schedule_epochs` in steps."""
    if schedule == "step":
        return 0.1 ** (step // period)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / total))
    if schedule == "cosine_step":
        return 0.5 * (1 + math.cos(math.pi * step * steps_per_epoch / period))
    if schedule == "cosine_epoch":
        return 0.5 * (1 + math.cos(math.pi * (step - step % steps_per_epoch) / period))
    return 1.0


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write a model's state as safetensors, whole or not at all."""
    with atomic(path) as temporary:
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}, temporary)


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Read back what `save_weights` wrote; every tensor must be there and fit."""
    model.load_state_dict(load_file(path))


def peak_memory(device: torch.device | str = "cpu") -> int:
    """Peak memory in bytes: of the GPU's allocator, or on a CPU of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Batches:
    """The records of steps `first` to `total`, in an order that depends on `seed` and the epoch alone."""

    def __init__(self, records: int, batch_size: int, accumulate: int, seed: int, first: int, total: int, rank: slice):
        self.records, self.batch_size, self.accumulate, self.seed = records, batch_size, accumulate, seed
        self.first, self.total, self.rank = first, total, rank

    def __len__(self) -> int:
        return (self.total - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch, shuffled = max(1, self.records // self.batch_size), (None, None)
        for step in range(self.first, self.total):
            epoch, place = divmod(step, per_epoch)
            if shuffled[0] != epoch:
                order = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                shuffled = epoch, torch.randperm(self.records, generator=order).tolist()
            batch = shuffled[1][place * self.batch_size : (place + 1) * self.batch_size][self.rank]
            for part in range(self.accumulate):
                yield [(epoch, index) for index in batch[part :: self.accumulate]]


def _loader(data: Dataset, workers: int, accelerator: Accelerator, **batches) -> DataLoader:
    rank = slice(accelerator.process_index, None, accelerator.num_processes)
    return DataLoader(
        data,
        batch_sampler=_Batches(len(data), **batches, rank=rank),
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator().manual_seed(0),
    )


@torch.no_grad()
def _loss_over_all(
    model: nn.Module, task: Task, batch_size: int, workers: int, device: torch.device, precision: str
) -> list[float]:
    """A task's loss over all its data at once, in eval mode: its numbers, mostly one."""
    keys = [(0, index) for index in range(len(task.data))]
    outputs, targets = [], []
    model.eval()
    for *inputs, target in DataLoader(task.data, batch_size, sampler=keys, num_workers=workers):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            outputs.append(model(*to_device(inputs, device)).float().cpu())
        targets.append(target)
    model.train()
    return task.loss(torch.cat(outputs), torch.cat(targets)).reshape(-1).tolist()


def _selection(row: dict) -> list[float]:
    """What a step of the history tells of the selection, if anything."""
    return [row[name] for name in SELECTION if not math.isnan(row.get(name, math.nan))]


def _improves(values: list[float], kept: list[float] | None) -> bool:
    return kept is None or any(value < before for value, before in zip(values, kept, strict=True))


def _optimizer(model: nn.Module, name: str, lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr=lr, weight_decay=weight_decay)


def _save(folder: Path, model: nn.Module, updater: torch.optim.Optimizer, history: list[dict], seconds: float) -> None:
    state = {"model": model.state_dict(), "optimizer": updater.state_dict(), "history": history, "seconds": seconds}
    with atomic(folder / "checkpoint.pt") as temporary:
        torch.save(state, temporary)


def _resume(folder: Path, model: nn.Module, updater: torch.optim.Optimizer) -> tuple[int, list[dict], float]:
    """Steps done, history and seconds of the last checkpoint, its state loaded; or a start from nothing."""
    if not (folder / "checkpoint.pt").exists():
        return 0, [], 0.0
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    updater.load_state_dict(state["optimizer"])
    return len(state["history"]), state["history"], state["seconds"]


def _finish(folder: Path, model: nn.Module, result: Fit) -> None:
    """Leave the results; `fit.json` comes last and says that the rest is complete."""
    save_weights(model, folder / "model.safetensors")
    with atomic(folder / "history.csv") as temporary:
        result.history.to_csv(temporary, index=False)
    with atomic(folder / "fit.json") as temporary:
        temporary.write_text(json.dumps({"steps": len(result.history), "seconds": round(result.seconds, 1)}))
    _clean(folder)


def _clean(folder: Path) -> None:
    """Remove the checkpoint of a finished training, and what killed writes left."""
    for leftover in (folder / "checkpoint.pt", folder / "best.safetensors", *folder.glob(".*-*")):
        leftover.unlink(missing_ok=True)


def _load_finished(model: nn.Module, folder: Path) -> Fit:
    _clean(folder)
    load_weights(model, folder / "model.safetensors")
    model.eval()
    seconds = json.loads((folder / "fit.json").read_text())["seconds"]
    return Fit(pd.read_csv(folder / "history.csv"), seconds, loaded=True)
