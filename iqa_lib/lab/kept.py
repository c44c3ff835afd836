"""Records that stay: `outputs/records/`, in git, holds what others and we reached at paper scale, without weights.

`python -m iqa_lib.lab.records add RUN_FOLDER` keeps a finished run's record and its predictions, compressed. All that
can be is computed anew from the predictions: the agreements, and the fingerprint and size of what was tested, which
must be a whole side of the data set. What does not follow from its predictions is refused.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from datetime import date
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from iqa_lib.baselines import BASELINES
from iqa_lib.files import atomic, read_table, repo_root
from iqa_lib.lab import plan, records
from iqa_lib.lab.parameters import read_parameters, validate
from iqa_lib.metrics import AGREEMENT, Estimate, paired_difference, two_afc_accuracy

if TYPE_CHECKING:
    from iqa_lib.data.folder import Origin

PREDICTIONS = "predictions.csv.xz"
TESTED = ("test", "cross")
TOLERANCE = 1e-4  # of an agreement, whose logistic fit moves with versions and machines
KEYS = ("notebook", "parameters", "data", "weights", "steps", "seconds", "peak_memory_bytes", "device", "instructions")
KEYS += ("python", "versions", "code", "commit", "dirty")
METHODS = {"02_iqa_tmfm": "IQA-TMFM", "03_prfnet": "PRFNet", "04_ahiq": "AHIQ", "05_fr_nr": "FR+NR"}
METHODS |= {"06_topiq": "CFANet", "06_lpips_plus": "LPIPS+"}
"""The method whose answers are a notebook's column `prediction`."""
LOCAL = {"seed", "split", "data_root", "precision", "workers", "max_batch", "save_every", "compile"}
"""Parameters that may differ from the row's: the machine's, and the number of the training and of the split."""
NOTE = (
    "Kept records (`outputs/records/`, see CONTRIBUTING.md): sent by whoever ran the row, with every number computed "
    "anew from its predictions. Two on the same test records are compared paired over references, 95 %."
)
LINE = ["row", "column", "paper", "kept", "minus", "commit", "device", "date", "record"]


class RecordError(ValueError):
    """A record that is not kept, or does not hold; the message says all that is wrong with it."""


def folder() -> Path:
    """Where kept records are."""
    return repo_root() / "outputs" / "records"


def folders(run: str = "*/*") -> list[Path]:
    """Those of a run, `<notebook>/<row>`, or of all."""
    return sorted(file.parent for file in folder().glob(f"{run}/*/{records.RECORD}"))


def add(run_folder: Path | str) -> Path:
    """Keep a finished run; returns the folder. RecordError lists all against it, DamagedError names a bad file."""
    source = records.read(run_folder)
    table = _read(records.checked(source, records.PREDICTIONS))
    found, false = _compared(source, table)
    if wrong := [*_departures(source), *_problems(source, table), *false]:
        raise RecordError("\n  ".join([f"{run_folder} is not kept:", *wrong]))
    if left_out := sorted(set(source["metrics"]) - set(found)):
        print(f"left out, as the predictions do not hold them: {', '.join(left_out)}")
    when = date.fromtimestamp((records.located(run_folder) / records.RECORD).stat().st_mtime)
    kept = {key: source[key] for key in KEYS if key in source} | {"metrics": found, "date": str(when)}
    given, text = source["parameters"], json.dumps(kept, indent=1)
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:8]}-seed{given['seed']}"
    place = folder() / source["notebook"] / given["row"] / name
    with atomic(place / PREDICTIONS) as temporary:
        table.to_csv(temporary, index=False, compression="xz")
    with atomic(place / records.RECORD) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return place


def verify(place: Path) -> None:
    """Compute a kept record's numbers from its predictions; RecordError if it does not follow from them."""
    record, table = read(place), _read(place / PREDICTIONS)
    found, false = _compared(record, table)
    lacking = [f"{name}: got a number, expected none" for name in record["metrics"] if name not in found]
    if wrong := [*_problems(record, table), *(false or lacking)]:
        raise RecordError("\n  ".join([f"{place}:", *wrong]))


def read(place: Path) -> dict:
    """A kept record."""
    return json.loads((place / records.RECORD).read_text(encoding="utf-8"))


