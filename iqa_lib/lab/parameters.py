"""Parameters of a run: what a notebook declares, and checking values against it before any work."""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from iqa_lib.files import repo_root


class ParameterError(ValueError):
    """A parameter is unknown, of the wrong type or impossible; the message names each one, with what is wanted."""


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell: `name: type = default  # help`."""

    name: str
    type: type
    default: object
    help: str


def declared(notebook: str) -> dict[str, Parameter]:
    """The parameters of `notebooks/<notebook>.ipynb`, as its cell tagged `parameters` declares them."""
    cells = json.loads((repo_root() / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    lines, types = source.splitlines(), {"int": int, "float": float, "str": str, "bool": bool}
    return {
        node.target.id: Parameter(
            node.target.id,
            types[node.annotation.id],
            ast.literal_eval(node.value),
            lines[node.lineno - 1].partition("  # ")[2],
        )
        for node in ast.parse(source).body
    }


def validate(notebook: str, values: Mapping[str, object], choices: Mapping = {}, limits: Mapping = {}) -> dict:
    """Check parameter values against a notebook's declaration.

    Args:
        notebook: Name without ending, such as `"03_prfnet"`.
        values: Values by name; what is not given takes its default.
        choices: For text, the values there are.
        limits: For numbers, `(lowest, highest)`; without an entry, at least 0, and above 0 unless the default is 0 or
            the help text tells what 0 means (`0: all`).

    Returns:
        All parameters in the notebook's order.

    Raises:
        ParameterError: Lists all that is wrong.
    """
    known, wrong = declared(notebook), []
    for name in sorted(set(values) - set(known)):
        meant = "".join(f", did you mean {near}?" for near in get_close_matches(name, known, 1))
        wrong.append(f"{name}: unknown{meant}; {notebook} has {', '.join(known)}")
    resolved = {}
    for name, parameter in known.items():
        value = values.get(name, parameter.default)
        if parameter.type is str and type(value) is int:
            value = str(value)
        if parameter.type is float and type(value) is int:
            value = float(value)
        resolved[name] = value
        if type(value) is not parameter.type:
            hint = " (in YAML write 1.0e-4, not 1e-4)" if parameter.type is float and isinstance(value, str) else ""
            wrong.append(f"{name}: came {value!r}, a {type(value).__name__}, expected {parameter.type.__name__}{hint}")
        elif name in choices and value not in choices[name]:
            wrong.append(f"{name}: came {value!r}, expected one of {', '.join(map(repr, choices[name]))}")
        elif parameter.type in (int, float):
            low, high = limits.get(name, (0, float("inf")))
            zero_allowed = name in limits or parameter.default == 0 or "0: " in parameter.help
            if not low <= value <= high or (value == 0 and not zero_allowed):
                wrong.append(
                    f"{name}: came {value!r}, expected {'above 0' if name not in limits else f'{low} to {high}'}"
                )
    if wrong:
        raise ParameterError(f"parameters of {notebook}:\n  " + "\n  ".join(wrong))
    return resolved


def read_parameters(*files: Path | str) -> dict[str, object]:
    """Parameters from YAML files, the later ones going before the earlier."""
    merged = {}
    for file in files:
        merged |= yaml.safe_load(Path(file).read_text()) or {}
    return merged
