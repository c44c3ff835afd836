"""From run records to the papers' tables: the paper's value beside ours, as Markdown, CSV, HTML and a forest plot.

`python -m iqa_lib.lab.tables SCALE TABLE ...` writes `outputs/<scale>/tables/<table>.md`, `.csv`, `.html` and `.png`.
"""

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import mistune
import pandas as pd

from iqa_lib.baselines import BASELINES, REPORTED
from iqa_lib.files import atomic, repo_root
from iqa_lib.lab import kept, records
from iqa_lib.lab.plan import columns, command, lacks_weights, runs_of, specifications, wanted
from iqa_lib.metrics import (
    AGREEMENT,
    Estimate,
    agreement,
    difference_noise,
    main_score,
    mean_estimate,
    paired_difference,
    paired_noise,
    training_spread,
    two_afc_accuracy,
    verdict,
)

CELL = ["row", "column", "paper", "ours", "low", "high", "spread", "seeds", "n", "references", "source"]
DIFFERENCE = ["row", "column", "paper", "paper_noise", "paper_paired", "ours", "low", "high", "seeds", "training"]
DIFFERENCE += ["pairing", "verdict", "paper_verdict"]
RUN = ["run", "tested on", "weights", "seeds", "minutes", "memory in GB", "device", "commit", "command"]
MEASURES = {"srocc": "SROCC", "accuracy": "2AFC accuracy"}
"""The agreements that headlines and findings tell."""

DEMO_WARNING = (
    "**Values under “demo set” are demo numbers**: simulated labels on the embedded demo set, small networks or crops, "
    "seconds of training. They say nothing about the paper's numbers."
)
DIFFERENCES = (
    "Each row minus *{full}*{against}. Ours: the same images, paired bootstrap over references, 95 %. It **differs** "
    "if it is beyond both this interval and what another training of *{full}* changes (largest minus smallest over its "
    "seeds). Paper: the difference of the published numbers, and the half-width of its 95 % interval. That is not "
    "known without the predictions, so it stands twice: of two *independent* samples of n rows "
    "(`iqa_lib.metrics.difference_noise`), and *paired as ours*, as if the paper's two models answered as much alike "
    "as our own two do (`iqa_lib.metrics.paired_noise`). Beyond both the difference is real, within both it cannot be "
    "told from noise; everything else is open: only the predictions would tell."
)
ABBREVIATIONS = {
    "2AFC": "two-alternative forced choice: which of two distorted images is closer to the reference; accuracy is the "
    "share of human answers that a method predicts, 0.5 by guessing",
    "SROCC": "Spearman's rank correlation with human scores, 1 at best",
    "PLCC": "Pearson's linear correlation with them",
    "KROCC": "Kendall's rank correlation with them: pairs in the right order minus pairs in the wrong one",
    "RMSE": "root mean squared error",
    "MOS": "mean opinion score, the mean of human ratings",
    "FRP": "full-reference branch on a pretrained backbone that stays as it is",
    "FRNP": "full-reference branch on a backbone that learns from random weights",
    "NR": "no-reference branch: sees the distorted image alone",
    "MFM": "multi-metric fusion module: weighs the network's answer against classical metrics",
    "NRM": "nonlinear residual module: a learnt difference of features",
    "GLP": "gated local pooling",
}
PAGE = (
    "<!doctype html>\n<meta charset=utf-8>\n<style>body{font:14px sans-serif;margin:2em} "
    "table{border-collapse:collapse} td,th{padding:.2em .6em;text-align:left}</style>\n"
)
RUNS = "Minutes of wall time, all seeds together; memory is the largest peak of a run, on a GPU that of the GPU."


def comparison(table: dict, scale: str) -> pd.DataFrame:
    """One line a cell of a table (row by column, which is a metric on a data set): the paper's value, ours, its source.

    Ours appears only if it was measured on exactly the data set and split that the column names. Its interval is the
    bootstrap's over references, of several seeds the mean of theirs; `spread` is the noise of a training,
    `iqa_lib.metrics.training_spread` over the seeds, which holds what their splits change, too, if they have several.
    """
    lines = []
    for row in table["rows"]:
        for column, paper in zip_longest(table["columns"], row.get("paper", [])):
            ours, source = _ours(row, column, table, scale)
            lines.append({"row": row["label"], "column": column["name"], "paper": paper, **ours, "source": source})
    return pd.DataFrame(lines).reindex(columns=CELL)