def shown(table: dict, scale: str) -> pd.DataFrame:
    """The kept records of a table as text, one line a cell, with the paper's value and what they came from.

    The first on a column's test records, of the table's full model if there is one, is what the others are minus.
    """
    if scale != "paper" or not folder().is_dir():
        return pd.DataFrame(columns=LINE)
    lines, bases = [], {}
    rows = sorted(table.get("rows", []), key=lambda row: row["label"] != table.get("full"))
    for row in rows:
        for column, paper in zip_longest(table["columns"], row.get("paper", [])):
            for place, estimate, tested in _cells(row, column, table, scale):
                record, name = read(place), f"{row['label']}, {place.name}"
                base, against = bases.setdefault((column["name"], tested), (estimate, name))
                minus = ""
                if against != name:
                    difference = paired_difference(estimate, base)
                    minus = f"{difference.value:+.3f} [{difference.low:.3f}, {difference.high:.3f}] ({against})"
                value = f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
                made = records.commit(record), record["device"], record["date"], place.name
                lines.append((row["label"], column["name"], paper, value, minus, *made))
    return pd.DataFrame(lines, columns=LINE)


def _cells(row: dict, column: dict, table: dict, scale: str) -> Iterator[tuple[Path, Estimate, str]]:
    """The kept records of one cell: folder, agreement with its interval, fingerprint of the test records."""
    from iqa_lib.lab.tables import _seen_by, _tested_on  # which shows these lines

    if "reported" in row or column not in plan.columns(table, scale):
        return
    seen, method = _seen_by(row, column), row.get("method", row.get("baseline"))
    run = row.get("runs", {}).get(column["data"], row.get("run", column.get("run")))
    for place in folders(run) if run else ():
        record = read(place)
        if seen["key"] in record["metrics"] and _tested_on(record, seen):
            again = estimates(record, _read(place / PREDICTIONS), seen["side"], seen["metric"], method)
            fitting = [each for each in again if _alike(_values(each), record["metrics"][seen["key"]])]
            if fitting:
                yield place, fitting[0], record["data"][seen["side"]]["fingerprint"]


def _read(file: Path) -> pd.DataFrame:
    names = ("reference_id", "reference", "distorted", "a", "b")
    return read_table(file, dtype=dict.fromkeys(names, str))


def _departures(record: dict) -> Iterator[str]:
    """How a run differs from its row as `params/` has it, at paper scale."""
    given, notebook = record["parameters"], record["notebook"]
    run = f"{notebook}/{given['row']}"
    if given["scale"] != "paper" or records.is_demo(record):
        yield f"scale: got {given['scale']!r}, or the demo set, expected 'paper' on a paper's data set"
    if not any(run in plan.wanted(table, "paper") for table in plan.specifications().values()):
        yield f"row: got {run}, expected one that params/tables.yaml has at paper scale"
        return
    expected = validate(notebook, read_parameters(*plan.parameter_files(run, "paper")))
    if expected.get("metrics") == "auto":  # a run has them by name
        from iqa_lib.models.iqa_tmfm import METRICS  # imports torch

        expected["metrics"] = ", ".join(METRICS)
    for name, value in expected.items():
        free = name in LOCAL or name.startswith("demo_") or (name.endswith("weights") and given.get(name) != "random")
        if not free and given.get(name) != value:
            yield f"{name}: got {given.get(name)!r}, expected {value!r} as the row's parameters have it"
    if record["dirty"] is not False:
        state = "a run of changed files" if record["dirty"] else repr(record["commit"])
        yield f"commit: got {state}, expected a run of what a commit holds: commit, and run the row again"


def _problems(record: dict, table: pd.DataFrame) -> Iterator[str]:
    """What is wrong with what a run was tested on."""
    from iqa_lib.data.base import NAMES, reader  # imports torch

    sides = [side for side in TESTED if side in record["data"]]
    if not sides:
        yield f"data: got {', '.join(record['data'])}, expected a tested side"
    for side in sides:
        tested, rows = record["data"][side], _of(table, side)
        if fingerprint(rows, tested["name"], tested["split"]) != tested["fingerprint"]:
            yield f"{side}: the predictions are not of the records whose fingerprint the run has"
        if tested["name"] not in NAMES[1:]:
            yield f"{side}: got {tested['name']}, expected a paper's data set"
            continue
        found = len(rows), rows.reference_id.nunique()
        dealt = "reference" if record["parameters"].get("split_by", "reference") == "reference" else "row"
        for what, got, expected, tolerance in _sizes(reader(tested["name"]).ORIGIN, tested["split"], dealt, found):
            if expected is None or abs(got - expected) > tolerance * expected:
                whole = "a whole side" if expected is None else f"{expected:,}, all of {tested['split']}"
                yield f"{side}: got {got:,} {what} of {tested['name']}, {tested['split']}, expected {whole}"


def fingerprint(rows: pd.DataFrame, name: str, split: str) -> str:
    """`iqa_lib.data.base.IQADataset.fingerprint` of the records that predictions are of."""
    digest = hashlib.sha256(f"{name}/{split}".encode())
    images = ["reference", "a", "b"] if "a" in rows else ["reference", "distorted"]
    for *names, reference, target in rows[[*images, "reference_id", "target"]].itertuples(index=False):
        digest.update(f"\n{'/'.join(names)},{reference},{float(target)!r}".encode())
    return digest.hexdigest()


