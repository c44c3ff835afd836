"""From run records to the papers' tables: the paper's value beside ours, as Markdown, CSV and a figure.

`python -m iqa_lib.tables SCALE TABLE ...` writes `outputs/<scale>/tables/<table>.md`, `.csv` and `.png`.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
import yaml

from iqa_lib import data, plots
from iqa_lib.files import atomic, repo_root
from iqa_lib.metrics import Estimate

DEMO_NOTE = (
    "These are **demo numbers**: simulated labels on the embedded demo set, a small frozen trunk, minutes of training. "
    "They are not comparable with the paper's, which stand on {paper_data}."
)


def specifications() -> dict[str, dict]:
    """All tables of `params/tables.yaml`."""
    return yaml.safe_load((repo_root() / "params" / "tables.yaml").read_text())


def records(scale: str, run: str) -> list[dict]:
    """The finished records of a row, one a seed; none if it has not been run."""
    found = sorted((repo_root() / "outputs" / scale / run).glob("seed*/run.json"))
    return [json.loads(path.read_text()) for path in found]


def results(table: dict, scale: str) -> pd.DataFrame:
    """A table of runs: label, the paper's value, ours with its interval, and what it stands on; one line a seed."""
    lines = []
    for row in table["rows"]:
        found = records(scale, row["run"])
        lines += [_line(row, record, table["metric"]) for record in found] or [_line(row, None, table["metric"])]
    return pd.DataFrame(lines)


def counts(table: dict, root: Path) -> pd.DataFrame:
    """A table of data sets: the paper's number of records beside what lies in `root`."""
    lines = []
    for row in table["counts"]:
        try:
            found = str(len(data.load(row["data"], root / row["data"], split=row["split"])))
        except data.DataError:
            found = "not here"
        lines.append({"row": row["label"], "paper": row["paper"], "found": found, "remark": row["note"]})
    return pd.DataFrame(lines)


def write(name: str, scale: str) -> Path:
    """Make one table's files; returns the Markdown's path."""
    table, folder = specifications()[name], repo_root() / "outputs" / scale / "tables"
    if "counts" in table:
        lines, notes = (
            counts(table, repo_root() / "data"),
            ["Found: records under `data/`, see `python -m iqa_lib.data`."],
        )
    else:
        lines, notes = results(table, scale), _notes(table, scale)
        shown = {
            label: Estimate(row.ours, row.low, row.high, row.n, row.references)
            for label, row in zip(_labels(lines), lines.itertuples(), strict=True)
            if pd.notna(row.ours)
        }
        if shown:
            with atomic(folder / f"{name}.png") as temporary:
                title = f"{table['title']} ({scale} scale)"
                plots.metrics(shown, title, f"{table['name']} (higher is better)").savefig(temporary, dpi=100)
    with atomic(folder / f"{name}.csv") as temporary:
        lines.to_csv(temporary, index=False)
    with atomic(folder / f"{name}.md") as temporary:
        body = _markdown(lines.drop(columns=["low", "high"], errors="ignore"))
        temporary.write_text("\n\n".join([f"# {table['title']}", *notes, body]) + "\n")
    return folder / f"{name}.md"


def _line(row: dict, record: dict | None, metric: str) -> dict:
    line = {"row": row["label"], "paper": row["paper"]}
    if record is None:
        return line | {"ours": None, "interval": "not run", "low": None, "high": None}
    found, test = record["metrics"][metric], record["data"]["test"]
    weights = record["weights"]
    return line | {
        "ours": found["value"],
        "interval": f"[{found['low']:.3f}, {found['high']:.3f}]",
        "low": found["low"],
        "high": found["high"],
        "n": found["n"],
        "references": found["references"],
        "data set": f"{test['name']} ({test['label']})",
        "weights": f"{weights['network']}, {weights['source']} {weights['sha256'][:8]}".strip(),
        "seed": record["parameters"]["seed"],
        "seconds": record["seconds"],
        "commit": (record["commit"] or "")[:8] + (" dirty" if record["dirty"] else ""),
        "run": row["run"],
    }


def _labels(lines: pd.DataFrame) -> list[str]:
    """Row labels, with the seed where a row has several."""
    repeated = lines.row.duplicated(keep=False)
    return [
        f"{line.row} (seed {line.seed:.0f})" if many else line.row
        for line, many in zip(lines.itertuples(), repeated, strict=True)
    ]


def _notes(table: dict, scale: str) -> list[str]:
    demo = any(
        record["data"]["test"]["name"] == "demo" for row in table["rows"] for record in records(scale, row["run"])
    )
    what = f"{table['name']}, higher is better. The paper's values: {table['paper_data']}. "
    what += "Intervals: 95 %, bootstrap over references."
    return [what] + ([DEMO_NOTE.format(paper_data=table["paper_data"])] if demo else [])


def _markdown(lines: pd.DataFrame) -> str:
    def text(value: object) -> str:
        if pd.isna(value):
            return ""
        return (f"{value:.3f}" if abs(value) < 1 else f"{value:g}") if isinstance(value, float) else str(value)

    rows = [
        list(lines.columns),
        ["---"] * len(lines.columns),
        *([text(value) for value in row] for row in lines.values),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.tables", description=__doc__.splitlines()[0])
    parser.add_argument("scale", help="folder in outputs/, such as demo")
    parser.add_argument("tables", nargs="*", help="names in params/tables.yaml; all if none is given")
    arguments = parser.parse_args()
    for name in arguments.tables or specifications():
        path = write(name, arguments.scale)
        print(f"\n{path.read_text()}\n-> {path.relative_to(repo_root())}")


if __name__ == "__main__":
    main()