def differences(table: dict, scale: str) -> pd.DataFrame:
    """Each row minus the table's full model (`full:`), one line a cell for which the paper or we have both numbers.

    A row may name another to be compared with, `against:`.
    Ours is the row's mean over seeds minus the full model's, paired: the same images, the same references in each
    resample. Where seeds were tested on different images, it is the mean over the seeds that both have. `training` is
    the full model's spread, `verdict` `iqa_lib.metrics.verdict`. At the column's `n`, `paper_noise` is
    `iqa_lib.metrics.difference_noise` and `paper_paired` `paired_noise` with our own `pairing` on that column, or else
    on another of the same metric; `paper_verdict` is what can be known from these two without the predictions.
    """
    lines, rows = [], {row["label"]: row for row in table["rows"]}
    for row in rows.values():
        other, pairings = rows[row.get("against", table["full"])], {}
        if row is other:
            continue
        ours = [_paired(row, other, column, scale) for column in table["columns"]]
        for column, found in zip(table["columns"], ours, strict=True):
            if "pairing" in found:
                pairings.setdefault(column["metric"], found["pairing"])
        for column, found, *papers in zip_longest(table["columns"], ours, row.get("paper", []), other["paper"]):
            line = {"row": row["label"], "column": column["name"]} | found
            if None not in papers:
                line["paper"] = papers[0] - papers[1]
                if "n" in column:
                    line |= _published_noise(column, papers, found.get("pairing", pairings.get(column["metric"])))
            lines.append(line)
    lines = pd.DataFrame(lines).reindex(columns=DIFFERENCE)
    lines = lines[lines.paper.notna() | lines.ours.notna()]
    return lines.assign(paper_verdict=[_papers_verdict(line) for line in lines.itertuples()])


def _published_noise(column: dict, papers: Sequence[float], pairing: float | None) -> dict[str, float]:
    noise = {"paper_noise": difference_noise(column["metric"], *papers, column["n"])}
    return noise | ({"paper_paired": paired_noise(column["metric"], *papers, column["n"], pairing)} if pairing else {})


def finished(table: dict, scale: str) -> pd.DataFrame:
    """What a table's finished runs were tested on, used and cost, one line a run, with the command that makes it."""
    lines = []
    for run in wanted(table, scale):
        if found := records.read_all(scale, run):
            last = found[-1]
            sides = [last["data"][name] for name in ("test", "cross") if name in last["data"]]
            tested = "; ".join(f"{side['name']}, {side['split']} ({side['label']})" for side in sides)
            minutes = round(sum(record["seconds"] for record in found) / 60, 1)
            memory = round(max(record["peak_memory_bytes"] for record in found) / 1e9, 1)
            commit = records.commit(last) + " (recorded without checksums)" * any("files" not in each for each in found)
            cost = len(found), minutes, memory, last["device"], commit, command(run, scale)
            lines.append((run, tested, weights_of(last), *cost))
    return pd.DataFrame(lines, columns=RUN)


def weights_of(record: dict) -> str:
    """The weights that a run's number stands on."""
    weights = record["weights"]
    networks = [weights] if "network" in weights else weights.values()  # of one network, or of several by name
    return "; ".join(f"{one['network']}, {one['source']} {one['sha256'][:8]}".strip() for one in networks)


def headline(name: str, scale: str) -> str:
    """A table in a line: the full model's number with its interval, then the best of the others, and SSIM's."""
    table = specifications()[name]
    title = re.match(r".*?(Table|Figure) \w+|.*", table["title"])[0]
    lines = comparison(table, scale)
    lines = lines[lines.ours.notna()]
    shown = [column for column in columns(table, scale) if column["name"] in set(lines.column)]
    if not shown:
        return f"{title}: no number of ours"
    column = next((column for column in shown if column["metric"] in MEASURES), shown[0])
    lines = lines[lines.column == column["name"]].sort_values("ours", ascending=False, kind="stable")
    lines = pd.concat([lines[lines.row == table.get("full")], lines[lines.row != table.get("full")]])
    first, *others = lines.itertuples()
    told = [f"{first.row} {first.ours:.3f} [{first.low:.3f}, {first.high:.3f}]"]
    told += [f"{cell.row} {cell.ours:.3f}" for cell in others[:4]] + [f"{len(others) - 4} more"] * (len(others) > 4)
    return f"{title}, {column['name']}: {', '.join(told)}{_ssim(table, first.row, column, scale)}"


