"""From run records to the papers' tables: the paper's value beside ours, as Markdown, CSV, HTML and a forest plot.

`python -m iqa_lib.lab.tables SCALE TABLE ...` writes `outputs/<scale>/tables/<table>.md`, `.csv`, `.html` and `.png`.
"""

import argparse
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

import mistune
import numpy as np
import pandas as pd
from scipy.stats import t as student

from iqa_lib.baselines import BASELINES, REPORTED
from iqa_lib.files import atomic, repo_root
from iqa_lib.lab import records
from iqa_lib.lab.plan import command, specifications, wanted
from iqa_lib.metrics import AGREEMENT, Estimate, agreement, difference_noise, paired_difference, two_afc_accuracy

CELL = ["row", "column", "paper", "ours", "low", "high", "spread", "seeds", "n", "references", "source"]
DIFFERENCE = ["row", "column", "paper", "paper_noise", "ours", "low", "high", "spread", "seeds"]
RUN = ["run", "tested on", "weights", "seeds", "minutes", "memory in GB", "device", "commit", "command"]

DEMO_WARNING = (
    "**Values under “demo set” are demo numbers**: simulated labels on the embedded demo set, small networks or crops, "
    "minutes of training. They show that the row runs, and say nothing about the paper's numbers."
)
DIFFERENCES = (
    "Each row minus *{full}*. Ours: the same images, paired bootstrap over references, 95 %. Paper: the difference of "
    "the published numbers, and the half-width of its 95 % interval if both came from independent samples of n rows "
    "(`iqa_lib.metrics.difference_noise`): without the predictions, a smaller difference cannot be told from noise."
)
PAGE = (
    "<!doctype html>\n<meta charset=utf-8>\n<style>body{font:14px sans-serif;margin:2em} "
    "table{border-collapse:collapse} td,th{padding:.2em .6em;text-align:left}</style>\n"
)
RUNS = "Minutes of wall time, all seeds together; memory is the largest peak of a run, on a GPU that of the GPU."


def comparison(table: dict, scale: str) -> pd.DataFrame:
    """One line a cell of a table (row by column, which is a metric on a data set): the paper's value, ours, its source.

    Ours appears only if it was measured on exactly the data set and split that the column names. With one seed the
    interval is the bootstrap's over references; with several, `ours` is their mean, `spread` their standard deviation
    and the interval Student's for the mean, which includes what differs between seeds, the split too.
    """
    lines = []
    for row in table["rows"]:
        for column, paper in zip_longest(table["columns"], row.get("paper", [])):
            ours, source = _ours(row, column, scale)
            lines.append({"row": row["label"], "column": column["name"], "paper": paper, **ours, "source": source})
    return pd.DataFrame(lines).reindex(columns=CELL)


def differences(table: dict, scale: str) -> pd.DataFrame:
    """Each row minus the table's full model (`full:`), one line a cell for which the paper or we have both numbers.

    Ours is paired: the same images, the same references in each resample, seed by seed. `paper_noise` is
    `iqa_lib.metrics.difference_noise` at the column's `n`.
    """
    lines, rows = [], {row["label"]: row for row in table["rows"]}
    full = rows.pop(table["full"])
    for row in rows.values():
        for column, *papers in zip_longest(table["columns"], row.get("paper", []), full["paper"]):
            line = {"row": row["label"], "column": column["name"]}
            if None not in papers:
                line["paper"] = papers[0] - papers[1]
                if "n" in column:
                    line["paper_noise"] = difference_noise(column["metric"], *papers, column["n"])
            lines.append(line | _over_seeds(_paired(row, full, column, scale)))
    lines = pd.DataFrame(lines).reindex(columns=DIFFERENCE)
    return lines[lines.paper.notna() | lines.ours.notna()]