def _of(table: pd.DataFrame, side: str) -> pd.DataFrame:
    """The rows of a side, once."""
    table = table[table.metric == table.metric.iloc[0]] if "metric" in table else table
    return table[table.side == side] if "side" in table else table


def _sizes(
    origin: "Origin", split: str, by: str, found: tuple[int, int]
) -> Iterator[tuple[str, int, int | None, float]]:
    """What is counted on a side, how much was found, how much there is (None: no such side), and how exact that is."""
    from iqa_lib.data.check import SLACK  # imports torch
    from iqa_lib.data.splits import by_reference

    part = next((part for part, fractions in origin.fractions.items() if split in fractions), split)
    known = [counts for key, counts in origin.counts.items() if part == "all" or part in key.split("+")]
    if part not in (*origin.parts, "all") or not known:
        yield "records", found[0], None, 0
        return
    total, references = sum(c.records for c in known), sum(c.references or 0 for c in known)
    exact = all(c.verified for c in known) and not any("+" in key for key in origin.counts if part != "all")
    if part == split:
        yield "records", found[0], total, 0 if exact else SLACK
        return
    share, ids = origin.fractions[part], range(references or 0)
    if by == "row" or not references:
        yield "records", found[0], round(share[split] * total), 0.01 if exact else SLACK
        return
    dealt = len(by_reference(map(str, ids), share)[split])
    yield "references", found[1], dealt, 0
    yield "records", found[0], round(total * dealt / references), 0 if total % references == 0 else SLACK


def _compared(record: dict, table: pd.DataFrame) -> tuple[dict[str, dict], list[str]]:
    """The record's agreements that its predictions give again, without intervals, and what is false, in words."""
    found, false = {}, []
    for name, recorded in record["metrics"].items():
        measure, method = name.split(" ", 1)
        side = next((side for side in TESTED[1:] if method.endswith(f" {side}")), "test")
        method = method.removesuffix(f" {side}")
        again = [_values(each) for each in estimates(record, table, side, measure, method, resamples=2)]
        fitting = [each for each in again if _alike(each, recorded)]
        if fitting:
            found[name] = fitting[0]
        elif again:
            got = {key: recorded[key] for key in again[0]}
            false.append(f"{name}: got {got}, expected {again[0]} by the predictions")
    if not found and not false:
        false.append("metrics: got none that the predictions give, expected some")
    return found, false


def estimates(
    record: dict, table: pd.DataFrame, side: str, measure: str, method: str, **bootstrap: int
) -> list[Estimate]:
    """An agreement by the predictions: none if they do not hold the method, two if ties may count either way."""
    if "metric" in table:
        rows, column = table[table.metric == method], "prediction"
    else:
        labels = {baseline.label: name for name, baseline in BASELINES.items()}
        own = "prediction" if method == METHODS.get(record["notebook"]) else ""
        rows = table[table.side == side] if "side" in table else table
        column = next((each for each in (method, labels.get(method), own) if each in table), None)
    if column is None or rows.empty:
        return []
    rows = rows.assign(prediction=rows[column])
    if measure.startswith("accuracy"):
        keys = [*zip(rows.reference_id, rows.a, rows.b, strict=True)]
        options = {"dedup": "devkit", "triplets": keys} if measure == "accuracy_devkit" else {}
        answers = rows.prediction, rows.target, rows.reference_id
        return [two_afc_accuracy(*answers, ties=ties, **options, **bootstrap) for ties in ("a", "half")]
    name = method if "metric" in table else column
    lower = method == "LPIPS+" or (name in BASELINES and not BASELINES[name].higher_is_better)
    compute, sign = AGREEMENT.get(measure), -1 if lower else 1
    return [compute(sign * rows.prediction, rows.target, rows.reference_id, **bootstrap)] if compute else []


def _values(estimate: Estimate) -> dict:
    return {name: getattr(estimate, name) for name in ("value", "n", "references")}


def _alike(one: dict, other: dict) -> bool:
    sizes = all(one[name] == other[name] for name in ("n", "references"))
    return sizes and abs(one["value"] - other["value"]) < TOLERANCE


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.lab.records", description="Records that stay, in git")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="keep a finished run at paper scale, if all follows from its predictions")
    adding.add_argument("run_folder", help="such as outputs/paper/04_ahiq/table8_both/seed0")
    given = parser.parse_args(arguments)
    try:
        place = add(given.run_folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in place.iterdir())
    print(f"kept in {place.relative_to(repo_root())}, {size / 1e6:.1f} MB: commit it, and send a pull request")
    return 0
