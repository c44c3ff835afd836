"""What `params/tables.yaml` asks for: the tables, the runs and seeds that each is made of, in which order, and how.

All that Snakemake needs to plan: reads YAML and imports nothing heavy.
"""

from functools import cache
from pathlib import Path

import yaml

from iqa_lib.files import repo_root
from iqa_lib.lab import records

FULL_SEEDS = 3
"""Trainings of a full model at demo scale, where they cost seconds: their spread is the noise of a training."""


@cache
def specifications() -> dict[str, dict]:
    """All tables by name."""
    return yaml.safe_load((repo_root() / "params" / "tables.yaml").read_text(encoding="utf-8"))


def columns(table: dict, scale: str) -> list[dict]:
    """A table's columns that a scale measures: demo scale those on the demo set, others the others with data."""
    measured = [column for column in table.get("columns", []) if "data" in column]
    return [column for column in measured if (column["data"] == "demo") == (scale == "demo")]


def runs_of(row: dict, table: dict, scale: str) -> list[str]:
    """The runs that a row's numbers are made of; none if no column is measured at this scale."""
    sets = [column["data"] for column in columns(table, scale)]
    named = [row["run"]] if "run" in row else row.get("ensemble", [])
    return [run for run in named if sets] + [row["runs"][name] for name in sets if name in row.get("runs", {})]


def full_runs(table: dict, scale: str) -> list[str]:
    """The runs of a table's full model (`full:`), but for one that packages carry no weights for at demo scale."""
    rows = [row for row in table.get("rows", []) if row["label"] == table.get("full")]
    return [run for row in rows if not (scale == "demo" and "needs" in row) for run in runs_of(row, table, scale)]


def lacks_weights(row: dict, table: dict, scale: str) -> bool:
    """Whether a row is left out at demo scale: it needs weights that no package carries, and is not run with them."""
    if "needs" not in row or scale != "demo":
        return False
    return not all(records.finished(scale, run) for run in runs_of(row, table, scale))


def wanted(table: dict, scale: str) -> list[str]:
    """The runs that a table is made of: those of its rows, but for rows that lack weights, and of its columns."""
    rows = [row for row in table.get("rows", []) if not lacks_weights(row, table, scale)]
    named = [run for row in rows for run in runs_of(row, table, scale)]
    return sorted({*named, *(column["run"] for column in columns(table, scale) if "run" in column)})


def seeds(run: str, scale: str, least: int) -> range:
    """The seeds of a run: `least`, but at demo scale at least `FULL_SEEDS` of a full model."""
    full = scale == "demo" and run in _full_models(scale)
    return range(max(least, FULL_SEEDS) if full else least)


def trainings(table: dict, scale: str, least: int) -> list[tuple[str, int]]:
    """The runs that a table is made of, each with each of its seeds."""
    return [(run, seed) for run in wanted(table, scale) for seed in seeds(run, scale, least)]


def findings(scale: str) -> dict[str, str]:
    """The run of each paper's full model at a scale, by the paper's name."""
    tables = [table for table in specifications().values() if "findings" in table]
    return {table["findings"]: run for table in tables for run in full_runs(table, scale)}


def priority(run: str, seed: int, scale: str) -> int:
    """3: a run of the table that shall be `first`; 2: a paper's full model; 1: its other seeds."""
    if any(run in wanted(table, scale) for table in specifications().values() if "first" in table):
        return 3
    return (2 if seed == 0 else 1) if run in findings(scale).values() else 0


def draws_all(run: str, seed: int, scale: str) -> bool:
    """Whether a run draws all figures of its notebook, and not only what its tables need.

    It does if it is a full model's first, or alone in its tables: without a full model beside it; and outside demo
    scale if a row asks for it (`draws`).
    """
    rows = [(table, row) for table in specifications().values() for row in table.get("rows", []) if "draws" in row]
    if scale != "demo" and seed == 0 and any(run in runs_of(row, table, scale) for table, row in rows):
        return True
    beside = {each for table in specifications().values() if "full" in table for each in wanted(table, scale)}
    return seed == 0 and (run in _full_models(scale) or run not in beside)


def parameter_files(run: str, scale: str) -> list[Path]:
    """The files of the scale's profile, the row, and the row at this scale, from the repository; those that exist."""
    notebook, row = run.split("/")
    files = (Path("params", notebook, file) for file in (f"{scale}.yaml", f"{row}.yaml", f"{scale}/{row}.yaml"))
    return [file for file in files if (repo_root() / file).exists()]


def command(run: str, scale: str) -> str:
    """The command that makes a run's record."""
    config = "" if scale == "demo" else f" --config scale={scale}"
    return f"snakemake --cores 2 {records.folder(scale, run, 0) / records.RECORD}{config}"


@cache
def _full_models(scale: str) -> set[str]:
    return {run for table in specifications().values() for run in full_runs(table, scale)}
