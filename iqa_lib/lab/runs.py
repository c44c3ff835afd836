"""A run: one notebook with one set of parameters, checked before any work, and the record it leaves."""

import ast
import hashlib
import inspect
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import nn

from iqa_lib.data.base import IQADataset
from iqa_lib.devices import determinism, device_name, device_of, instructions, resolved_precision, use_one_thread
from iqa_lib.files import atomic, code_fingerprint, file_key, locked, repo_root, sha256, tensors_sha256, write_json
from iqa_lib.lab import records
from iqa_lib.lab.parameters import SMALL_SCALES, declared, validate
from iqa_lib.lab.parameters import ParameterError as ParameterError
from iqa_lib.metrics import Estimate
from iqa_lib.models.rebuild import described
from iqa_lib.training import Fit, Task, fit, lower, peak_memory, save_weights
from iqa_lib.views import View
from iqa_lib.weights import Weights

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "scipy", "pillow", "piq", "papermill")


@dataclass
class Run:
    """A run in progress, from `start` to `finish`."""

    notebook: str
    parameters: dict[str, object]  # all of them, resolved
    folder: Path  # see `iqa_lib.lab.records`
    steps: dict[str, Fit] = field(default_factory=dict)  # the result of each call of `fit`
    started: float = field(default_factory=time.time)

    def fit(
        self,
        name: str,
        model: nn.Module,
        tasks: list[Task],
        *,
        select: Task | None = None,
        improves: Callable[[list[float], list[float]], bool] = lower,
        note: str = "",
        **options,
    ) -> Fit:
        """`iqa_lib.training.fit` in a folder that runs with the same first steps share.

        The folder's name is a hash of everything that decides the outcome: the model as it is now, the data with
        its images' places, sizes and times, the options and this package's code. A step that another run has finished
        is loaded, one that another run is training is waited for, a killed one resumes, and a stale one is never used.
        `name` is the step's, such as `"step 1"`; `note` is printed first unless the step is finished. Options that are
        not given come from the notebook's parameters of these names.
        """
        options = self.arguments_of(fit) | options
        learnt = [task for task in (*tasks, select) if task]
        shown = [(task.data.fingerprint(), _files_key(task.data), inspect.getsource(task.loss)) for task in learnt]
        decisive = _model_key(model), shown, bool(select), inspect.getsource(improves), options
        key = hashlib.sha256(f"{decisive}{self.parameters['seed']}{code_fingerprint()}".encode()).hexdigest()
        folder = self.folder.parents[1] / "steps" / f"{name.replace(' ', '')}-{key[:12]}"
        if note and not (folder / "fit.json").exists():
            print(note)
        accelerator = Accelerator(mixed_precision="no")
        with locked(folder.with_suffix(".lock")) if accelerator.is_main_process else nullcontext():
            accelerator.wait_for_everyone()
            options |= dict(select=select, improves=improves, name=name)
            result = fit(model, tasks, folder=folder, **options)
        how = "finished weights loaded" if result.loaded else "trained"
        where = folder.relative_to(repo_root())
        print(f"{name}: {how}, {len(result.history)} steps, {result.seconds:.0f} s of training ({where})")
        self.steps[name] = result
        return result

    def arguments_of(self, function: Callable) -> dict[str, object]:
        """Those of a function's or class's arguments that are parameters of the notebook, too."""
        return {
            name: self.parameters[name] for name in inspect.signature(function).parameters if name in self.parameters
        }

    def build(self, model: type[nn.Module], **options) -> nn.Module:
        """A model whose constructor's arguments are the notebook's parameters of these names, but for `options`."""
        return model(**self.arguments_of(model) | options)

    @property
    def split(self) -> int:
        """The number of the split by reference: the parameter `split`, or the seed if that is -1."""
        split = self.parameters.get("split", -1)
        return self.parameters["seed"] if split < 0 else split

    @property
    def data_root(self) -> Path:
        """The folder that holds the data sets, from the repository if `data_root` is relative; `~` is the home."""
        return repo_root() / Path(self.parameters["data_root"]).expanduser()

    def save_figure(self, figure: Figure, name: str) -> Figure:
        """Save a figure in the run's folder and return it for display."""
        with atomic(self.folder / records.FIGURES / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=100, bbox_inches="tight")
        return figure

    def other_predictions(self, dataset: IQADataset, side: str) -> dict[str, pd.DataFrame]:
        """Predictions on exactly these records, a run's `side`, by the notebook's other rows of this scale and seed."""
        rows = records.read_all(self.parameters["scale"], f"{self.notebook}/*", self.parameters["seed"])
        others, seen = [row for row in rows if row["folder"] != self.folder], dataset.fingerprint()
        same = [row for row in others if row["data"].get(side, {}).get("fingerprint") == seen]
        return {row["parameters"]["row"]: records.predictions(row["folder"], side) for row in same}

    def finish(
        self,
        model: nn.Module | None = None,
        *,
        metrics: Mapping[str, Estimate],
        predictions: pd.DataFrame,
        data: Mapping[str, IQADataset],
        weights: Weights | Mapping[str, Weights],
    ) -> Path:
        """Write weights, predictions and, last, the record; returns its path. Several networks have weights by name.

        The record of an earlier run goes first: whenever this one is killed, no record stands beside another's files.
        """
        file, written = self.folder / records.RECORD, [self.folder / records.PREDICTIONS]
        file.unlink(missing_ok=True)
        if model is not None:
            written.append(self.folder / records.WEIGHTS)
            save_weights(model, written[-1])
        with atomic(self.folder / records.PREDICTIONS) as temporary:
            predictions.to_csv(temporary, index=False)
        device, several = device_of(model), not isinstance(weights, Weights)
        record = {
            "notebook": self.notebook,
            "parameters": self.parameters,
            "model": described(model),
            "metrics": {name: estimate.as_dict() for name, estimate in metrics.items()},
            "data": {name: _described(dataset) for name, dataset in data.items()},
            "weights": {name: each.as_dict() for name, each in weights.items()} if several else weights.as_dict(),
            "steps": {
                name: {"steps": len(step.history), "seconds": round(step.seconds, 1), "loaded": step.loaded}
                for name, step in self.steps.items()
            },
            "seconds": round(time.time() - self.started, 1),
            "cpu_seconds": round(time.process_time(), 1),
            "peak_memory_bytes": peak_memory(device),
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "instructions": instructions(),
            "determinism": determinism(device),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "code": code_fingerprint(),
            **_commit(),
            "files": {each.name: sha256(each) for each in written},
        }
        write_json(file, record)
        print(f"record: {os.path.relpath(file, repo_root())}")
        return file


