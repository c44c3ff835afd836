"""Agreement of predictions with human scores, with confidence intervals over references.

Predictions and scores point the same way, higher is better; a metric that points the other way has a negative
correlation. Distorted images of one reference are not independent, so every 95 % interval comes from a percentile
bootstrap over references (cluster bootstrap): reference ids are drawn with replacement and each brings all its rows
(Field and Welsh, "Bootstrapping clustered data", 2007). The order of the rows changes no interval. Options of every
bootstrap: `resamples`, the number of resamples (1000), and `seed` (0).

Every function raises ValueError for columns of unequal length, values that are not finite numbers, unknown options and
correlations of constant values. scipy is imported where it is used: that takes half a second.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from iqa_lib.checks import check_choice

_FIT_PARAMETERS = {None: 0, "logistic4": 4, "logistic5": 5}
_FIT_EVALUATIONS = 1000
_BLOCK = 256  # rows whose pairs with all others are in memory at once


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval.

    Attributes:
        value: The statistic on all rows.
        low, high: 2.5 % and 97.5 % percentiles of the bootstrap over references; nan for a single reference, or if the
            statistic is undefined in more than half of the resamples.
        n, references: Number of rows, and of distinct references.
        resampled: The statistic in each resample, for `paired_difference`; empty for a single reference.
    """

    value: float
    low: float
    high: float
    n: int
    references: int
    resampled: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    def __str__(self) -> str:
        references = f"{self.references} reference{'' if self.references == 1 else 's'}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n}, {references})"

    def as_dict(self) -> dict[str, float | int]:
        """The first five attributes by name."""
        return {name: getattr(self, name) for name in ("value", "low", "high", "n", "references")}


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram: one entry per bin that holds predictions, in rising order.

    `predicted` is the mean predicted probability of B, `observed` the mean label (the share of B), `count` the rows.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray


def plcc(
    prediction: ArrayLike, score: ArrayLike, references: Iterable[Hashable], *, fit: str | None = None, **bootstrap: int
) -> Estimate:
    """Pearson's linear correlation coefficient, in [-1, 1]. A fit that does not converge raises RuntimeError.

    Args:
        prediction, score: Predicted qualities and human scores (MOS), higher is better; 3 rows or more.
        references: Id of each row's reference.
        fit: None correlates the predictions as they are; "logistic4" and "logistic5" map them by `logistic_fit` first.
            The fit is done once on all rows and the bootstrap resamples the fitted values, so the interval leaves out
            the fit's own uncertainty. A falling fit turns a reversed metric around, so a fitted PLCC does not show the
            direction: see SROCC or the raw PLCC.
        **bootstrap: `resamples` and `seed`.
    """
    groups, x, y = _correlation_rows(prediction, score, references)
    x = _fitted(x, y, fit)
    return _estimate(lambda counts: _pearson(x, y, counts[groups]), groups, **bootstrap)


def srocc(prediction: ArrayLike, score: ArrayLike, references: Iterable[Hashable], **bootstrap: int) -> Estimate:
    """Spearman's rank-order correlation coefficient, in [-1, 1]; ties get their mean rank. Arguments as in `plcc`."""
    groups, x, y = _correlation_rows(prediction, score, references)
    x_level, y_level = (np.unique(values, return_inverse=True)[1] for values in (x, y))

    def statistic(counts: np.ndarray) -> float:
        weights = counts[groups]
        return _pearson(_mean_ranks(x_level, weights), _mean_ranks(y_level, weights), weights)

    return _estimate(statistic, groups, **bootstrap)


def krocc(prediction: ArrayLike, score: ArrayLike, references: Iterable[Hashable], **bootstrap: int) -> Estimate:
    """Kendall's rank-order correlation tau-b, in [-1, 1]. Arguments as in `plcc`.

    Pairs of rows are counted once, by their two references: a resample only weighs these counts.
    """
    groups, x, y = _correlation_rows(prediction, score, references)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    counted = np.zeros((3, starts.size, starts.size))  # concordant - discordant, not tied in x, not tied in y
    for part in (slice(start, start + _BLOCK) for start in range(0, x.size, _BLOCK)):
        order_x, order_y = (np.sign(values[part, None] - values) for values in (x, y))  # (rows, n)
        for count, pairs in zip(counted, (order_x * order_y, order_x**2, order_y**2), strict=True):
            np.add.at(count, groups[part], np.add.reduceat(pairs, starts, axis=1))

    def statistic(counts: np.ndarray) -> float:
        agreeing, in_x, in_y = counted @ counts @ counts
        return float(np.clip(agreeing / np.sqrt(in_x) / np.sqrt(in_y), -1, 1)) if in_x and in_y else np.nan

    return _estimate(statistic, groups, **bootstrap)


