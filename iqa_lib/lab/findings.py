"""What was found: each paper's full model beside classical and learnt metrics on the same held-out records.

Reads run records and their `predictions.csv`, which holds the other metrics' scores or answers, too.
"""

import pandas as pd

from iqa_lib.baselines import BASELINES
from iqa_lib.lab import plan, tables
from iqa_lib.metrics import mean_estimate, paired_difference, verdict

OTHERS = ("psnr", "ssim", "gmsd", "st-lpips-alex")
COMPARED = ("ssim", "gmsd")
LINE = ["paper", "run", "measure", "ours", "low", "high", "seeds", "spread", "n", "references", *OTHERS]
LINE += [f"{what} {other}" for other in COMPARED for what in ("minus", "low", "high", "verdict")] + ["weights"]


def findings(scale: str) -> pd.DataFrame:
    """One line a paper: its full model's agreement on the test side, other metrics', and the differences.

    SROCC of pairs, 2AFC accuracy of triplets. `ours` is the mean over seeds and [low, high] the mean of their 95 %
    intervals over references, `spread` the noise of a training. A difference is the model's mean minus the metric's on
    the same records, its interval from a bootstrap over references that draws the same ones for both; its verdict is
    `iqa_lib.metrics.verdict`. What is not there is nan: a paper that was not run, a metric without a column.
    """
    specified = [table for table in plan.specifications().values() if "findings" in table]
    return pd.DataFrame([_line(table, scale) for table in specified]).reindex(columns=LINE)


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """The lines of `findings` as text."""
    measured = found[found.ours.notna()]
    text = {"paper": measured.paper, "agreement": measured.measure.map(tables.MEASURES)}
    text["full model"] = [tables.interval(line) for line in measured.itertuples()]
    for name in OTHERS:
        text[BASELINES[name].label] = [f"{value:.3f}" if pd.notna(value) else "" for value in measured[name]]
    for name in COMPARED:
        lines = measured[[f"{what} {name}" for what in ("minus", "low", "high", "verdict")]].values
        told = [f"{tables.signed(*values)}, {judged}" if pd.notna(judged) else "" for *values, judged in lines]
        text[f"minus {BASELINES[name].label}"] = told
    text["records (references)"] = [f"{line.n:.0f} ({line.references:.0f})" for line in measured.itertuples()]
    text["backbone"] = measured.weights
    return pd.DataFrame(text)


def told(found: pd.DataFrame) -> list[str]:
    """The lines of `findings` for a terminal, one a paper."""
    lines = []
    for line in shown(found).drop(columns=["records (references)", "backbone"]).to_dict("records"):
        paper, agreement, ours = line.pop("paper"), line.pop("agreement"), line.pop("full model")
        others = "; ".join(f"{name} {value}" for name, value in line.items() if value)
        lines.append(f"{paper}: {agreement} {ours}; {others}")
    return [*lines, reading(found)]


def reading(found: pd.DataFrame) -> str:
    """What the lines of `findings` say, in a paragraph."""
    measured = found[found.ours.notna()]
    if measured.empty:
        return "No paper's full model has been run yet: `make reproduce`."
    told = [f"{len(measured)} of {len(found)} papers' full models have been run."]
    for name in COMPARED:
        lines = measured[measured[f"minus {name}"].notna()]
        differs = lines[f"verdict {name}"].astype(str).str.startswith("differs")
        for words, part in (
            ("agree better with the scores than {}", lines[differs & (lines[f"minus {name}"] > 0)]),
            ("agree worse than {}", lines[differs & (lines[f"minus {name}"] < 0)]),
            ("cannot be told from {}", lines[~differs]),
        ):
            if len(part):
                papers = ", ".join(
                    f"{paper} ({value:+.3f})" for paper, value in part[["paper", f"minus {name}"]].values
                )
                told.append(f"{len(part)} {words.format(BASELINES[name].label)}: {papers}.")
    moved = measured[measured.spread.notna()]
    if len(moved):
        spreads = ", ".join(f"{line.paper} {line.spread:.3f}" for line in moved.itertuples())
        told.append(f"Another training of the same network moves these numbers, too: {spreads} over its seeds.")
    return " ".join(told)


def _line(table: dict, scale: str) -> dict:
    row = next(row for row in table["rows"] if row["label"] == table["full"])
    column = next(column for column in plan.columns(table, scale) if column["metric"] in tables.MEASURES)
    line = {"paper": table["findings"], "run": row["run"], "measure": column["metric"]}
    trained = tables.recomputed(row, column, scale)
    if not trained:
        return line
    same = tables.same_images(trained.values())
    estimates, _, found, _ = zip(*trained.values(), strict=True)
    line |= tables.over_seeds([estimate.as_dict() for estimate in estimates])
    line["weights"] = tables.weights_of(found[0])
    for name in OTHERS:
        others = [tables.estimate(record["folder"], "test", column["metric"], name) for record in found]
        if None in others:
            continue
        line[name] = mean_estimate(others, same).value
        if name in COMPARED:
            difference = mean_estimate([paired_difference(*both) for both in zip(estimates, others, strict=True)], same)
            line |= {f"minus {name}": difference.value, f"low {name}": difference.low, f"high {name}": difference.high}
            line[f"verdict {name}"] = verdict(difference, line["spread"])
    return line