def result(run: str, seed: int, scale: str) -> str:
    """A finished run's first number that a table shows, with its interval."""
    record = records.read(records.folder(scale, run, seed))
    for table in specifications().values():
        for column in columns(table, scale):
            for row in table["rows"]:
                named = run in runs_of(row, table, scale) or ("baseline" in row and column.get("run") == run)
                found = _recorded(record, _seen_by(row, column)) if named else None
                if found and column["metric"] in MEASURES:
                    told = f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
                    return f"{row.get('method', row.get('baseline'))}'s {MEASURES[column['metric']]} {told}"
    return "finished"


def counts(table: dict) -> pd.DataFrame:
    """A table of data sets: the paper's number of records beside the number in `data/`, or in the folder of `DATA`."""
    lines = []
    for row in table["counts"]:
        found = _counted(row, table.get("sizes", ["records"]))
        lines.append({"row": row["label"], "paper": row["paper"], "found": found, "remark": row["note"]})
    return pd.DataFrame(lines)


def _counted(row: dict, sizes: list[str]) -> str:
    root = Path(os.environ.get(records.DATA, repo_root() / "data")) / row["data"]
    if not root.is_dir():
        return "not found"
    from iqa_lib import data  # imports torch

    try:
        dataset = data.load(row["data"], root, split=row["split"])
    except data.DataError:
        return "not found"
    kinds = {kind for record in dataset.records if (kind := getattr(record, "kind", ""))}
    found = {"records": len(dataset), "references": len(set(dataset.reference_ids)), "types": len(kinds)}
    return " / ".join(str(found[what]) for what in sizes)


def sections(name: str, scale: str) -> dict[str, tuple[str, pd.DataFrame]]:
    """A table's parts by heading: a note, and the lines as text."""
    table = specifications()[name]
    if "counts" in table:
        return {table["title"]: ("Found: records under `data/`, see `python -m iqa_lib.data`.", counts(table))}
    lines = comparison(table, scale)
    demo = lines[lines.ours.notna()].column.str.contains("demo").any()
    words = " ".join([table["title"], table["note"], *lines.row, *lines.column])
    note = "\n\n".join([table["note"], *([DEMO_WARNING] if demo else []), *explained(words)])
    shown = {table["title"]: (note, _wide(lines, table.get("published", "paper")))}
    if "full" in table and len(compared := differences(table, scale)):
        named = {row["against"]: row["method"] for row in table["rows"] if "against" in row}
        against = "".join(f", but of {method} minus *{label}*" for label, method in named.items())
        shown["Differences"] = DIFFERENCES.format(full=table["full"], against=against), _wide_differences(compared)
    if len(made := finished(table, scale)):
        shown["Runs"] = RUNS, made
    if len(sent := kept.shown(table, scale)):
        shown["Kept records"] = kept.NOTE, sent
    return shown


def explained(words: str) -> list[str]:
    """What the abbreviations among these words stand for, in one paragraph, or none."""
    told = [f"**{short}**: {long}" for short, long in ABBREVIATIONS.items() if re.search(rf"\b{short}\b", words)]
    return [f"{'; '.join(told)}."] if told else []


def folder(scale: str) -> Path:
    """Where a scale's tables are."""
    return repo_root() / "outputs" / scale / "tables"


def text(name: str, scale: str) -> str:
    """A table as Markdown: its title as `#`, then its parts."""
    parts = [f"## {head}\n\n{note}\n\n{markdown(part)}" for head, (note, part) in sections(name, scale).items()]
    return "\n\n".join(parts)[1:] + "\n"


def write(name: str, scale: str) -> Path:
    """Make one table's files; returns the Markdown's path. A figure of its runs is made by `iqa_lib.lab.gallery`."""
    table, page = specifications()[name], text(name, scale)
    lines, figure = counts(table) if "counts" in table else comparison(table, scale), ""
    if "figure" in table:
        figure = f"\n![{table['title']}]({name}.png)" * (folder(scale) / f"{name}.png").exists()
    elif "ours" in lines and lines.ours.notna().any():
        from iqa_lib import plots

        with atomic(folder(scale) / f"{name}.png") as temporary:
            title, published = f"{table['title']} ({scale} scale)", table.get("published", "paper")
            plots.forest(lines, title, published).savefig(temporary, dpi=100)
        figure = f"\n![forest plot]({name}.png)"
    html = PAGE + mistune.create_markdown(plugins=["table"])(page + figure)
    for ending, content in (("csv", lines.to_csv(index=False)), ("html", html), ("md", page)):
        with atomic(folder(scale) / f"{name}.{ending}") as temporary:
            temporary.write_text(content, encoding="utf-8")
    return folder(scale) / f"{name}.md"