def start(notebook: str, namespace: MutableMapping[str, object]) -> Run:
    """Check a notebook's parameters (`namespace`: its `globals()`), print those not at their defaults, open its run.

    The namespace gets the resolved values: numbers of the declared type, `precision` as it is trained here. A
    parameter that is unknown, of the wrong type or impossible raises ParameterError. A smoke or demo run computes on
    one CPU core: its maps are too small to be shared, and its digits depend less on the machine.
    """
    known = declared(notebook)
    cells = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]  # papermill's
    injected = [target.id for cell in cells for node in ast.parse(cell).body for target in node.targets]
    values = {name: namespace[name] for name in (*known, *injected) if name in namespace}
    resolved = validate(notebook, values)
    if "precision" in resolved:
        resolved["precision"] = resolved_precision(resolved["precision"])
    if resolved["scale"] in SMALL_SCALES:
        use_one_thread()
    torch.manual_seed(resolved["seed"])
    folder = records.folder(resolved["scale"], f"{notebook}/{resolved['row']}", resolved["seed"])
    changed = [f"  {n} = {value!r}" for n, value in resolved.items() if values.get(n, value) != known[n].default]
    print("\n".join([str(folder), *changed, "  all other parameters at their defaults"]))
    namespace.update(resolved)
    return Run(notebook, resolved, repo_root() / folder)


def parameter_table(model: nn.Module) -> pd.DataFrame:
    """Number of parameters of each part of a model, and of those that are trained."""
    counts = {}
    for name, part in (*model.named_children(), ("all", model)):
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in part.parameters()]
        counts[name] = {"parameters": sum(n for n, _ in sizes), "trained": sum(n for n, trained in sizes if trained)}
    return pd.DataFrame(counts).T


def _model_key(model: nn.Module) -> str:
    state = tensors_sha256((*model.state_dict().items(), *model.named_buffers()))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return hashlib.sha256(repr((model, state, trained)).encode()).hexdigest()


def _described(dataset: IQADataset) -> dict[str, object]:
    known = {"name": dataset.name, "split": dataset.split, "records": len(dataset), "label": dataset.label.name}
    return known | {"references": len(set(dataset.reference_ids)), "fingerprint": dataset.fingerprint()}


def _files_key(data: View) -> str:
    """Of the image files that a view shows: their places, sizes and times."""
    return hashlib.sha256("".join(map(file_key, data.dataset.paths())).encode()).hexdigest()


DEPENDS = ("iqa_lib", "notebooks", "params")
"""What a number depends on; figures, tables and measurements beside it may change."""


def _commit() -> dict[str, object]:
    """The checkout's commit and whether `DEPENDS` differ from it; else `"unknown: "` and the reason, and None."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command, text = ["git", "-C", str(repo_root()), *arguments], {"encoding": "utf-8", "errors": "replace"}
        return subprocess.run(command, capture_output=True, check=True, env=outside, **text).stdout.strip()

    try:
        if (top := Path(git("rev-parse", "--show-toplevel"))) != repo_root().resolve():
            return {"commit": f"unknown: no checkout of its own, but inside that of {top}", "dirty": None}
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *DEPENDS))}
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().partition("\n")[0] or error
    except OSError as error:
        reason = error
    return {"commit": f"unknown: {reason}", "dirty": None}
