"""Parameters of a run: what a notebook declares, and the check of values against it before any work.

A line of the cell tagged `parameters` declares one parameter, `name: type = default  # help`. A mark in front of the
help closes what is allowed:

    # {prf | fpn | bifpn} help    text: one of these; '' stands for the empty text
    # [0, 0.99] help              a number within these bounds, both included
    # [0, inf) help               a number of at least 0

Without a mark, text is free and numbers must be above 0.
"""

import ast
import io
import json
import math
import os
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from iqa_lib.files import repo_root

_CHOICES = re.compile(r"\{(.+?)\} ?(.*)")
_BOUNDS = re.compile(r"\[(-?\d+\.?\d*), (?:(-?\d+\.?\d*)\]|inf\)) ?(.*)")
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?")
SMALL_SCALES = ("smoke", "demo")
LARGEST = {"seed": 2**32 - 1, "split": 2**32 - 1, "lr": 10, "lr_1": 10, "lr_2": 10}
"""Of parameters whose declaration has no upper bound: what generators take, and beyond what nothing learns."""
_TYPES = {"int": int, "float": float, "str": str, "bool": bool}


class ParameterError(ValueError):
    """Parameters are unknown, of the wrong type or impossible; the message lists all of them."""


@dataclass(frozen=True)
class Parameter:
    """One declared parameter."""

    name: str
    type: type
    default: object
    help: str
    choices: tuple[str, ...] = ()  # none: any text
    low: float | None = None  # None: anything above 0
    high: float = math.inf

    def converted(self, value: object) -> object:
        """An int as the text or the float that is declared; anything else unchanged."""
        wide = type(value) is int and (self.type is str or (self.type is float and abs(value) < 2**63))
        return self.type(value) if wide else value

    def problem(self, value: object) -> str:
        """What is wrong with a value; empty if nothing is."""
        if type(value) is not self.type:
            hint = " (in YAML write 1.0e-4, not 1e-4)" if self.type is float and isinstance(value, str) else ""
            return f"got {value!r} ({type(value).__name__}), expected {self.type.__name__}{hint}"
        fits, allowed = True, ""
        if self.choices:
            fits, allowed = value in self.choices, f"one of {', '.join(map(repr, self.choices))}"
        elif self.type in (int, float) and self.low is None:
            fits, allowed = 0 < value < math.inf, "above 0" if value <= 0 else "a finite number above 0"
        elif self.type in (int, float):
            allowed = f"at least {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"
            fits = self.low <= value <= self.high and value < math.inf
        return "" if fits else f"got {value!r}, expected {allowed}"


def declared(notebook: str) -> dict[str, Parameter]:
    """The parameters that a notebook (such as `"03_prfnet"`) declares, by name, in its order.

    A mark that cannot be read, or that excludes the default, raises ParameterError.
    """
    cells = json.loads((repo_root() / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    return declarations(source)


def declarations(source: str) -> dict[str, Parameter]:
    """What `declared` returns, from the source of the cell."""
    tokens, found = tokenize.generate_tokens(io.StringIO(source).readline), {}
    helps = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.parse(source).body:
        name, kind, default = node.target.id, _TYPES[node.annotation.id], ast.literal_eval(node.value)
        found[name] = _declaration(name, kind, default, helps.get(node.lineno, ""))
    return found


def _declaration(name: str, kind: type, default: object, text: str) -> Parameter:
    limits = {}
    if kind is str and (mark := _CHOICES.fullmatch(text)):
        text, limits = mark[2], {"choices": tuple(choice.strip().replace("''", "") for choice in mark[1].split("|"))}
    elif kind in (int, float) and (mark := _BOUNDS.fullmatch(text)):
        text, limits = mark[3], {"low": float(mark[1]), "high": float(mark[2] or "inf")}
    elif text.startswith(("{", "[", "(")):
        raise ParameterError(f"{name}: got the mark {text!r}, expected {{a | b}} for text, [low, high] for numbers")
    parameter = Parameter(name, kind, default, text, **limits)
    if problem := parameter.problem(default):
        raise ParameterError(f"{name}: the default does not fit its declaration: {problem}")
    return parameter


def validate(notebook: str, values: Mapping[str, object]) -> dict[str, object]:
    """A notebook's parameters in its order: the values given, else defaults. ParameterError lists all wrong ones."""
    known, wrong = declared(notebook), []
    for name in sorted(set(values) - set(known), key=str):
        meant = "".join(f", did you mean {near}?" for near in get_close_matches(str(name), known, 1)) or "."
        wrong.append(f"{name}: unknown{meant} {notebook} has {', '.join(known)}")
    resolved = {name: each.converted(values.get(name, each.default)) for name, each in known.items()}
    wrong += [f"{name}: {problem}" for name, each in known.items() if (problem := each.problem(resolved[name]))]
    wrong += [] if wrong else _together(resolved)
    if (scale := resolved.get("scale")) in SMALL_SCALES:
        todo = "real weights: give 'packaged', 'auto' or a file, or another scale such as scale='trial'"
        random = (name for name, value in resolved.items() if name.endswith("weights") and value == "random")
        wrong += [f"{name}: got 'random' at {scale} scale, expected {todo}" for name in random]
    if wrong:
        raise ParameterError(f"parameters of {notebook}:\n  " + "\n  ".join(wrong))
    return resolved


def _together(values: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with values that each fit their declaration: as names of folders, with others, on this machine."""
    for name in {"scale", "row"} & values.keys():
        if not _NAME.fullmatch(values[name]) or values[name].lower() == "steps":
            allowed = "a name that begins with a letter, of letters, digits, '_', '-' and '.', and is not 'steps'"
            yield f"{name}: got {values[name]!r}, expected {allowed}: it becomes a folder in outputs/"
    for name, value in values.items():
        if name in LARGEST and not isinstance(value, str) and value > LARGEST[name]:
            yield f"{name}: got {value}, expected at most {LARGEST[name]}"
    if "accumulate" in values and values["batch_size"] % values["accumulate"]:
        yield f"accumulate: got {values['accumulate']}, expected a divisor of batch_size ({values['batch_size']})"
    for name in {"crop", "test_crop"} & values.keys():
        count = min(values["max_batch"], values.get(name + "_count", values.get("test_crop_count", 1)))
        needed, memory = 36 * values[name] ** 2 * count, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > memory / 2:
            got = f"{count} crops of {values[name]} px at once, about {needed / 1e9:.0f} GB with their maps"
            yield f"{name}: got {got}, expected at most half of this machine's {memory / 1e9:.0f} GB: lower {name}"


def crops_of_test(parameters: Mapping[str, object]) -> dict[str, object]:
    """Options of `iqa_lib.views.Crops` by which a run is tested: whole images as they are if it states no crops."""
    if "test_crops" not in parameters:
        return {"protocol": "whole"}
    size = parameters.get("test_crop", parameters.get("crop", 0))
    return {"protocol": parameters["test_crops"], "size": size, "count": parameters.get("test_crop_count", 1)}


def read_parameters(*files: Path | str) -> dict[str, object]:
    """Parameters from YAML files; later files override earlier ones."""
    merged = {}
    for file in files:
        merged |= yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    return merged