def _ours(row: dict, column: dict, table: dict, scale: str) -> tuple[dict, str]:
    """Our number in one cell, as in `comparison`, and its source; or nothing, and the reason."""
    if "reported" in row:
        return {}, f"reported: {REPORTED.get(row['reported'], row['reported'])}"
    if "data" not in column:
        return {}, "labels not public"
    if lacks_weights(row, table, scale):
        missing = next(run for run in runs_of(row, table, scale) if not records.finished(scale, run))
        return {}, f"{lacking(row)}; with a model hub: `{command(missing, scale)}`"
    column = _seen_by(row, column)
    if "ensemble" in row:
        return _ensemble(row["ensemble"], column, scale)
    run = row.get("runs", {}).get(column["data"], row.get("run", column.get("run")))
    found = [record for record in records.read_all(scale, run) if _tested_on(record, column)]
    damaged = "; ".join(records.damaged(scale, run))
    if not found:
        reason = records.failure(scale, run)
        return {}, damaged or (f"failed: {reason}" if reason else "not run")
    method = row.get("method", row.get("baseline"))
    estimates = [_recorded(record, column) for record in found]
    if None in estimates:
        pretrained = method in BASELINES and BASELINES[method].needs_weights
        return {}, "weights not found" if pretrained else "left out of the run, or undefined for a pair"
    given = found[-1]["parameters"]
    seeds = ", ".join(str(record["parameters"]["seed"]) for record in found)
    stated = f", {row['states']} {given[row['states']]}" if row.get("states") in given else ""
    source = f"{method} in {run}, seed{'s' * (len(found) > 1)} {seeds}{stated}"
    return over_seeds(estimates), f"{source}; not used: {damaged}" if damaged else source


def _seen_by(row: dict, column: dict) -> dict:
    """A column with a row's own side, split and metric, if it names any, and `key`, its number's name in records."""
    column = {"side": "test"} | column | {part: row[part] for part in ("split", "side") if part in row}
    column["side"] = row.get("sides", {}).get(column["data"], column["side"])
    column["metric"] = row.get("measures", {}).get(column["metric"], column["metric"])
    side = "" if column["side"] == "test" else f" {column['side']}"
    return column | {"key": f"{column['metric']} {row.get('method', row.get('baseline'))}{side}"}


def _recorded(record: dict, column: dict) -> dict | None:
    """A record's number for a column as `_seen_by` gives it; the main score is made from the predictions."""
    if column["metric"] != "main":
        return record["metrics"].get(column["key"])
    found = estimate(record["folder"], column["side"], "main")
    return found and found.as_dict()


def lacking(row: dict) -> str:
    """Why a row is not run at demo scale."""
    return f"not run at demo scale: needs {row['needs']}'s weights"


def _ssim(table: dict, label: str, column: dict, scale: str) -> str:
    """SSIM's agreement on the records of a row's first run, if that has it."""
    row = next(row for row in table["rows"] if row["label"] == label)
    for run in runs_of(row, table, scale):
        for record in records.read_all(scale, run):
            if ssim := record["metrics"].get(f"{column['metric']} SSIM"):
                return f"; SSIM {ssim['value']:.3f}"
    return ""


def over_seeds(estimates: Sequence[dict]) -> dict:
    """One cell from the estimates of several seeds, see `comparison`."""
    found = mean_estimate([Estimate(**estimate) for estimate in estimates], same_rows=False).as_dict()
    spread = training_spread([estimate["value"] for estimate in estimates])
    return found | {"ours": found["value"], "seeds": len(estimates), "spread": spread}


class Trained(NamedTuple):
    """One training's number, computed again from its predictions."""

    estimate: Estimate
    images: str  # fingerprint of the records that it was tested on
    record: dict
    answers: pd.Series  # what it predicted for each record