def main_score(prediction: ArrayLike, score: ArrayLike, references: Iterable[Hashable], **bootstrap: int) -> Estimate:
    """NTIRE's main score: raw PLCC plus SROCC, in [-2, 2], higher is better. Arguments as in `plcc`."""
    parts = plcc(prediction, score, references, **bootstrap), srocc(prediction, score, references, **bootstrap)
    resampled = sum(part.resampled for part in parts)
    value, first = sum(part.value for part in parts), parts[0]
    return Estimate(value, *_interval(resampled), first.n, first.references, resampled)


def rmse(
    prediction: ArrayLike, score: ArrayLike, references: Iterable[Hashable], *, fit: str | None = None, **bootstrap: int
) -> Estimate:
    """Root mean squared error in the unit of `score`, 0 or more, lower is better. Arguments as in `plcc`.

    The mean is over rows, with no correction for the degrees of freedom of a fit. With fit=None the predictions must
    already be on the scale of the scores, and a single row is enough.
    """
    groups, x, y = _rows(references, prediction=_numbers("prediction", prediction), score=_numbers("score", score))
    mean = _reference_mean((_fitted(x, y, fit) - y) ** 2, groups)
    return _estimate(lambda counts: float(np.sqrt(mean(counts))), groups, **bootstrap)


def two_afc_accuracy(
    p_b: ArrayLike,
    label: ArrayLike,
    references: Iterable[Hashable],
    *,
    triplets: Sequence[Hashable] | None = None,
    dedup: str = "rows",
    ties: str = "a",
    **bootstrap: int,
) -> Estimate:
    """Two-alternative forced choice: mean share of humans who agree with the decision, in [0, 1].

    The decision is B where p_b > 0.5 and A where p_b < 0.5. A row scores `label` for B and 1 - label for A: plain
    accuracy on hard votes, the 2AFC score of BAPPS (Zhang et al., CVPR 2018) on shares of votes.

    Args:
        p_b: Predicted probability in [0, 1] that B is closer to the reference than A; one row or more.
        label: Human share in [0, 1] preferring B, or hard votes: 0 for A, 1 for B.
        references: Id of each row's reference.
        triplets: Key of each row's triplet, such as "O,A,B" or ("O", "A", "B"); for dedup="devkit" only.
        dedup: "rows" averages over all rows. "devkit" collapses repeats of a triplet to one row with the last label
            and the last prediction, as the dictionary of the CLIC devkit does; the result's n counts these rows.
        ties: Rule for p_b = 0.5: "a" counts as the answer A (CLIC devkit), "half" scores 0.5 (BAPPS).
        **bootstrap: `resamples` and `seed`.
    """
    check_choice(("rows", "devkit"), dedup=dedup)
    check_choice(("a", "half"), ties=ties)
    p_b, label = _numbers("p_b", p_b, 0, 1), _numbers("label", label, 0, 1)
    if dedup == "devkit":
        references = _listed(references)
        _check_lengths(p_b=p_b, label=label, references=references)
        last = _last_rows(triplets, p_b.size)
        p_b, label, references = p_b[last], label[last], [references[row] for row in last]
    groups, p_b, label = _rows(references, p_b=p_b, label=label)
    agreement = np.where(p_b > 0.5, label, 1 - label)
    if ties == "half":
        agreement[p_b == 0.5] = 0.5
    return _estimate(_reference_mean(agreement, groups), groups, **bootstrap)


AGREEMENT = {
    "srocc": srocc,
    "plcc": plcc,
    "plcc4": partial(plcc, fit="logistic4"),
    "krocc": krocc,
    "rmse": partial(rmse, fit="logistic4"),
}
"""Agreements of pairs' predictions with human scores: PLCC raw, and PLCC and RMSE after a logistic of 4 parameters."""


def agreements(table: pd.DataFrame, names: Iterable[str] = tuple(AGREEMENT), sign: int = 1) -> dict[str, Estimate]:
    """Those of `AGREEMENT` that a table of pairs has; what is undefined, or does not converge, is printed and left out.

    For a table of triplets `accuracy`, where a tie scores 0.5 as in BAPPS.
    """
    if {"a", "b"} <= set(table):
        return {"accuracy": two_afc_accuracy(table.prediction, table.target, table.reference_id, ties="half")}
    found = {}
    for name in names:
        try:
            found[name] = agreement(table, name, sign)
        except (ValueError, RuntimeError) as error:
            print(f"{name}: no value: {error}")
    return found


