"""From run records to the papers' tables: the paper's value beside ours, as Markdown, CSV and a figure.

`python -m iqa_lib.tables SCALE TABLE ...` writes `outputs/<scale>/tables/<table>.md`, `.csv` and `.png`.
"""

import argparse
import json
from itertools import zip_longest
from pathlib import Path

import pandas as pd
import yaml

from iqa_lib import data, plots
from iqa_lib.baselines import BASELINES, REPORTED
from iqa_lib.evaluation import agreement
from iqa_lib.files import atomic, repo_root
from iqa_lib.metrics import Estimate

DEMO_NOTE = (
    "These are **demo numbers**: simulated labels on the embedded demo set, a small frozen trunk, minutes of training. "
    "They are not comparable with the paper's, which stand on {paper_data}."
)


CELL = ["row", "column", "paper", "ours", "low", "high", "n", "references", "source"]


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
        metric = row.get("metric", table["metric"])
        lines += [_line(row, record, metric) for record in found] or [_line(row, None, metric)]
    return pd.DataFrame(lines)


def comparison(table: dict, scale: str) -> pd.DataFrame:
    """A table of methods by columns (metric and data set), one line a cell: the paper's value, ours, and their source.

    Ours stands in a column only if it was made on just the data set and split that the column names.
    """
    lines = []
    for row in table["rows"]:
        for column, paper in zip_longest(table["columns"], row.get("paper", [])):
            ours, source = _ours(row, column, scale)
            line = {"row": row["label"], "column": column["name"], "paper": paper, "ours": None}
            if ours is not None:
                line |= {"ours": ours["value"]} | {key: ours[key] for key in ("low", "high", "n", "references")}
            lines.append(line | {"source": source})
    return pd.DataFrame(lines).reindex(columns=CELL)


def counts(table: dict, root: Path) -> pd.DataFrame:
    """A table of data sets: the paper's number of records beside what lies in `root`."""
    lines = []
    for row in table["counts"]:
        try:
            sizes = _sizes(data.load(row["data"], root / row["data"], split=row["split"]))
            found = " / ".join(str(sizes[what]) for what in table.get("sizes", ["records"]))
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
    elif "columns" in table:
        lines, notes = comparison(table, scale), [table["note"]]
        drawn = next((column for column, part in lines.groupby("column", sort=False) if part.ours.notna().any()), "")
        _draw(lines[lines.column == drawn], table["title"], drawn, scale, folder / f"{name}.png")
    else:
        lines, notes = results(table, scale), _notes(table, scale)
        _draw(lines.assign(row=_labels(lines)), table["title"], table["name"], scale, folder / f"{name}.png")
    with atomic(folder / f"{name}.csv") as temporary:
        lines.to_csv(temporary, index=False)
    with atomic(folder / f"{name}.md") as temporary:
        body = _markdown(_wide(lines) if "columns" in table else lines.drop(columns=["low", "high"], errors="ignore"))
        temporary.write_text("\n\n".join([f"# {table['title']}", *notes, body]) + "\n")
    return folder / f"{name}.md"


def _draw(lines: pd.DataFrame, title: str, measure: str, scale: str, path: Path) -> None:
    """A figure of ours with the intervals; none where nothing has been run."""
    shown = {
        row.row: Estimate(row.ours, row.low, row.high, row.n, row.references)
        for row in lines.itertuples()
        if pd.notna(row.ours)
    }
    if shown:
        with atomic(path) as temporary:
            figure = plots.metrics(shown, f"{title} ({scale} scale)", f"{measure} (higher is better)")
            figure.savefig(temporary, dpi=100)


def _ours(row: dict, column: dict, scale: str) -> tuple[dict | None, str]:
    """Our estimate of one cell, and where it comes from, or why there is none."""
    if "reported" in row:
        return None, f"reported: {REPORTED.get(row['reported'], row['reported'])}"
    if "data" not in column:
        return None, "labels not public"
    wanted = {"side": "test"} | column | {part: row[part] for part in ("split", "side") if part in row}
    if "ensemble" in row:
        return _ensemble(row["ensemble"], wanted, scale)
    run = row.get("runs", {}).get(column["data"], row.get("run", column.get("run")))
    record = next((record for record in records(scale, run) if _stands_on(record, wanted)), None)
    if record is None:
        return None, "not run"
    method = row.get("method", row.get("baseline"))
    side = "" if wanted["side"] == "test" else f" {wanted['side']}"
    found = record["metrics"].get(f"{column['metric']} {method}{side}")
    if found is None:
        absent = method in BASELINES and BASELINES[method].needs_weights
        return None, "needs weights: not here" if absent else "left out of the run, or undefined for a pair"
    return found, f"{method} in {run}, seed {record['parameters']['seed']}"