def recomputed(row: dict, column: dict, scale: str) -> dict[int, Trained]:
    """A row's number by seed, of those runs whose predictions give the recorded one."""
    column, found = _seen_by(row, column), {}
    for record in records.read_all(scale, row["run"]):
        recorded = _recorded(record, column)
        if recorded is None or not _tested_on(record, column):
            continue
        table = records.predictions(record["folder"], column["side"])
        method = row["method"] if row["method"] in table else "prediction"
        again = estimate(record["folder"], column["side"], column["metric"], method)
        if again is not None and abs(again.value - recorded["value"]) < 1e-4:
            images = record["data"][column["side"]]["fingerprint"]
            found[record["parameters"]["seed"]] = Trained(again, images, record, table[method])
    return found


def same_images(trained: Iterable[Trained]) -> bool:
    """Whether all were tested on the same records."""
    return len({each.images for each in trained}) == 1


def _paired(row: dict, full: dict, column: dict, scale: str) -> dict:
    """The part of a line of `differences` that is ours; empty unless both rows have numbers on the same images."""
    if "run" not in row or "data" not in column:
        return {}
    whole = recomputed(full, column, scale)
    ours = recomputed(row, column, scale) if whole else {}
    if not ours:
        return {}
    if same_images([*ours.values(), *whole.values()]):
        means = (mean_estimate([each.estimate for each in found.values()]) for found in (ours, whole))
        difference, seeds = paired_difference(*means), len(ours)
    else:
        both = [(ours[seed], whole[seed]) for seed in ours.keys() & whole.keys()]
        each = [paired_difference(a.estimate, b.estimate) for a, b in both if a.images == b.images]
        if not each:
            return {}
        difference, seeds = mean_estimate(each, same_rows=False), len(each)
    spread = training_spread([each.estimate.value for each in whole.values()])
    judged = {"seeds": seeds, "training": spread, "verdict": verdict(difference, spread)}
    if alike := [_pairing(column["metric"], ours[seed], whole[seed]) for seed in ours.keys() & whole.keys()]:
        judged["pairing"] = sum(alike) / len(alike)
    return {"ours": difference.value, "low": difference.low, "high": difference.high} | judged


def _pairing(measure: str, one: Trained, other: Trained) -> float:
    """How alike two trainings answer, as `iqa_lib.metrics.paired_noise` takes it."""
    if measure == "accuracy":
        return ((one.answers > 0.5) != (other.answers > 0.5)).mean()
    difference = paired_difference(one.estimate, other.estimate)
    independent = difference_noise(measure, one.estimate.value, other.estimate.value, one.estimate.n)
    return (difference.high - difference.low) / 2 / independent


def estimate(run_folder: Path, side: str, measure: str, method: str = "prediction") -> Estimate | None:
    """A run's agreement from its predictions, or from another metric's column beside them; None if there is none.

    The columns of metrics are named as in `BASELINES`: scores of pairs, as they are, or answers "B is closer" of
    triplets, where a tie is 0.5; other columns hold another answer of the network's, by method.
    """
    return _estimate(run_folder, (run_folder / records.PREDICTIONS).stat().st_mtime_ns, side, measure, method)


@cache
def _estimate(run_folder: Path, _changed: int, side: str, measure: str, method: str) -> Estimate | None:
    table = records.predictions(run_folder, side)
    if method not in table:
        return None
    if measure == "accuracy":
        ties = "half" if method in BASELINES else "a"
        return two_afc_accuracy(table[method], table.target, table.reference_id, ties=ties)
    sign = -1 if method in BASELINES and not BASELINES[method].higher_is_better else 1
    if measure == "main":
        return main_score(sign * table[method], table.target, table.reference_id)
    return agreement(table.assign(prediction=table[method]), measure, sign) if measure in AGREEMENT else None


def _ensemble(named: list[str], column: dict, scale: str) -> tuple[dict, str]:
    """Agreement of the mean of several runs' standardised predictions, if all were tested on the same records."""
    side, tables, images = column["side"], [], set()
    for run in named:
        record = next((record for record in records.read_all(scale, run) if _tested_on(record, column)), None)
        if record is None:
            return {}, "; ".join(records.damaged(scale, run)) or "not run"
        tables.append(records.predictions(record["folder"], side))
        images.add(record["data"][side]["fingerprint"])
    if len(images) > 1:
        return {}, "the runs were tested on different records"
    scores = sum((table.prediction - table.prediction.mean()) / table.prediction.std() for table in tables)
    found = agreement(tables[0].assign(prediction=scores / len(tables)), column["metric"])
    return over_seeds([found.as_dict()]), f"mean of z-scores of {' and '.join(named)}"


