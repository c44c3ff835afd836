"""What `params/tables.yaml` asks for: the tables, the runs that each is made of, and the command that makes a run.

All that Snakemake needs to plan: reads YAML and imports nothing heavy.
"""

import yaml

from iqa_lib.files import repo_root
from iqa_lib.lab import records


def specifications() -> dict[str, dict]:
    """All tables by name."""
    return yaml.safe_load((repo_root() / "params" / "tables.yaml").read_text())


def wanted(table: dict, scale: str) -> list[str]:
    """The runs that a table is made of: at demo scale those of its demo columns, else those of the others."""
    rows, columns = (table.get(part, []) for part in ("rows", "columns"))
    shown = [column for column in columns if "data" in column and (column["data"] == "demo") == (scale == "demo")]
    if not shown:
        return []
    named = [part["run"] for part in (*rows, *shown) if "run" in part]
    named += [run for row in rows for run in row.get("ensemble", [])]
    named += [row["runs"][column["data"]] for row in rows for column in shown if column["data"] in row.get("runs", {})]
    return sorted(set(named))


def command(run: str, scale: str) -> str:
    """The command that makes a run's record."""
    config = "" if scale == "demo" else f" --config scale={scale}"
    return f"snakemake --cores 2 {records.folder(scale, run, 0) / records.RECORD}{config}"