def finished(table: dict, scale: str) -> pd.DataFrame:
    """What a table's finished runs were tested on, used and cost, one line a run, with the command that makes it."""
    lines = []
    for run in wanted(table, scale):
        if found := records.read_all(scale, run):
            last, weights = found[-1], found[-1]["weights"]
            sides = [last["data"][name] for name in ("test", "cross") if name in last["data"]]
            tested = "; ".join(f"{side['name']}, {side['split']} ({side['label']})" for side in sides)
            networks = [weights] if "network" in weights else weights.values()  # of one network, or of several by name
            used = "; ".join(f"{one['network']}, {one['source']} {one['sha256'][:8]}".strip() for one in networks)
            minutes = round(sum(record["seconds"] for record in found) / 60, 1)
            memory = round(max(record["peak_memory_bytes"] for record in found) / 1e9, 1)
            commit = (last["commit"] or "")[:8] + (" dirty" if last["dirty"] else "")
            cost = len(found), minutes, memory, last["device"], commit, command(run, scale)
            lines.append((run, tested, used, *cost))
    return pd.DataFrame(lines, columns=RUN)


def overview(scale: str) -> pd.DataFrame:
    """All tables: how many runs of this scale each needs, how many are finished, which failed and why."""
    lines = []
    for name, table in specifications().items():
        needed = wanted(table, scale)
        failed = [f"{run}: {reason}" for run in needed if (reason := records.failure(scale, run))]
        done = sum(bool(records.finished(scale, run)) for run in needed)
        lines.append({"table": name, "runs": len(needed), "finished": done, "failed": "; ".join(failed)})
    return pd.DataFrame(lines)


def counts(table: dict) -> pd.DataFrame:
    """A table of data sets: the paper's number of records beside the number in `data/`."""
    from iqa_lib import data  # imports torch, which no other table needs

    lines = []
    for row in table["counts"]:
        try:
            dataset = data.load(row["data"], repo_root() / "data" / row["data"], split=row["split"])
            kinds = {kind for record in dataset.records if (kind := getattr(record, "kind", ""))}
            sizes = {"records": len(dataset), "references": len(set(dataset.reference_ids)), "types": len(kinds)}
            found = " / ".join(str(sizes[what]) for what in table.get("sizes", ["records"]))
        except data.DataError:
            found = "not found"
        lines.append({"row": row["label"], "paper": row["paper"], "found": found, "remark": row["note"]})
    return pd.DataFrame(lines)


def sections(name: str, scale: str) -> dict[str, tuple[str, pd.DataFrame]]:
    """A table's parts by heading: a note, and the lines as text."""
    table = specifications()[name]
    if "counts" in table:
        return {table["title"]: ("Found: records under `data/`, see `python -m iqa_lib.data`.", counts(table))}
    lines = comparison(table, scale)
    demo = lines[lines.ours.notna()].column.str.contains("demo").any()
    shown = {table["title"]: ("\n\n".join([table["note"], *([DEMO_WARNING] if demo else [])]), _wide(lines))}
    if "full" in table:
        shown["Differences"] = DIFFERENCES.format(full=table["full"]), _wide_differences(differences(table, scale))
    if len(made := finished(table, scale)):
        shown["Runs"] = RUNS, made
    return shown


def write(name: str, scale: str) -> Path:
    """Make one table's files; returns the Markdown's path."""
    table, folder, shown = specifications()[name], repo_root() / "outputs" / scale / "tables", sections(name, scale)
    lines = counts(table) if "counts" in table else comparison(table, scale)
    parts = [f"## {heading}\n\n{note}\n\n{_markdown(part)}" for heading, (note, part) in shown.items()]
    parts[0], figure = parts[0][1:], []
    if "ours" in lines and lines.ours.notna().any():
        from iqa_lib import plots

        with atomic(folder / f"{name}.png") as temporary:
            plots.forest(lines, f"{table['title']} ({scale} scale)").savefig(temporary, dpi=100)
        figure = [f"![forest plot]({name}.png)"]
    page = PAGE + mistune.create_markdown(plugins=["table"])("\n\n".join(parts + figure))
    for ending, text in (("csv", lines.to_csv(index=False)), ("html", page), ("md", "\n\n".join(parts) + "\n")):
        with atomic(folder / f"{name}.{ending}") as temporary:
            temporary.write_text(text)
    return folder / f"{name}.md"


