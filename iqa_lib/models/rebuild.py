"""What a model was built with, so that a run record can state it and the model can be rebuilt."""

import functools
import inspect
from importlib import import_module
from pathlib import Path

from torch import nn


def keeps_options(model: type[nn.Module]) -> type[nn.Module]:
    """Class decorator: an instance's `options` are the arguments that its constructor was given, by name."""
    build, signature = model.__init__, inspect.signature(model)

    @functools.wraps(build)
    def keeping(self, *args, **options):
        build(self, *args, **options)
        self.options = dict(signature.bind(*args, **options).arguments)

    model.__init__ = keeping
    return model


def described(model: nn.Module | None) -> dict | None:
    """A model's class and options, as JSON types; None for one without `options`."""
    if not hasattr(model, "options"):
        return None
    return {"class": type(model).__name__, "options": {name: _plain(value) for name, value in model.options.items()}}


def rebuilt(description: dict) -> nn.Module:
    """A model of that class and those options, in eval mode, with random weights: load its own next.

    ValueError if `iqa_lib.models` has no such class, or its options have changed.
    """
    name, options = description["class"], description["options"]
    options = {option: rebuilt(value) if isinstance(value, dict) else value for option, value in options.items()}
    if "." in name or name not in import_module("iqa_lib.models").__all__:
        raise ValueError(f"iqa_lib.models has no {name!r}: check out the commit that the run record names")
    build = getattr(import_module("iqa_lib.models"), name)
    known = inspect.signature(build).parameters
    if unknown := set(options) - set(known):
        raise ValueError(f"{name} has no option {sorted(unknown)}: check out the commit that the run record names")
    return build(**options | {option: "random" for option in known if option.endswith("weights")}).eval()


def _plain(value):
    if isinstance(value, nn.Module):
        return described(value)
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
