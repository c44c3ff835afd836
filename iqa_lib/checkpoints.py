"""Checkpoints that the papers' authors released or would save: read safely, loaded whole or not at all."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from iqa_lib.backbones import WeightsError


def read_checkpoint(path: Path | str, key: str) -> dict:
    """What a torch file holds under `key`, or the file's own dict where it has no such key; `module.` is dropped.

    Raises:
        WeightsError: There is no such file, it is cut short, or it holds other than tensors, numbers and text.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: there is no such file: give the path of the authors' checkpoint") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds objects that could run code when read: if you trust it, keep its "
            f"weights by torch.save(torch.load(path, weights_only=False)[{key!r}], new_path), and give that file"
        ) from error
    except Exception as error:  # a damaged file fails in ways of its own
        raise WeightsError(f"{path} cannot be read ({error}): download or copy the file again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}; wanted a dict with {key!r}, or a state dict")
    state = content.get(key, content)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


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
        f"has {key} {tuple(state[key].shape)}, wanted {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{path} does not fit {type(model).__name__}: it {'; it '.join(problems[:3])}{more}: give the file of "
            "just this network, or the constructor's options that it was trained with"
        )
    model.load_state_dict({key: state.get(key, tensor) for key, tensor in own.items()})