def _ensemble(runs: list[str], column: dict, scale: str) -> tuple[dict | None, str]:
    """Agreement of the mean of several runs' standardised predictions, where all were tested on the same records."""
    tables, fingerprints = [], set()
    for run in runs:
        record = next((record for record in records(scale, run) if _stands_on(record, column)), None)
        if record is None:
            return None, "not run"
        folder = repo_root() / "outputs" / scale / run / f"seed{record['parameters']['seed']}"
        table = pd.read_csv(folder / "predictions.csv")
        tables.append(table[table.side == column["side"]])
        fingerprints.add(record["data"][column["side"]]["fingerprint"])
    if len(fingerprints) > 1:
        return None, "the runs were tested on different records"
    scores = sum((table.prediction - table.prediction.mean()) / table.prediction.std() for table in tables)
    found = agreement(tables[0].assign(prediction=scores / len(tables)), column["metric"])
    return found.as_dict(), f"mean of z-scores of {' and '.join(runs)}"


def _stands_on(record: dict, column: dict) -> bool:
    """Whether a record was tested on the column's data set and, where one is named, just its split."""
    tested = record["data"].get(column["side"], {"name": "", "split": ""})
    return tested["name"] == column["data"] and tested["split"] == column.get("split", tested["split"])


def _sizes(dataset: data.IQADataset) -> dict[str, int]:
    return {
        "records": len(dataset),
        "references": len(set(dataset.reference_ids)),
        "types": len({kind for record in dataset.records if (kind := getattr(record, "kind", ""))}),
    }


def _wide(lines: pd.DataFrame) -> pd.DataFrame:
    """One line a method: under each column the paper's value and ours, where there are any, and what ours stands on."""
    methods = lines.row.unique()
    wide = {"method": methods}
    for column, part in lines.groupby("column", sort=False):
        if part.paper.notna().any():
            wide[f"{column}: paper"] = [_decimals(value) for value in part.paper]
        if part.ours.notna().any():
            wide[f"{column}: ours"] = [_interval(cell) for cell in part.itertuples()]
    sources = [lines[lines.row == method] for method in methods]
    return pd.DataFrame(wide | {"source": [_source(cells) for cells in sources]})


def _decimals(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}" if round(value, 3) == value else f"{value:.4f}"


def _interval(cell) -> str:
    return "" if pd.isna(cell.ours) else f"{cell.ours:.3f} [{cell.low:.3f}, {cell.high:.3f}]"


def _source(cells: pd.DataFrame) -> str:
    """What a method's cells of ours stand on; the reason where there are none."""
    told = cells[cells.ours.notna()] if cells.ours.notna().any() else cells[cells.source != "labels not public"]
    return "; ".join(told.source.unique())


def _line(row: dict, record: dict | None, metric: str) -> dict:
    line = {"row": row["label"], "paper": row["paper"]}
    if record is None:
        return line | {"ours": None, "interval": "not run", "low": None, "high": None}
    found, test = record["metrics"][metric], record["data"]["test"]
    return line | {
        "ours": found["value"],
        "interval": f"[{found['low']:.3f}, {found['high']:.3f}]",
        "low": found["low"],
        "high": found["high"],
        "n": found["n"],
        "references": found["references"],
        "data set": f"{test['name']} ({test['label']})",
        "weights": _weights(record["weights"]),
        "seed": record["parameters"]["seed"],
        "seconds": record["seconds"],
        "commit": (record["commit"] or "")[:8] + (" dirty" if record["dirty"] else ""),
        "run": row["run"],
    }


def _weights(weights: dict) -> str:
    """Which weights a record's numbers were made with, of one network or of several by name."""
    found = [weights] if "network" in weights else weights.values()
    return "; ".join(f"{one['network']}, {one['source']} {one['sha256'][:8]}".strip() for one in found)


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