def _ours(row: dict, column: dict, scale: str) -> tuple[dict, str]:
    """Our number in one cell, as in `comparison`, and its source; or nothing, and the reason."""
    if "reported" in row:
        return {}, f"reported: {REPORTED.get(row['reported'], row['reported'])}"
    if "data" not in column:
        return {}, "labels not public"
    column = _seen_by(row, column)
    if "ensemble" in row:
        return _ensemble(row["ensemble"], column, scale)
    run = row.get("runs", {}).get(column["data"], row.get("run", column.get("run")))
    found = [record for record in records.read_all(scale, run) if _tested_on(record, column)]
    if not found:
        reason = records.failure(scale, run)
        return {}, f"failed: {reason}" if reason else "not run"
    method = row.get("method", row.get("baseline"))
    estimates = [record["metrics"].get(column["key"]) for record in found]
    if None in estimates:
        pretrained = method in BASELINES and BASELINES[method].needs_weights
        return {}, "weights not found" if pretrained else "left out of the run, or undefined for a pair"
    seeds = ", ".join(str(record["parameters"]["seed"]) for record in found)
    return _over_seeds(estimates), f"{method} in {run}, seed{'s' * (len(found) > 1)} {seeds}"


def _seen_by(row: dict, column: dict) -> dict:
    """A column on the side and split that a row may name of its own, and `key`, its number's name in run records."""
    column = {"side": "test"} | column | {part: row[part] for part in ("split", "side") if part in row}
    side = "" if column["side"] == "test" else f" {column['side']}"
    return column | {"key": f"{column['metric']} {row.get('method', row.get('baseline'))}{side}"}


def _over_seeds(estimates: Sequence[dict]) -> dict:
    """One cell from the estimates of several seeds, see `comparison`; empty if there are none."""
    if not estimates:
        return {}
    cell = {**estimates[0], "ours": estimates[0]["value"], "seeds": len(estimates)}
    if len(estimates) == 1:
        return cell
    values = np.array([estimate["value"] for estimate in estimates])
    mean, spread = values.mean(), values.std(ddof=1)
    half = student.ppf(0.975, len(values) - 1) * spread / np.sqrt(len(values))
    return cell | {"ours": mean, "low": mean - half, "high": mean + half, "spread": spread}


def _paired(row: dict, full: dict, column: dict, scale: str) -> list[dict]:
    """A row's number minus the full model's on the same images, one a seed that both have."""
    if "run" not in row or "data" not in column:
        return []
    ours, whole = ({r["parameters"]["seed"]: r for r in records.read_all(scale, one["run"])} for one in (row, full))
    found = []
    for seed in sorted(ours.keys() & whole.keys()):
        both = (row, ours[seed]), (full, whole[seed])
        estimates = [_recomputed(*one, column) for one in both]
        if None in estimates:
            continue
        images = {record["data"][_seen_by(one, column)["side"]]["fingerprint"] for one, record in both}
        if len(images) == 1:
            found.append(paired_difference(*estimates).as_dict())
    return found


def _recomputed(row: dict, record: dict, column: dict) -> Estimate | None:
    """A cell's number computed again from the predictions; None if these do not give the recorded value."""
    column = _seen_by(row, column)
    recorded = record["metrics"].get(column["key"])
    if recorded is None or not _tested_on(record, column):
        return None
    changed = (record["folder"] / records.PREDICTIONS).stat().st_mtime_ns
    found = _estimate(record["folder"], changed, column["side"], column["metric"])
    return found if found is not None and abs(found.value - recorded["value"]) < 1e-4 else None


@cache
def _estimate(folder: Path, _changed: int, side: str, measure: str) -> Estimate | None:
    table = records.predictions(folder, side)
    if measure == "accuracy":
        return two_afc_accuracy(table.prediction, table.target, table.reference_id)
    return agreement(table, measure) if measure in AGREEMENT else None


