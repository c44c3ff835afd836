"""A run: one notebook with one set of parameters, checked before any work, and its record `run.json` after it."""

import ast
import hashlib
import inspect
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from filelock import FileLock
from matplotlib.figure import Figure
from torch import nn

from iqa_lib.data.base import IQADataset
from iqa_lib.devices import resolved_precision
from iqa_lib.files import atomic, code_fingerprint, repo_root, tensors_sha256
from iqa_lib.lab.parameters import ParameterError as ParameterError
from iqa_lib.lab.parameters import declared, validate
from iqa_lib.metrics import Estimate
from iqa_lib.models.rebuild import described
from iqa_lib.training import Fit, Task, fit, lower, peak_memory, save_weights
from iqa_lib.weights import Weights

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "scipy", "pillow", "piq", "papermill")


@dataclass
class Run:
    """A run under way. Made by `start`, closed by `finish`.

    Attributes:
        notebook: Name of the notebook.
        parameters: All of them, resolved.
        folder: `outputs/<scale>/<notebook>/<row>/seed<k>`.
        steps: What each call of `fit` came to.
    """

    notebook: str
    parameters: dict[str, object]
    folder: Path
    steps: dict[str, Fit] = field(default_factory=dict)
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
        """`iqa_lib.training.fit` in a folder that runs of the same beginning share.

        The folder's name is a hash of all that decides the outcome: the model as it is now, the data, the options and
        this package's code. So a stage that another run has finished is loaded, one that another is training is waited
        for, one that was killed goes on, and nothing stale is ever taken up.

        Args:
            name: Of the step, such as `"step 1"`.
            model: See `iqa_lib.training.fit`.
            tasks: See there.
            select: See there.
            improves: See there.
            note: Printed first if the step is not finished yet.
            **options: See there.
        """
        keys = [_task_key(task) for task in (*tasks, *([select] if select else []))]
        key = hashlib.sha256(
            repr((_model_key(model), keys, bool(select), inspect.getsource(improves), options)).encode()
        )
        key.update(f"{self.parameters['seed']}{code_fingerprint()}".encode())
        folder = self.folder.parents[1] / "steps" / f"{name.replace(' ', '')}-{key.hexdigest()[:12]}"
        if note and not (folder / "fit.json").exists():
            print(note)
        folder.parent.mkdir(parents=True, exist_ok=True)
        accelerator = Accelerator(mixed_precision="no")
        with FileLock(folder.with_suffix(".lock")) if accelerator.is_main_process else nullcontext():
            accelerator.wait_for_everyone()
            options |= dict(seed=self.parameters["seed"], select=select, improves=improves, name=name)
            result = fit(model, tasks, folder=folder, **options)
        how = "finished weights loaded" if result.loaded else "trained"
        where = folder.relative_to(repo_root())
        print(f"{name}: {how}, {len(result.history)} steps, {result.seconds:.0f} s of training ({where})")
        self.steps[name] = result
        return result

    def save_figure(self, figure: Figure, name: str) -> Figure:
        """Write `figures/<name>.png` and give the figure back for display."""
        with atomic(self.folder / "figures" / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=100, bbox_inches="tight")
        return figure

    def other_predictions(self, dataset: IQADataset, side: str) -> dict[str, pd.DataFrame]:
        """Predictions of this notebook's other finished rows, of the same scale and seed, on just these records.

        Args:
            dataset: The records.
            side: What the runs' record calls them, such as `"test"`; a column `side` in their predictions, if any.
        """
        found = {}
        for path in sorted(self.folder.parents[1].glob(f"*/{self.folder.name}/run.json")):
            record = json.loads(path.read_text())
            same = record["data"].get(side, {}).get("fingerprint") == dataset.fingerprint()
            if same and path.parent != self.folder:
                table = pd.read_csv(path.with_name("predictions.csv"))
                table = table[table.side == side] if "side" in table else table
                found[record["parameters"]["row"]] = table.reset_index(drop=True)
        return found

    def finish(
        self,
        model: nn.Module | None = None,
        *,
        metrics: Mapping[str, Estimate],
        predictions: pd.DataFrame,
        data: Mapping[str, IQADataset],
        weights: Weights | Mapping[str, Weights],
    ) -> Path:
        """Write `model.safetensors`, `predictions.csv` and, as the last, `run.json`; returns the latter's path.

        A run that trains nothing has no model; one of several networks gives the weights of each by its name.
        """
        if model is not None:
            save_weights(model, self.folder / "model.safetensors")
        with atomic(self.folder / "predictions.csv") as temporary:
            predictions.to_csv(temporary, index=False)
        device = torch.device("cpu") if model is None else next(model.parameters()).device
        record = {
            "notebook": self.notebook,
            "parameters": self.parameters,
            "model": described(model),
            "metrics": {name: estimate.as_dict() for name, estimate in metrics.items()},
            "data": {name: _described(dataset) for name, dataset in data.items()},
            "weights": weights.as_dict()
            if isinstance(weights, Weights)
            else {name: found.as_dict() for name, found in weights.items()},
            "steps": {
                name: {"steps": len(step.history), "seconds": round(step.seconds, 1), "loaded": step.loaded}
                for name, step in self.steps.items()
            },
            "seconds": round(time.time() - self.started, 1),
            "peak_memory_bytes": peak_memory(device),
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else platform.processor() or device.type,
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "code": code_fingerprint(),
            **_commit(),
        }
        with atomic(self.folder / "run.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1))
        return self.folder / "run.json"


def start(notebook: str, namespace: Mapping[str, object], *, choices: Mapping = {}, limits: Mapping = {}) -> Run:
    """Check a notebook's parameters, print them resolved, and open its run.

    Args:
        notebook: Name without ending.
        namespace: The notebook's `globals()`.
        choices: See `validate`.
        limits: See `validate`.

    Raises:
        ParameterError: Something is unknown, of the wrong type or impossible.
    """
    values = {name: namespace[name] for name in declared(notebook) if name in namespace}
    values |= {name: namespace[name] for name in injected(namespace)}
    resolved = validate(notebook, values, choices, limits)
    if "precision" in resolved:
        resolved["precision"] = resolved_precision(resolved["precision"])
    torch.manual_seed(resolved["seed"])
    folder = repo_root() / "outputs" / resolved["scale"] / notebook / resolved["row"] / f"seed{resolved['seed']}"
    print(f"{folder.relative_to(repo_root())}")
    print("\n".join(f"  {name} = {value!r}" for name, value in resolved.items()))
    return Run(notebook, resolved, folder)


def injected(namespace: Mapping[str, object]) -> list[str]:
    """Names that papermill set: those assigned in the cell it put in, which starts with `# Parameters`."""
    cells = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]
    return [target.id for cell in cells for node in ast.parse(cell).body for target in node.targets]


def parameter_table(model: nn.Module) -> pd.DataFrame:
    """Parameters of each part of a model, and how many of them are trained."""
    parts = {name: list(part.parameters()) for name, part in model.named_children()} | {"all": list(model.parameters())}
    counts = {
        name: {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        }
        for name, parameters in parts.items()
    }
    return pd.DataFrame(counts).T


def _model_key(model: nn.Module) -> str:
    state = tensors_sha256((*model.state_dict().items(), *model.named_buffers()))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return hashlib.sha256(repr((model, state, trained)).encode()).hexdigest()


def _task_key(task: Task) -> tuple:
    return task.data.fingerprint(), inspect.getsource(task.loss)


def _described(dataset: IQADataset) -> dict[str, object]:
    return {
        "name": dataset.name,
        "split": dataset.split,
        "records": len(dataset),
        "references": len(set(dataset.reference_ids)),
        "label": dataset.label.name,
        "fingerprint": dataset.fingerprint(),
    }


def _commit() -> dict[str, object]:
    """The checkout's commit and whether files differ from it; None outside a git checkout."""
    try:
        git = ["git", "-C", str(repo_root())]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(changes.strip())}
