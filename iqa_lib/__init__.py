"""Five full-reference image quality assessment papers: networks, losses, data, and runs that reproduce tables.

`iqa_lib.score(reference, distorted, metric)` and `iqa_lib.prefer(reference, a, b, model)`: see `iqa_lib.lab.scoring`.
"""

from importlib import import_module

__version__ = "0.1.0"


def __getattr__(name: str):
    """`score` and `prefer` on first use, so that `import iqa_lib` stays light."""
    if name == "score":
        return import_module("iqa_lib.score")
    if name == "prefer":
        return import_module("iqa_lib.lab.scoring").prefer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
