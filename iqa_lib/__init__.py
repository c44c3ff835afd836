"""Five full-reference image quality assessment papers: networks, losses, data, and runs that reproduce tables.

`iqa_lib.score(reference, distorted, metric)` and `iqa_lib.prefer(reference, a, b, model)`: see `iqa_lib.lab.scoring`.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`score` and `prefer` on first use, so that `import iqa_lib` stays light."""
    if name in ("score", "prefer"):
        from iqa_lib.lab import scoring

        return getattr(scoring, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