def agreement(table: pd.DataFrame, name: str, sign: int = 1) -> Estimate:
    """One of `AGREEMENT` from a table of predictions of pairs; `sign` is -1 if lower predictions are better."""
    return AGREEMENT[name](sign * table.prediction.to_numpy(), table.target.tolist(), table.reference_id.tolist())


def paired_difference(first: Estimate, second: Estimate) -> Estimate:
    """The first minus the second, both of the same rows and seed, so that each resample drew the same references."""
    sizes, others = ((each.n, each.references, each.resampled.size) for each in (first, second))
    if sizes != others:
        raise ValueError(f"estimates: got {sizes} and {others} rows, references, resamples, expected equal numbers")
    resampled = first.resampled - second.resampled
    return Estimate(first.value - second.value, *_interval(resampled), first.n, first.references, resampled)


def mean_estimate(estimates: Sequence[Estimate], same_rows: bool = True) -> Estimate:
    """The mean over several trainings of one network, or of their paired differences.

    All tested on the same rows, each resample's value is the mean of theirs in it. Otherwise nothing pairs their
    resamples, and the interval is the mean of their intervals; likewise for estimates without resamples.
    """
    first = estimates[0]
    value, low, high = (float(np.mean([getattr(e, name) for e in estimates])) for name in ("value", "low", "high"))
    if not same_rows or not all(estimate.resampled.size for estimate in estimates):
        return Estimate(value, low, high, first.n, first.references)
    resampled = np.mean([estimate.resampled for estimate in estimates], axis=0)
    return Estimate(value, *_interval(resampled), first.n, first.references, resampled)


def training_spread(values: Sequence[float]) -> float:
    """The noise of a training: how far apart the same number of several trainings (seeds) lies; nan of one."""
    return float(np.ptp(values)) if len(values) > 1 else np.nan


def verdict(difference: Estimate, spread: float) -> str:
    """What a difference between two networks' numbers says; empty if its interval is unknown.

    It counts only if it is beyond both its paired interval over references, which knows nothing of other trainings, and
    `training_spread` of the network compared with: what another training of the same network changes proves nothing.
    """
    if np.isnan(difference.low):
        return ""
    if difference.low <= 0 <= difference.high:
        return "within noise"
    if np.isnan(spread):
        return "differs, but one training each: its noise is not known"
    return "differs" if abs(difference.value) > spread else f"not resolved: one training moves by {spread:.3f}"


def difference_noise(measure: str, first: float, second: float, n: int) -> float:
    """Half-width of the 95 % interval of a difference between two published numbers, of n rows each, as if independent.

    This is the size of differences that n rows can resolve. Two methods tested on the same rows agree on many of them,
    which makes the true interval narrower; rows of one reference resemble each other, which makes it wider.

    `measure` is `"accuracy"` (binomial), `"plcc"` (Fisher's z), `"srocc"` (Bonett and Wright 2000, Psychometrika 65) or
    `"krocc"` (Fieller, Hartley and Pearson 1957, Biometrika 44).
    """
    check_choice(("accuracy", "plcc", "srocc", "krocc"), measure=measure)
    _check_row_count(n, 5, "the noise of a difference")
    values = np.array([first, second], dtype=float)
    if measure == "accuracy":
        variance = values * (1 - values) / n
    else:
        z_variance = {"plcc": 1 / (n - 3), "srocc": (1 + values**2 / 2) / (n - 3), "krocc": 0.437 / (n - 4)}[measure]
        variance = (1 - values**2) ** 2 * z_variance
    return float(1.96 * np.sqrt(variance.sum()))


def paired_noise(measure: str, first: float, second: float, n: int, pairing: float) -> float:
    """`difference_noise` of two numbers of the same n rows, of which is known how alike the two methods answer.

    `pairing` is for `"accuracy"` the share of rows on which just one of them is right, at least the difference, whose
    standard error is then McNemar's; for correlations the width of a paired interval in units of `difference_noise`.
    """
    if measure != "accuracy":
        return pairing * difference_noise(measure, first, second, n)
    difference = abs(first - second)
    return float(1.96 * np.sqrt((max(pairing, difference) - difference**2) / n))


