"""Training: one `fit` for every paper, on Accelerate. Killed at any moment, it resumes from its last checkpoint."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader, Dataset

from iqa_lib.checks import check_at_least, check_choice
from iqa_lib.devices import PRECISIONS, autocast, best_device, exact_kernels, fast_kernels, to_device
from iqa_lib.files import (
    DamagedError,
    atomic,
    intact,
    load_tensors,
    read_json,
    read_table,
    save_tensors,
    sha256,
    write_json,
)
from iqa_lib.progress import progress

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULES = ("constant", "step", "cosine", "cosine_epoch", "cosine_step", "one_cycle")
READ_SECONDS = 2.0
"""Time between two readings of the loss, for each waits for the device."""


@dataclass(frozen=True)
class Task:
    """What a model learns: a view of a data set (see `iqa_lib.views.View`), and `loss(output, target)`."""

    data: Dataset
    loss: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """A finished training: a row per step (`step`, `epoch`, `lr`, `loss`), its seconds, and if it was only loaded."""

    history: pd.DataFrame
    seconds: float
    loaded: bool


def lower(values: list[float], kept: list[float]) -> bool:
    """Whether the (first) selection number is below that of the epoch kept before."""
    return values[0] < kept[0]


@fast_kernels()
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
    improves: Callable[[list[float], list[float]], bool] = lower,
    compile: bool = False,
    name: str = "training",
) -> Fit:
    """Train what requires a gradient in `model`, and leave it in eval mode with the weights of the last step.

    Everything random about step s follows from `seed` and s: the order of the records, their crops, dropout. So a run
    that was killed and is started again with the same arguments continues from `folder`'s last checkpoint and, on one
    CPU, ends with the same bits as one that was not. A run that is complete in `folder` is loaded, not repeated.

    Args:
        model: Called with the inputs of its tasks' views.
        tasks: Their losses are summed in each step. An epoch is a pass through the first; the others start over.
        folder: For `checkpoint.pt` during the training, then `model.safetensors`, `history.csv` and `fit.json`.
        batch_size: Records per step and task, over all processes; an incomplete last batch is left out.
        lr, lr_end: Learning rate at the start (of one cycle: its highest), and at the lowest point of a cosine.
        optimizer: `"sgd"`, which alone uses `momentum`, `"adam"` or `"adamw"`.
        schedule: `"constant"`; `"step"`: a tenth after each `schedule_epochs`; `"cosine"`: to zero at the end, by step;
            `"cosine_epoch"`: to zero after `schedule_epochs` and back again, changed once an epoch; `"cosine_step"`: to
            zero after `schedule_epochs` steps, not epochs, and back again (AHIQ's released code); `"one_cycle"`: from
            near zero to `lr` in the first tenth of the steps, then the cosine to `lr_end`.
        precision: Of the steps: `"fp32"`, whose products are TF32 on a GPU, `"bf16"` autocast, or `"auto"`: see
            `iqa_lib.devices.resolved_precision`. What selects is computed in true fp32.
        accumulate: Parts that a batch is computed in, to save memory.
        workers: Processes that read ahead.
        save_every: Steps between checkpoints.
        max_steps: Stop after this many steps; 0: run all.
        select: Keep the weights of the best epoch instead of the last: the one after which this task's loss, over all
            its data at once, was lowest. The history has it as `selection` (and `selection_2`, ... of several numbers).
        improves: Whether an epoch's selection numbers are better than those of the epoch kept before.
        compile: Let `torch.compile` make kernels for the model: minutes at first, and other last digits.
        name: Shown beside the progress bar, and in errors.

    An argument out of its range, or a data set smaller than one batch, raises ValueError; a loss, or a weight at the
    end, that is not finite, FloatingPointError. No step waits for its loss: the error may come `READ_SECONDS` later,
    but before a file is saved.
    """
    check_choice(OPTIMIZERS, optimizer=optimizer)
    check_choice(SCHEDULES, schedule=schedule)
    check_choice(PRECISIONS, precision=precision)
    counts = dict(epochs=epochs, batch_size=batch_size, accumulate=accumulate, save_every=save_every, tasks=len(tasks))
    check_at_least(1, schedule_epochs=schedule_epochs, **counts)
    check_at_least(0, max_steps=max_steps)
    if not 0 <= lr_end <= lr:
        raise ValueError(f"lr_end: got {lr_end}, expected 0 to lr ({lr})")
    folder, started = Path(folder), time.monotonic()
    if finished := intact(folder / "fit.json", partial(_load_finished, model), None):
        return finished
    accelerator = Accelerator(mixed_precision="no")
    device, parts = accelerator.device, accumulate * accelerator.num_processes
    if batch_size % parts:
        raise ValueError(f"batch_size: got {batch_size}, expected a multiple of {parts} (accumulate x processes)")
    steps_per_epoch = len(tasks[0].data) // batch_size
    if not steps_per_epoch:
        raise ValueError(f"{name}: got {len(tasks[0].data)} records, expected at least one batch of {batch_size}")
    total = min(epochs * steps_per_epoch, max_steps or epochs * steps_per_epoch)
    model.to(device, memory_format=torch.channels_last)
    options = dict(momentum=momentum) if optimizer == "sgd" else {}
    options |= dict(lr=lr, weight_decay=weight_decay, fused=True)
    updater = OPTIMIZERS[optimizer]([weight for weight in model.parameters() if weight.requires_grad], **options)
    updater.zero_grad(set_to_none=True)
    first, history, spent = _resume(folder, model, updater)
    wrapped = accelerator.prepare_model(torch.compile(model) if compile else model)
    steps = dict(batch_size=batch_size, accumulate=accumulate, seed=seed, first=first, total=total)
    streams = [iter(_loader(task.data, workers, accelerator, **steps)) for task in tasks]
    reading = dict(num_workers=workers, persistent_workers=workers > 0, pin_memory=device.type == "cuda")
    keys = [(0, index) for index in range(len(select.data))] if select else []
    judged = select and DataLoader(select.data, batch_size, sampler=keys, **reading)

    def next_loss(task: Task, stream: Iterator) -> Tensor:
        *inputs, target = to_device(next(stream), device)
        with autocast(device, precision):
            output = wrapped(*inputs)
        return task.loss(output.float(), target)

    def better(kept: list[float] | None, values: list[float]) -> list[float]:
        return values if kept is None or improves(values, kept) else kept

    selections = ([value for name, value in row.items() if name.startswith("selection")] for row in history)
    kept = reduce(better, filter(None, selections), None)
    model.train()
    read = time.monotonic()
    bar = progress(range(first, total), name, initial=first, total=total)
    for step in bar:
        torch.manual_seed(seed * 1_000_003 + step)
        factor = schedule_factor(schedule, step, total, steps_per_epoch * schedule_epochs, steps_per_epoch)
        rate = lr * factor if schedule in ("constant", "step") else lr_end + (lr - lr_end) * factor
        for group in updater.param_groups:
            group["lr"] = rate
        losses = []
        for part in range(1, accumulate + 1):
            with accelerator.no_sync(wrapped) if part < accumulate else nullcontext():
                part_loss = sum(map(next_loss, tasks, streams)) / accumulate
                accelerator.backward(part_loss)
            losses.append(part_loss.detach())
        updater.step()
        updater.zero_grad(set_to_none=True)
        history.append({"step": step + 1, "epoch": (step + 1) / steps_per_epoch, "lr": rate, "loss": losses})
        last, saves = step + 1 == total, (step + 1) % save_every == 0
        selects = select and (last or (step + 1) % steps_per_epoch == 0)
        if last or saves or selects or time.monotonic() - read > READ_SECONDS:
            bar.set_postfix(loss=f"{_read_losses(history, name, lr):.4f}")
            read = time.monotonic()
        if selects:
            values = _loss_over_all(model, select, judged, device)
            if not all(map(math.isfinite, values)):
                raise FloatingPointError(f"{name}: the selection is {', '.join(map(str, values))} at step {step}")
            history[-1] |= {f"selection_{i}" if i > 1 else "selection": value for i, value in enumerate(values, 1)}
            kept = better(kept, values)
            if kept is values and accelerator.is_main_process:
                save_weights(model, folder / "best.safetensors")
        if saves and not last and accelerator.is_main_process:
            seconds = spent + time.monotonic() - started
            state = {"model": model.state_dict(), "optimizer": updater.state_dict()}
            with atomic(folder / "checkpoint.pt") as temporary:
                torch.save(state | {"history": history, "seconds": seconds}, temporary)
    model.eval()
    if select:
        accelerator.wait_for_everyone()
        load_weights(model, folder / "best.safetensors")
        accelerator.wait_for_everyone()
    if not all(weight.isfinite().all() for weight in model.parameters() if weight.requires_grad):
        raise FloatingPointError(f"{name}: the weights are not finite after step {total}: lower lr ({lr})")
    result = Fit(pd.DataFrame(history), spent + time.monotonic() - started, loaded=False)
    if accelerator.is_main_process:
        _finish(folder, model, result)
    accelerator.wait_for_everyone()
    return result


def first_batch(data: Dataset, batch_size: int, seed: int = 0, model: nn.Module | None = None) -> list:
    """The batch that `fit` sees at step 0, inputs and then the target, on the best device; `model` is moved there, too.

    In train mode a forward pass changes BatchNorm's statistics; `iqa_lib.evaluation.look` leaves a model in eval mode.
    """
    device = best_device()
    if model is not None:
        model.to(device)
    batches = _batches(len(data), batch_size=batch_size, seed=seed, first=0, total=1)
    return to_device(next(iter(DataLoader(data, batch_sampler=batches))), device)


def gradient_norms(model: nn.Module) -> pd.Series:
    """L2 norm of the gradient of each part of a network, after `loss.backward()`; 0 for parts that are frozen."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        part = gradients.setdefault(name.split(".")[0], [])
        part += [] if parameter.grad is None else [parameter.grad]
    return pd.Series({part: get_total_norm(found).item() for part, found in gradients.items()}, name="gradient norm")


def schedule_factor(schedule: str, step: int, total: int, period: int, steps_per_epoch: int = 1) -> float:
    """The learning rate at `step` of `total`, relative to the first; `period` is `schedule_epochs` in steps."""
    if schedule == "step":
        return 0.1 ** (step // period)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / total))
    if schedule == "one_cycle":
        rising = max(1, total // 10)
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))
    if schedule == "cosine_step":
        return 0.5 * (1 + math.cos(math.pi * step * steps_per_epoch / period))
    if schedule == "cosine_epoch":
        return 0.5 * (1 + math.cos(math.pi * (step - step % steps_per_epoch) / period))
    return 1.0


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write a model's state as safetensors with a checksum; a killed write leaves no file."""
    save_tensors(path, {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()})


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load what `save_weights` wrote; names and shapes must match, DamagedError if it is not as it was written."""
    model.load_state_dict(load_tensors(path))


def peak_memory(device: torch.device | str = "cpu") -> int:
    """Peak memory in bytes: of the GPU's allocator, or of this process on a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _batches(
    records: int, *, batch_size: int, seed: int, first: int, total: int, accumulate: int = 1, rank: slice = slice(None)
) -> Iterator[list[tuple[int, int]]]:
    """The `(epoch, index)` of steps `first` to `total`, part by part; the order depends on `seed` and epoch alone."""
    per_epoch, shuffled = max(1, records // batch_size), (None, None)
    for step in range(first, total):
        epoch, place = divmod(step, per_epoch)
        if shuffled[0] != epoch:
            order = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            shuffled = epoch, torch.randperm(records, generator=order).tolist()
        batch = shuffled[1][place * batch_size : (place + 1) * batch_size][rank]
        for part in range(accumulate):
            yield [(epoch, index) for index in batch[part::accumulate]]


def _loader(data: Dataset, workers: int, accelerator: Accelerator, **steps) -> DataLoader:
    rank = slice(accelerator.process_index, None, accelerator.num_processes)
    batches, generator = _batches(len(data), **steps, rank=rank), torch.Generator().manual_seed(0)
    pinned = accelerator.device.type == "cuda"
    return DataLoader(data, batch_sampler=batches, num_workers=workers, pin_memory=pinned, generator=generator)


def _read_losses(history: list[dict], name: str, lr: float) -> float:
    """Numbers for the losses that are still on the device, from one wait for it; returns the last."""
    waiting = [row for row in history if isinstance(row["loss"], list)]
    for row, parts in zip(waiting, torch.stack([torch.stack(row["loss"]) for row in waiting]).tolist(), strict=True):
        row["loss"] = sum(parts)
        if not math.isfinite(row["loss"]):
            at = f"the loss is {row['loss']} at step {row['step'] - 1}"
            raise FloatingPointError(f"{name}: {at}: lower lr ({lr}), or use fp32")
    return history[-1]["loss"]


@exact_kernels()
@torch.no_grad()
def _loss_over_all(model: nn.Module, task: Task, batches: DataLoader, device: torch.device) -> list[float]:
    """A task's loss over all its data at once, in eval mode and fp32 as in a test, as a list of its numbers."""
    outputs, targets = [], []
    model.eval()
    for *inputs, target in batches:
        outputs.append(model(*to_device(inputs, device)).float().cpu())
        targets.append(target)
    model.train()
    return task.loss(torch.cat(outputs), torch.cat(targets)).reshape(-1).tolist()


def _resume(folder: Path, model: nn.Module, updater: torch.optim.Optimizer) -> tuple[int, list[dict], float]:
    """Load the last checkpoint, if any; returns its number of steps, its history and its seconds."""
    state = intact(folder / "checkpoint.pt", _read_checkpoint, None)
    if state is None:
        return 0, [], 0.0
    model.load_state_dict(state["model"])
    updater.load_state_dict(state["optimizer"])
    return len(state["history"]), state["history"], state["seconds"]


def _read_checkpoint(file: Path) -> dict:
    """The checkpoint: a ZIP archive, whose checksums torch writes but does not look at."""
    if (best := file.with_name("best.safetensors")).exists():
        load_tensors(best)
    try:
        with ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise BadZipFile(f"the checksum of {damaged} is another")
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in many ways
        raise DamagedError(f"{file} is damaged ({error})") from error


def _finish(folder: Path, model: nn.Module, result: Fit) -> None:
    """Write the results; `fit.json` is the last and marks the rest as complete."""
    save_weights(model, folder / "model.safetensors")
    with atomic(folder / "history.csv") as temporary:
        result.history.to_csv(temporary, index=False)
    sums = {name: sha256(folder / name) for name in ("model.safetensors", "history.csv")}
    write_json(folder / "fit.json", {"steps": len(result.history), "seconds": round(result.seconds, 1), "files": sums})
    _clean(folder)


def _clean(folder: Path) -> None:
    """Remove the checkpoint of a finished training, and the temporary files of killed writes."""
    for leftover in (folder / "checkpoint.pt", folder / "best.safetensors", *folder.glob(".*-*")):
        leftover.unlink(missing_ok=True)


def _load_finished(model: nn.Module, record: Path) -> Fit:
    """What `_finish` wrote; DamagedError if a file is missing, or is not as it was written."""
    made, folder = read_json(record), record.parent
    for name, expected in made["files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise DamagedError(f"{folder / name} is damaged, or missing")
    _clean(folder)
    load_weights(model, folder / "model.safetensors")
    model.eval()
    return Fit(read_table(folder / "history.csv"), made["seconds"], loaded=True)
