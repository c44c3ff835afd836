"""What a table of scores says as a whole: means, worst images, and agreement with people."""

from collections.abc import Iterator, Sequence
from math import inf, isnan
from pathlib import Path
from statistics import mean, median

import numpy as np
import pandas as pd

from iqa_lib.files import atomic
from iqa_lib.lab.batches import image_columns
from iqa_lib.lab.scoring import Metric
from iqa_lib.metrics import AGREEMENT

FEW = 10
"""Fewer references than these give rough intervals."""
MEASURES = ("srocc", "plcc", "plcc4", "krocc")
"""Those of `AGREEMENT` that do not depend on the unit of the human scores."""


def lines(rows: Sequence[dict], metrics: Sequence[Metric], worst: int = 3) -> Iterator[str]:
    """For each metric how many pairs it scored, mean, median, the `worst` images, and what its scores mean."""
    for metric in metrics:
        scored = [(float(row[metric.name]), row) for row in rows if row[metric.name] != ""]
        if not scored:
            yield f"{metric.name}: 0 of {len(rows)} scored"
            continue
        values = [value for value, _ in scored]
        text = f"{metric.name}: {len(scored)} of {len(rows)} scored, mean {mean(values):.4g}"
        if image_columns(rows[0])[-1] == "distorted":
            scored.sort(key=lambda pair: pair[0], reverse=not metric.higher_is_better)
            images = ", ".join(f"{row['distorted']} {value:.4g}" for value, row in scored[:worst])
            text += f", median {median(values):.4g}, worst: {images}"
        yield f"{text}; {metric.meaning}"


def human_scores(pairs: Sequence[dict[str, str]], column: str) -> list[float]:
    """The numbers of a column, NaN in empty cells; no such column, or a cell that is no number, raises ValueError."""
    if column not in pairs[0]:
        raise ValueError(f"--mos: got {column}, expected a column of the input: {', '.join(pairs[0])}")
    cells = pd.Series([pair[column].strip() or "nan" for pair in pairs])
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    if (wrong := np.flatnonzero(~np.isfinite(numbers) & (cells != "nan"))).size:
        got = f"{cells[wrong[0]]!r} for {pairs[wrong[0]]['distorted']}"
        raise ValueError(f"{column}: got {got}, expected a number, or nothing: fill it in")
    return numbers.tolist()


def predictions(rows: Sequence[dict], metric: Metric, scores: Sequence[float]) -> pd.DataFrame:
    """The rows with both scores as `iqa_lib.metrics.agreement` takes them; infinities count as 100 (dB)."""
    both = [
        (float(row[metric.name]), score, row["reference"])
        for row, score in zip(rows, scores, strict=True)
        if row[metric.name] != "" and not isnan(score)
    ]
    table = pd.DataFrame(both, columns=["prediction", "target", "reference_id"])
    return table.assign(prediction=table.prediction.replace(inf, 100.0))


def agreement_lines(
    rows: Sequence[dict], metrics: Sequence[Metric], column: str, scores: Sequence[float]
) -> Iterator[str]:
    """How far each metric agrees with people, with 95 % intervals over references."""
    count = len({row["reference"] for row in rows})
    yield f"agreement with {column}; positive: what people rate higher is better by the metric; PLCC4: after a logistic"
    if count < FEW:
        yield f"  {count} reference{'s' * (count > 1)}: intervals over so few are rough, over one there is none"
    for metric in metrics:
        table, sign = predictions(rows, metric, scores), 1 if metric.higher_is_better else -1
        for name in MEASURES:
            try:
                value = AGREEMENT[name](sign * table.prediction.to_numpy(), table.target, table.reference_id)
            except (ValueError, RuntimeError) as error:
                value = f"no value: {error}"
            yield f"  {metric.name} {name.upper()} {value}"


def plot(rows: Sequence[dict], metrics: Sequence[Metric], column: str, scores: Sequence[float], file: Path) -> None:
    """Scatter plots of the human scores against each metric's, as a PNG file."""
    from iqa_lib import plots
    from iqa_lib.data.base import IQADataset, Label, Pair

    records = [
        Pair(row["reference"], row["distorted"], score, "", score) for row, score in zip(rows, scores, strict=True)
    ]
    dataset = IQADataset("scores", "all", records, Label(column, min(scores), max(scores), True))
    tables = {metric.name: predictions(rows, metric, scores) for metric in metrics}
    labels = [f"{metric.name} ({'higher' if metric.higher_is_better else 'lower'} is better)" for metric in metrics]
    with atomic(file) as temporary:
        plots.scatter(dataset, tables, labels).savefig(temporary, format="png", dpi=150)