def logistic_fit(prediction: ArrayLike, score: ArrayLike, parameters: int = 4) -> np.ndarray:
    """Least-squares map of predictions to the scale of the scores, by a rising or a falling logistic.

    With s(t) = 1 / (1 + exp(-t)) and the fitted b:

    - 4 parameters: b2 + (b1 - b2) s((x - b3) / |b4|) (VQEG; Seshadrinathan et al., TIP 2010)
    - 5 parameters: b1 (1/2 - s(-b2 (x - b3))) + b4 x + b5 (Sheikh, Sabir and Bovik, TIP 2006); need not be monotone

    Both are linear except in centre and width, so only these two are searched, by Nelder and Mead's simplex from the
    best point of a coarse grid, and the linear coefficients are solved for at every step (variable projection). Bounds:
    a centre at most one range outside the predictions, a width of 1e-3 to 1e3 of their standard deviations.

    Predictions may have any unit and direction; more rows are needed than `parameters`, 4 or 5. Returns the fitted
    value of each row, in the unit of `score`. A search that does not converge raises RuntimeError.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    check_choice((4, 5), parameters=parameters)
    prediction, score = _numbers("prediction", prediction), _numbers("score", score)
    _check_lengths(prediction=prediction, score=score)
    _check_row_count(score.size, parameters + 1, f"a fit of {parameters} parameters")
    _check_varies("a logistic fit", prediction=prediction, score=score)
    x, y = ((values - values.mean()) / values.std() for values in (prediction, score))
    linear_terms = [np.ones_like(x), x][: parameters - 3]

    def mapped(shape: Sequence[float]) -> np.ndarray:
        centre, log_width = shape
        basis = np.column_stack([expit((x - centre) / np.exp(log_width)), *linear_terms])
        return basis @ np.linalg.lstsq(basis, y)[0]

    def squared_error(shape: Sequence[float]) -> float:
        return float(np.sum((mapped(shape) - y) ** 2))

    starts = product(np.quantile(x, (0.1, 0.3, 0.5, 0.7, 0.9)), np.log((0.03, 0.1, 0.3, 1, 3)))
    start = min(starts, key=squared_error)
    simplex = np.add(start, [(0, 0), (0.3, 0), (0, 0.5)])
    options = dict(initial_simplex=simplex, maxfev=_FIT_EVALUATIONS, xatol=1e-6, fatol=1e-9 * x.size)
    bounds = (x.min() - np.ptp(x), x.max() + np.ptp(x)), (np.log(1e-3), np.log(1e3))
    found = minimize(squared_error, start, method="Nelder-Mead", bounds=bounds, options=options)
    if not found.success:
        got = f"did not converge in {found.nfev} steps on {x.size} rows"
        todo = "check the predictions for outliers, or report the raw PLCC (fit=None)"
        raise RuntimeError(f"the {parameters}-parameter logistic fit {got}: {todo}")
    return mapped(found.x) * score.std() + score.mean()


def calibration(p_b: ArrayLike, label: ArrayLike, bins: int = 10) -> Calibration:
    """Predicted probability of B beside the observed share of B, for the bins that hold predictions.

    `p_b` and `label` are as in `two_afc_accuracy`. The bins have equal width over [0, 1]; a value on an inner edge
    belongs to the upper bin.
    """
    p_b, label = _numbers("p_b", p_b, 0, 1), _numbers("label", label, 0, 1)
    _check_lengths(p_b=p_b, label=label)
    _check_row_count(p_b.size, 1, "calibration")
    _check_positive_integer("bins", bins)
    bin_of_row = np.digitize(p_b, np.linspace(0, 1, bins + 1)[1:-1])
    count = np.bincount(bin_of_row)
    filled = count > 0
    predicted, observed = (np.bincount(bin_of_row, weights=values)[filled] for values in (p_b, label))
    return Calibration(predicted / count[filled], observed / count[filled], count[filled])


def _estimate(statistic: Callable, groups: np.ndarray, resamples: int = 1000, seed: int = 0) -> Estimate:
    """The estimate of a function of how often each reference, numbered from 0 in `groups`, is drawn; nan: undefined."""
    _check_positive_integer("resamples", resamples)
    references = int(groups.max()) + 1
    value = float(statistic(np.ones(references, dtype=int)))
    rng = np.random.default_rng(seed)
    draws = (rng.integers(references, size=references) for _ in range(resamples if references > 1 else 0))
    values = np.array([statistic(np.bincount(draw, minlength=references)) for draw in draws])
    return Estimate(value, *_interval(values), groups.size, references, values)


def _interval(resampled: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of resampled values, nan if most of them are undefined."""
    defined = resampled[~np.isnan(resampled)]
    if not defined.size or 2 * defined.size < resampled.size:
        return np.nan, np.nan
    return tuple(np.percentile(defined, (2.5, 97.5)).tolist())