def _ensemble(named: list[str], column: dict, scale: str) -> tuple[dict, str]:
    """Agreement of the mean of several runs' standardised predictions, if all were tested on the same records."""
    side, tables, images = column["side"], [], set()
    for run in named:
        record = next((record for record in records.read_all(scale, run) if _tested_on(record, column)), None)
        if record is None:
            return {}, "not run"
        tables.append(records.predictions(record["folder"], side))
        images.add(record["data"][side]["fingerprint"])
    if len(images) > 1:
        return {}, "the runs were tested on different records"
    scores = sum((table.prediction - table.prediction.mean()) / table.prediction.std() for table in tables)
    found = agreement(tables[0].assign(prediction=scores / len(tables)), column["metric"])
    return _over_seeds([found.as_dict()]), f"mean of z-scores of {' and '.join(named)}"


def _tested_on(record: dict, column: dict) -> bool:
    """Whether a record was tested on the column's data set and, if it names one, exactly its split."""
    tested = record["data"].get(column["side"], {"name": "", "split": ""})
    return tested["name"] == column["data"] and tested["split"] == column.get("split", tested["split"])


def _wide(lines: pd.DataFrame) -> pd.DataFrame:
    """One line a row: the paper's value and ours under each column that has any, sample size and source."""
    wide, measured = {"method": lines.row.unique()}, lines[lines.ours.notna()]
    for column, part in lines.groupby("column", sort=False):
        if part.paper.notna().any():
            wide[f"{column}: paper"] = [_decimals(value) for value in part.paper]
        if part.ours.notna().any():
            wide[f"{column}: ours"] = [_interval(cell) for cell in part.itertuples()]
    sizes = {x.row: f"{x.n:.0f} ({x.references:.0f})" for x in measured.drop_duplicates("row").itertuples()}
    if sizes:
        wide["n (references)"] = [sizes.get(label, "") for label in wide["method"]]
    return pd.DataFrame(wide | {"source": [_source(lines[lines.row == label]) for label in wide["method"]]})


def _wide_differences(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines of `differences` as text, each with a verdict."""
    wide = lines[["row", "column"]].rename(columns={"row": "method"})
    wide["paper"] = [f"{x:+.4g}" if pd.notna(x) else "" for x in lines.paper.round(4)]
    wide["paper: noise"] = [f"± {x:.3f}" if pd.notna(x) else "" for x in lines.paper_noise]
    wide["paper: verdict"] = [_verdict(abs(x.paper) > x.paper_noise, x.paper_noise) for x in lines.itertuples()]
    wide["ours"] = [_interval(cell, signed=True) for cell in lines.itertuples()]
    wide["ours: verdict"] = [_verdict(x.low > 0 or x.high < 0, x.low) for x in lines.itertuples()]
    return wide


def _verdict(larger: bool, known: float) -> str:
    return "" if pd.isna(known) else "differs" if larger else "within noise"


def _decimals(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}" if round(value, 3) == value else f"{value:.4f}"


def _interval(cell, signed: bool = False) -> str:
    if pd.isna(cell.ours):
        return ""
    spread = f" ± {cell.spread:.3f} over {cell.seeds:.0f} seeds" if cell.seeds > 1 else ""
    return f"{cell.ours:{'+' if signed else ''}.3f}{spread} [{cell.low:.3f}, {cell.high:.3f}]"


def _source(cells: pd.DataFrame) -> str:
    """Where a row's numbers of ours come from, or why there are none."""
    shown = cells[cells.ours.notna()] if cells.ours.notna().any() else cells[cells.source != "labels not public"]
    return "; ".join(shown.source.unique())


def _markdown(lines: pd.DataFrame) -> str:
    rows = [lines.columns, ["---"] * len(lines.columns), *(map(_text, row) for row in lines.values)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value).replace("|", "\\|").replace("\n", " ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.lab.tables", description=__doc__.splitlines()[0])
    parser.add_argument("scale", help="folder in outputs/, such as demo")
    parser.add_argument("tables", nargs="*", help="names in params/tables.yaml; without any, all")
    arguments = parser.parse_args()
    for name in arguments.tables or specifications():
        path = write(name, arguments.scale)
        print(f"\n{path.read_text()}\n-> {path.relative_to(repo_root())}")


if __name__ == "__main__":
    main()
