"""Checkpoints that the papers' authors released or would save: read safely, loaded whole or not at all."""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


class WeightsError(RuntimeError):
    """Pretrained weights are not to be had; the message names the ways out."""


@dataclass(frozen=True)
class Weights:
    """What a network's weights are: for the run record, and beside every number made with them.

    `source` is `hub`, `packaged`, `file` or `random`; `file` the file's name; `sha256` its hash (empty for random).
    """

    network: str
    source: str
    file: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.network}, {self.source}" + (f" ({self.file}, sha256 {self.sha256[:12]})" if self.file else "")

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def read_checkpoint(path: Path | str, key: str) -> dict[str, Tensor]:
    """The state dict that a torch file holds under `key`, or is where it has no such key; `module.` is dropped.

    Raises:
        WeightsError: See `read_content`; or there is something else than tensors by name.
    """
    return tensors_under(read_content(path, key), key, path)


def tensors_under(content: dict, key: str, path: Path | str) -> dict[str, Tensor]:
    """The state dict of `read_checkpoint`, from the file's content."""
    state = content.get(key, content)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise WeightsError(f"{path} holds under {key!r} something else than tensors by name: give a state dict")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def read_content(path: Path | str, key: str) -> dict:
    """The dict that a torch file holds, which should have the weights under `key`.

    Raises:
        WeightsError: There is no such file, it is cut short, or it holds other than tensors, numbers and text.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: there is no such file: give the path of the authors' checkpoint") from error
    except pickle.UnpicklingError as error:
        if "unsupported global" not in str(error).lower():
            raise WeightsError(f"{path} cannot be read, it is damaged: download or copy the file again") from error
        raise WeightsError(
            f"{path} holds objects beside tensors that could run code when read: if you trust it, keep "
            f"its weights by torch.save(torch.load(path, weights_only=False)[{key!r}], new_path), and give that file"
        ) from error
    except Exception as error:  # a damaged file fails in ways of its own
        raise WeightsError(f"{path} cannot be read ({error}): download or copy the file again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected a dict with {key!r}, or a state dict")
    return content


def renamed(state: Mapping[str, Tensor], patterns: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """A state dict under other names: each pattern in turn is replaced in every name, as by `re.sub`."""
    names = {key: key for key in state}
    for pattern, replacement in patterns:
        names = {key: re.sub(pattern, replacement, name) for key, name in names.items()}
    return {name: state[key] for key, name in names.items()}


def load_complete(
    model: nn.Module, state: Mapping[str, Tensor], path: Path | str, *, absent: Sequence[str] = ()
) -> None:
    """Load `state` into a model: every tensor must be there and fit, but for those whose names begin with `absent`.

    Raises:
        WeightsError: Names the file and the first tensors that are missing, unknown or of another shape.
    """
    own = model.state_dict()
    wanted = {key: tensor for key, tensor in own.items() if not key.startswith(tuple(absent))}
    problems = [f"lacks {key}" for key in wanted if key not in state]
    problems += [f"has {key}, which this network has not" for key in state if key not in own]
    problems += [
        f"has {key} {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in own.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{path} does not fit {type(model).__name__}: it {'; it '.join(problems[:3])}{more}: give the file of "
            "just this network, or the constructor's options that it was trained with"
        )
    model.load_state_dict({key: state.get(key, tensor) for key, tensor in own.items()})