def _pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Pearson correlation of rows that count `weights` times; nan if a side is constant."""
    drawn = weights > 0
    if np.ptp(x[drawn]) == 0 or np.ptp(y[drawn]) == 0:
        return np.nan
    total = weights.sum()
    dx, dy = x - weights @ x / total, y - weights @ y / total
    correlation = (weights * dx) @ dy / np.sqrt((weights * dx) @ dx) / np.sqrt((weights * dy) @ dy)
    return float(np.clip(correlation, -1, 1))


def _mean_ranks(level: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank of each row, counted from 0.5, when rows count `weights` times; `level` numbers the sorted values."""
    size = np.bincount(level, weights=weights)
    return (np.cumsum(size) - size / 2)[level]


def _reference_mean(values: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], float]:
    """Mean over rows as a function of how often each reference is drawn."""
    total, size = np.bincount(groups, weights=values), np.bincount(groups)
    return lambda counts: float(counts @ total / (counts @ size))


def _fitted(x: np.ndarray, y: np.ndarray, fit: str | None) -> np.ndarray:
    check_choice(_FIT_PARAMETERS, fit=fit)
    return x if fit is None else logistic_fit(x, y, _FIT_PARAMETERS[fit])


def _last_rows(triplets: Sequence[Hashable] | None, n: int) -> list[int]:
    if triplets is None:
        raise ValueError('triplets: got None, expected keys for dedup="devkit": pass one per row, or use dedup="rows"')
    triplets = list(triplets)
    _check_lengths(triplets=triplets, p_b=range(n))
    try:
        return list({key: row for row, key in enumerate(triplets)}.values())
    except TypeError as error:
        raise ValueError(f'triplets: {error}: pass strings "O,A,B" or tuples ("O", "A", "B")') from None


def _correlation_rows(prediction: ArrayLike, score: ArrayLike, references: Iterable[Hashable]) -> tuple:
    columns = {"prediction": _numbers("prediction", prediction), "score": _numbers("score", score)}
    rows = _rows(references, minimum=3, **columns)
    _check_varies("a correlation", **columns)
    return rows


def _rows(references: Iterable[Hashable], minimum: int = 1, **columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """The number of each row's reference and the columns, sorted so that the order of the input does not matter."""
    references = _listed(references)
    _check_lengths(**columns, references=references)
    _check_row_count(len(references), minimum, "this statistic")
    if any(reference is None or (isinstance(reference, float) and np.isnan(reference)) for reference in references):
        raise ValueError("references: got None or nan, expected an id for every row: name the missing references")
    try:
        number = {reference: position for position, reference in enumerate(sorted(set(references)))}
    except TypeError as error:
        raise ValueError(f"references: {error}: pass ids of one type, such as file names") from None
    groups = np.array([number[reference] for reference in references])
    order = np.lexsort((*columns.values(), groups))
    return groups[order], *(column[order] for column in columns.values())


def _listed(references: Iterable[Hashable]) -> list[Hashable]:
    """A list of plain Python values from a list, an array, a tensor or a column of a table."""
    return references.tolist() if hasattr(references, "tolist") else list(references)


def _numbers(name: str, values: ArrayLike, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got something that is not a number ({error}): pass one number per row") from None
    if numbers.ndim != 1:
        raise ValueError(f"{name}: got shape {numbers.shape}, expected a flat sequence: pass one number per row")
    wrong = np.flatnonzero(~np.isfinite(numbers) | (numbers < low) | (numbers > high))
    if wrong.size:
        expected = "finite numbers" if np.isinf(low) else f"numbers in [{low}, {high}]"
        got = f"{numbers[wrong[0]]} in row {wrong[0]} ({wrong.size} such of {numbers.size} rows)"
        raise ValueError(f"{name}: got {got}, expected {expected}: rescale these rows or leave them out")
    return numbers


def _check_lengths(**columns: Sequence | np.ndarray) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"columns: got lengths {found}, expected equal ones: pass one entry per row in each")


def _check_row_count(n: int, minimum: int, purpose: str) -> None:
    if n < minimum:
        raise ValueError(f"rows: got {n}, expected at least {minimum} for {purpose}: pass more rows")


def _check_varies(purpose: str, **columns: np.ndarray) -> None:
    for name, column in columns.items():
        if np.ptp(column) == 0:
            raise ValueError(f"{name}: got {column[0]} in all {column.size} rows, expected several for {purpose}")


def _check_positive_integer(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: got {value!r}, expected a whole number of at least 1")