def _tested_on(record: dict, column: dict) -> bool:
    """Whether a record was tested on the column's data set, exactly its split if it names one, and its LIVE labels."""
    tested = record["data"].get(column["side"], {"name": "", "split": ""})
    labels = [given.get("live_dmos", "realigned") for given in (record["parameters"], column)]
    if column["data"] == "live" and len(set(labels)) > 1:
        return False
    return tested["name"] == column["data"] and tested["split"] == column.get("split", tested["split"])


def _wide(lines: pd.DataFrame, published: str) -> pd.DataFrame:
    """One line a row: the published value and ours under each column that has any, sample size and source."""
    wide, measured = {"method": lines.row.unique()}, lines[lines.ours.notna()]
    for column, part in lines.groupby("column", sort=False):
        if part.paper.notna().any():
            wide[f"{column}: {published}"] = _decimals(part.paper)
        if part.ours.notna().any():
            wide[f"{column}: ours"] = [interval(cell) for cell in part.itertuples()]
    sizes = {x.row: f"{x.n:.0f} ({x.references:.0f})" for x in measured.drop_duplicates("row").itertuples()}
    if sizes:
        wide["n (references)"] = [sizes.get(label, "") for label in wide["method"]]
    return pd.DataFrame(wide | {"source": [_source(lines[lines.row == label]) for label in wide["method"]]})


def _wide_differences(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines of `differences` as text, each with a verdict."""
    wide = lines[["row", "column"]].rename(columns={"row": "method"})
    wide["paper"] = [f"{x:+.4g}" if pd.notna(x) else "" for x in lines.paper.round(4)]
    for name, noise in {"independent": lines.paper_noise, "paired as ours": lines.paper_paired}.items():
        if noise.notna().any():
            wide[f"paper: noise, {name}"] = [f"± {x:.3f}" if pd.notna(x) else "" for x in noise]
    wide["paper: verdict"] = lines.paper_verdict
    wide["ours"] = [signed(line.ours, line.low, line.high) for line in lines.itertuples()]
    wide["one training moves by"] = [f"{x:.3f}" if pd.notna(x) else "" for x in lines.training]
    wide["ours: verdict"] = lines.verdict.astype(object).fillna("")
    return wide


def _papers_verdict(line) -> str:
    """What can be known of a published difference without the predictions; empty if its noise is not known."""
    if pd.isna(line.paper_noise):
        return ""
    beyond = {abs(line.paper) > noise for noise in (line.paper_noise, line.paper_paired) if pd.notna(noise)}
    if beyond == {True}:
        return "differs"
    return "within noise" if beyond == {False} and pd.notna(line.paper_paired) else "open"


def signed(value: float, low: float, high: float) -> str:
    """A difference with its interval; empty if there is none."""
    return "" if pd.isna(value) else f"{value:+.3f} [{low:.3f}, {high:.3f}]"


def _decimals(values: pd.Series) -> list[str]:
    """Published values of a column with as many decimals, 3 or 4, as the longest of them has."""
    places = 3 if values.isna().all() or (values.dropna().round(3) == values.dropna()).all() else 4
    return ["" if pd.isna(value) else f"{value:.{places}f}" for value in values]


def interval(cell) -> str:
    """A cell's number with its interval and what its seeds change; empty if there is none."""
    if pd.isna(cell.ours):
        return ""
    spread = f", {cell.seeds:.0f} seeds within {cell.spread:.3f}" if cell.seeds > 1 else ""
    return f"{cell.ours:.3f} [{cell.low:.3f}, {cell.high:.3f}]{spread}"


def _source(cells: pd.DataFrame) -> str:
    """Where a row's numbers of ours come from, or why there are none."""
    shown = cells[cells.ours.notna()] if cells.ours.notna().any() else cells[cells.source != "labels not public"]
    return "; ".join(shown.source.unique())


def markdown(lines: pd.DataFrame) -> str:
    """Text in lines and columns as a Markdown table, nothing cut."""
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
        print(f"\n{path.read_text(encoding='utf-8')}\n-> {path.relative_to(repo_root())}")


if __name__ == "__main__":
    main()
