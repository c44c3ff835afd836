"""Agreement statistics: against scipy and hand-computed cases; the bootstrap against simulated clustered data."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import optimize, stats

from iqa_lib import metrics
from iqa_lib.metrics import (
    Estimate,
    calibration,
    difference_noise,
    krocc,
    logistic_fit,
    main_score,
    mean_estimate,
    paired_difference,
    paired_noise,
    plcc,
    rmse,
    srocc,
    training_spread,
    two_afc_accuracy,
    verdict,
)

CORRELATIONS = {plcc: stats.pearsonr, srocc: stats.spearmanr, krocc: stats.kendalltau}
correlations = pytest.mark.parametrize("correlation", CORRELATIONS)


def study(references=12, rows_each=10, noise=0.5, seed=0):
    """Predictions, scores with ties, and reference names of a made-up rating study."""
    rng = np.random.default_rng(seed)
    score = rng.normal(3, 1, references * rows_each)
    prediction = 10 * score + 10 * noise * rng.normal(size=score.size)
    names = np.repeat([f"reference {number}" for number in range(references)], rows_each)
    return prediction.round(), score.round(1), names


def shuffled(*columns, seed=1):
    order = np.random.default_rng(seed).permutation(len(columns[0]))
    return [np.asarray(column)[order] for column in columns]


def interval(estimate):
    return estimate.low, estimate.high


def row_by_row_bootstrap(scipy_statistic, prediction, score, names, resamples, seed):
    """The cluster bootstrap as it is defined: lay the rows of the drawn references end to end."""
    members = [np.flatnonzero(names == name) for name in sorted(set(names))]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        rows = np.concatenate([members[drawn] for drawn in rng.integers(len(members), size=len(members))])
        values.append(scipy_statistic(prediction[rows], score[rows]).statistic)
    return np.percentile(values, (2.5, 97.5))


# --- Estimate


def test_estimate_prints_value_interval_and_counts():
    assert str(Estimate(0.78149, 0.77, 0.7918, 5220, 315)) == "0.781 [0.770, 0.792] (n=5220, 315 references)"
    assert str(Estimate(-0.5, math.nan, math.nan, 3, 1)) == "-0.500 [nan, nan] (n=3, 1 reference)"


def test_estimate_as_dict_and_frozen():
    estimate = Estimate(0.5, 0.4, 0.6, 10, 2)
    assert estimate.as_dict() == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "references": 2}
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 1


# --- Correlations


@correlations
def test_correlation_equals_scipy(correlation):
    prediction, score, names = study()
    estimate = correlation(prediction, score, names, resamples=50)
    assert estimate.value == pytest.approx(CORRELATIONS[correlation](prediction, score).statistic, abs=1e-12)
    assert (estimate.n, estimate.references) == (120, 12)
    assert estimate.low < estimate.value < estimate.high


@correlations
def test_interval_equals_the_bootstrap_done_row_by_row(correlation):
    prediction, score, names = study(references=8, rows_each=6)
    expected = row_by_row_bootstrap(CORRELATIONS[correlation], prediction, score, names, resamples=100, seed=5)
    # The row-by-row version counts in sorted order of the names, as the library does.
    assert interval(correlation(prediction, score, names, resamples=100, seed=5)) == pytest.approx(expected, abs=1e-12)


def test_correlations_by_hand():
    prediction, score, names = [1, 2, 3, 4], [1, 3, 2, 4], "aabb"
    assert plcc(prediction, score, names).value == pytest.approx(0.8)
    assert srocc(prediction, score, names).value == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert krocc(prediction, score, names).value == pytest.approx((5 - 1) / 6)


def test_krocc_is_tau_b_by_hand():
    # Pairs: (1,1) and (1,2) tie in the prediction, the two others agree; tau-b = 2 / sqrt(2 * 3).
    assert krocc([1, 1, 2], [1, 2, 3], "abc").value == pytest.approx(2 / math.sqrt(6))


@correlations
def test_wrong_direction_is_negative(correlation):
    prediction, score, names = study()
    right, wrong = correlation(prediction, score, names), correlation(-prediction, score, names)
    assert wrong.value == pytest.approx(-right.value)
    assert wrong.low < wrong.value < wrong.high < 0
    assert interval(wrong) == pytest.approx((-right.high, -right.low), abs=1e-12)


@pytest.mark.parametrize("correlation", [srocc, krocc])
def test_rank_correlations_ignore_monotone_maps(correlation):
    prediction, score, names = study()
    expected = correlation(prediction, score, names, resamples=100)
    assert correlation(np.exp(prediction / 10), score**3, names, resamples=100) == expected


def test_perfect_correlation_does_not_exceed_one():
    x = np.random.default_rng(0).random(50)
    estimate = plcc(x, 0.1 * x + 0.7, np.arange(50) % 5)
    assert estimate.high <= 1
    assert estimate.value == pytest.approx(1)


@correlations
@pytest.mark.parametrize("constant", ["prediction", "score"])
def test_constant_input_is_an_error(correlation, constant):
    columns = {"prediction": [1, 2, 3], "score": [3, 1, 2]} | {constant: [0.1, 0.1, 0.1]}
    with pytest.raises(ValueError, match=f"{constant}: got 0.1 in all 3 rows, expected several for a correlation"):
        correlation(**columns, references=[1, 2, 3])


@correlations
def test_fewer_than_three_rows_is_an_error(correlation):
    with pytest.raises(ValueError, match="rows: got 2, expected at least 3"):
        correlation([1, 2], [1, 2], [1, 2])


# --- Bootstrap


@correlations
def test_same_seed_same_interval(correlation):
    data = study()
    first, again, other = (correlation(*data, resamples=100, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert interval(first) != interval(other)
    assert first.value == other.value


@pytest.mark.parametrize("statistic", [plcc, srocc, krocc, rmse])
def test_order_of_rows_does_not_matter(statistic):
    data = study()
    assert statistic(*shuffled(*data), resamples=100) == statistic(*data, resamples=100)


def test_order_of_rows_does_not_matter_for_fits_and_accuracy():
    _, score, names = data = study()
    assert plcc(*shuffled(*data), fit="logistic4") == plcc(*data, fit="logistic4")
    data = np.linspace(0, 1, score.size), np.clip(score / 6, 0, 1), names
    assert two_afc_accuracy(*shuffled(*data)) == two_afc_accuracy(*data)


@pytest.mark.parametrize("statistic", [plcc, srocc, krocc, rmse])
def test_single_reference_has_no_interval(statistic):
    prediction, score, names = study(references=1)
    estimate = statistic(prediction, score, names)
    assert math.isfinite(estimate.value)
    assert np.isnan(interval(estimate)).all()
    assert estimate.references == 1


@correlations
def test_undefined_resamples_are_left_out(correlation):
    # Each reference is constant: of the draws from three references one in nine holds a single one.
    estimate = correlation([1, 1, 2, 2, 3, 3], [1, 1, 3, 3, 2, 2], [1, 1, 2, 2, 3, 3], resamples=300)
    assert interval(estimate) == pytest.approx((-1, 1))


@correlations
def test_mostly_undefined_resamples_leave_no_interval(correlation):
    # Only the first of ten references moves the prediction, only the second the score: a draw holds both in
    # 1 - 2 * 0.9^10 + 0.8^10 = 41 % of the resamples.
    first, second = np.eye(10)[:2]
    estimate = correlation(first, second, range(10))
    assert estimate.value == pytest.approx(-1 / 9)
    assert np.isnan(interval(estimate)).all()


def clustered(rng, clusters=40, rows_each=15, correlation=0.5, within=0.3):
    """Two columns whose large cluster effects and small row effects have the same correlation."""
    covariance = [[1, correlation], [correlation, 1]]
    effects = rng.multivariate_normal([0, 0], covariance, clusters).repeat(rows_each, axis=0)
    rows = rng.multivariate_normal([0, 0], covariance, clusters * rows_each)
    return *(effects + within * rows).T, np.arange(clusters).repeat(rows_each)


def test_interval_covers_the_truth_on_clustered_data():
    rng = np.random.default_rng(0)
    truth, trials = 0.5, 100
    over_references, over_rows = [], []
    for _ in range(trials):
        x, y, cluster = clustered(rng, correlation=truth)
        over_references.append(plcc(x, y, cluster, resamples=200))
        over_rows.append(plcc(x, y, np.arange(x.size), resamples=200))

    def coverage(estimates):
        return sum(estimate.low <= truth <= estimate.high for estimate in estimates) / trials

    def width(estimates):
        return np.mean([estimate.high - estimate.low for estimate in estimates])

    assert coverage(over_references) > 0.85
    assert coverage(over_rows) < 0.6
    # The design effect is near 1 + 14 * 0.92 = 14, and the widths go by its root.
    assert 2.5 < width(over_references) / width(over_rows) < 4.5


def test_accuracy_interval_equals_the_binomial_one_where_each_row_is_a_reference():
    votes = np.arange(1000) % 4 > 0
    estimate = two_afc_accuracy(np.full(1000, 0.9), votes, range(1000), resamples=2000)
    margin = 1.96 * math.sqrt(0.75 * 0.25 / 1000)
    assert estimate.value == 0.75
    assert interval(estimate) == pytest.approx((0.75 - margin, 0.75 + margin), abs=0.003)


# --- RMSE and the fits


def test_rmse_by_hand():
    estimate = rmse([1, 2, 3, 4], [1, 2, 5, 8], "aabb")
    assert estimate.value == pytest.approx(math.sqrt(20 / 4))
    # Draws from two references: both a, both b, or one of each.
    assert interval(estimate) == pytest.approx((0, math.sqrt(20 / 2)))


def test_rmse_of_constants_and_of_one_row():
    assert rmse([2, 2], [2, 2], "ab").value == 0
    assert rmse([2], [5], "a").value == 3


def four_parameters(x, upper, lower, centre, width):
    return lower + (upper - lower) / (1 + np.exp(-(x - centre) / width))


def five_parameters(x, height, slope, centre, linear, offset):
    return height * (0.5 - 1 / (1 + np.exp(slope * (x - centre)))) + linear * x + offset


FOUR = [(90, 10, 30, 2), (10, 90, 30, 2), (5, 1, 27, 0.5), (1, 5, 31, 8)]
FIVE = [(60, 0.7, 30, 1.5, -20), (-60, 0.7, 30, -1.5, 100), (4, 0.3, 25, 0, 3), (-4, 2, 33, 0.05, 3)]
X = np.random.default_rng(0).uniform(20, 40, 300)  # predictions such as PSNR in dB


@pytest.mark.parametrize("truth", FOUR)
def test_four_parameters_recover_noise_free_scores(truth):
    score = four_parameters(X, *truth)
    assert logistic_fit(X, score, 4) == pytest.approx(score, abs=1e-4 * np.ptp(score))


@pytest.mark.parametrize("truth", FIVE)
def test_five_parameters_recover_noise_free_scores(truth):
    score = five_parameters(X, *truth)
    assert logistic_fit(X, score, 5) == pytest.approx(score, abs=1e-4 * np.ptp(score))


@pytest.mark.parametrize("truth", FOUR)
def test_the_fitted_curve_gives_the_parameters_back(truth):
    """Derivation by hand: the logit of a four-parameter logistic is linear, with slope 1 / width."""
    upper, lower, centre, width = truth
    share = (logistic_fit(X, four_parameters(X, *truth)) - lower) / (upper - lower)
    inner = (share > 0.1) & (share < 0.9)
    slope, intercept = np.polyfit(X[inner], np.log(share[inner] / (1 - share[inner])), 1)
    assert (1 / slope, -intercept / slope) == (pytest.approx(width, rel=1e-3), pytest.approx(centre, rel=1e-3))


@pytest.mark.parametrize(
    ("function", "truth"), [(four_parameters, truth) for truth in FOUR] + [(five_parameters, truth) for truth in FIVE]
)
def test_fit_is_no_worse_than_curve_fit_started_at_the_truth(function, truth):
    clean = function(X, *truth)
    score = clean + 0.1 * np.ptp(clean) * np.random.default_rng(1).normal(size=X.size)
    found, _ = optimize.curve_fit(function, X, score, truth, maxfev=10000)
    reached = np.sum((logistic_fit(X, score, len(truth)) - score) ** 2)
    assert reached <= np.sum((function(X, *found) - score) ** 2) * (1 + 1e-3)


def test_fit_does_not_depend_on_units():
    prediction, score, _ = study()
    fitted = logistic_fit(prediction, score)
    assert logistic_fit(-1e-6 * prediction + 7, 1000 * score - 5) == pytest.approx(1000 * fitted - 5, rel=1e-3)


def test_fit_of_four_parameters_is_monotone():
    prediction, score, _ = study(noise=2)
    fitted = logistic_fit(prediction, -score)
    assert np.all(np.diff(fitted[np.argsort(prediction)]) <= 1e-12)


@pytest.mark.parametrize("fit", ["logistic4", "logistic5"])
def test_fit_raises_plcc_and_lowers_rmse_on_a_sigmoid(fit):
    rng = np.random.default_rng(0)
    prediction = rng.normal(0, 4, 400)
    score = np.tanh(prediction) + 0.1 * rng.normal(size=400)
    names = np.arange(400) % 20
    raw, fitted = plcc(prediction, score, names), plcc(prediction, score, names, fit=fit)
    assert fitted.low > raw.high
    mapped = logistic_fit(prediction, score, int(fit[-1]))
    assert fitted.value == pytest.approx(stats.pearsonr(mapped, score).statistic, abs=1e-4)
    error = rmse(prediction, score, names, fit=fit)
    assert error.value == pytest.approx(np.sqrt(np.mean((mapped - score) ** 2)), rel=1e-3)
    assert error.high < rmse(prediction, score, names).low


@pytest.mark.parametrize("fit", ["logistic4", "logistic5"])
def test_fit_turns_a_reversed_metric_around(fit):
    prediction, score, names = study()
    fitted, reversed_ = plcc(prediction, score, names, fit=fit), plcc(-prediction, score, names, fit=fit)
    assert fitted.value == pytest.approx(reversed_.value, abs=1e-3)


def test_fit_that_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr(metrics, "_FIT_EVALUATIONS", 4)
    prediction, score, names = study()
    with pytest.raises(RuntimeError, match=r"5-parameter logistic fit did not converge.*120 rows.*fit=None"):
        plcc(prediction, score, names, fit="logistic5")


def test_fit_errors():
    with pytest.raises(ValueError, match="rows: got 4, expected at least 5 for a fit of 4 parameters"):
        logistic_fit([1, 2, 3, 4], [1, 2, 3, 5])
    with pytest.raises(ValueError, match=r"prediction: got 1.0 in all 6 rows, .* for a logistic fit"):
        logistic_fit([1] * 6, range(6))
    with pytest.raises(ValueError, match=r"score: got 1.0 in all 6 rows"):
        logistic_fit(range(6), [1] * 6)
    with pytest.raises(ValueError, match="parameters: got 3, expected one of 4, 5"):
        logistic_fit(range(6), range(6), 3)
    for statistic in (plcc, rmse):
        with pytest.raises(ValueError, match="fit: got 'cubic', expected one of None, 'logistic4', 'logistic5'"):
            statistic(range(6), range(6), range(6), fit="cubic")


# --- Two-alternative forced choice


def test_accuracy_on_hard_votes():
    estimate = two_afc_accuracy([0.9, 0.2, 0.6, 0.4], [1, 0, 0, 1], "aabb")
    assert (estimate.value, estimate.n, estimate.references) == (0.5, 4, 2)
    assert interval(estimate) == (0, 1)


def test_accuracy_on_shares_is_the_share_that_agrees():
    # B, A, B: 0.8 agree, 1 - 0.4 agree, 0.3 agree.
    assert two_afc_accuracy([0.7, 0.1, 1.0], [0.8, 0.4, 0.3], "abc").value == pytest.approx((0.8 + 0.6 + 0.3) / 3)


def test_accuracy_takes_booleans_and_one_row():
    estimate = two_afc_accuracy([1], [True], ["a"])
    assert estimate.value == 1
    assert math.isnan(estimate.low)


@pytest.mark.parametrize(("ties", "expected"), [("a", (1 + 0 + 0.75) / 3), ("half", 0.5)])
def test_ties(ties, expected):
    assert two_afc_accuracy([0.5] * 3, [0, 1, 0.25], "abc", ties=ties).value == pytest.approx(expected)


def test_ties_leave_other_rows_alone():
    assert two_afc_accuracy([0.5, 0.51], [1, 1], "ab", ties="half").value == 0.75
    assert two_afc_accuracy([0.5, 0.51], [1, 1], "ab").value == 0.5


@pytest.mark.parametrize("key", [lambda *names: names, lambda *names: ",".join(names)], ids=["tuples", "strings"])
def test_devkit_keeps_the_last_label_and_prediction_of_a_triplet(key):
    triplets = [key("O", "A", "B"), key("P", "A", "B"), key("O", "A", "B"), key("O", "B", "A")]
    p_b, label, names = [0.9, 0.9, 0.2, 0.9], [1, 1, 0, 0], ["O", "P", "O", "O"]
    options = {"triplets": triplets, "dedup": "devkit"}
    # Last of (O, A, B): decision A, label 0, right. (P, A, B): right. The swapped (O, B, A) is another key: wrong.
    estimate = two_afc_accuracy(p_b, label, names, **options)
    assert (estimate.value, estimate.n, estimate.references) == (pytest.approx(2 / 3), 3, 2)
    assert two_afc_accuracy(p_b, label, names).value == pytest.approx(3 / 4)
    # Equal predictions and contradictory labels: the last label decides.
    assert two_afc_accuracy([1, 1], [1, 0], "OO", triplets=triplets[::2], dedup="devkit").value == 0
    assert two_afc_accuracy([1, 1], [0, 1], "OO", triplets=triplets[::2], dedup="devkit").value == 1


def test_devkit_without_repeats_equals_rows():
    rng = np.random.default_rng(0)
    columns = rng.random(60), rng.integers(2, size=60), np.arange(60) % 7
    assert two_afc_accuracy(*columns, triplets=range(60), dedup="devkit") == two_afc_accuracy(*columns)


def test_accuracy_option_errors():
    data = [0.5, 0.5], [0, 1], "ab"
    with pytest.raises(ValueError, match="dedup: got 'pairs', expected one of 'rows', 'devkit'"):
        two_afc_accuracy(*data, dedup="pairs")
    with pytest.raises(ValueError, match="ties: got 'b', expected one of 'a', 'half'"):
        two_afc_accuracy(*data, ties="b")
    with pytest.raises(ValueError, match=r"triplets: got None, .*: pass one per row"):
        two_afc_accuracy(*data, dedup="devkit")
    with pytest.raises(ValueError, match="lengths triplets 3, p_b 2"):
        two_afc_accuracy(*data, dedup="devkit", triplets="xyz")
    with pytest.raises(ValueError, match=r"unhashable.*pass strings"):
        two_afc_accuracy(*data, dedup="devkit", triplets=[["O", "A", "B"], ["O", "B", "A"]])
    with pytest.raises(ValueError, match="rows: got 0, expected at least 1"):
        two_afc_accuracy([], [], [])


# --- Calibration


def test_calibration_by_hand():
    result = calibration([0.1, 0.2, 0.3, 0.9, 1.0], [0, 1, 1, 1, 0.5], bins=4)
    assert result.predicted == pytest.approx([0.15, 0.3, 0.95])
    assert result.observed == pytest.approx([0.5, 1, 0.75])
    assert result.count.tolist() == [2, 1, 2]


def test_calibration_edges_belong_to_the_upper_bin_and_one_to_the_last():
    assert calibration([0, 0.25, 0.5, 0.75, 1], [0] * 5, bins=4).count.tolist() == [1, 1, 1, 2]
    assert calibration([0, 0.5, 1], [0, 1, 1], bins=1).count.tolist() == [3]


def test_calibration_of_honest_probabilities_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    p_b = rng.random(20000)
    result = calibration(p_b, rng.random(20000) < p_b)
    assert result.count.sum() == 20000
    assert result.observed == pytest.approx(result.predicted, abs=0.04)


# --- Validation shared by all


@pytest.mark.parametrize("statistic", [plcc, srocc, krocc, rmse, two_afc_accuracy])
def test_columns_must_have_one_length(statistic):
    with pytest.raises(ValueError, match=r"columns: got lengths .* 3, .* 3, references 2"):
        statistic([0, 1, 0], [1, 0, 0], "ab")
    with pytest.raises(ValueError, match=r"columns: got lengths .* 3, .* 4, references 3"):
        statistic([0, 1, 0], [1, 0, 0, 1], "abc")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("statistic", [plcc, srocc, krocc, rmse])
def test_values_must_be_finite(statistic, bad):
    with pytest.raises(
        ValueError, match=rf"prediction: got {bad} in row 1 \(1 such of 3 rows\), expected finite numbers"
    ):
        statistic([1, bad, 0], [1, 2, 3], "abc")
    with pytest.raises(ValueError, match=f"score: got {bad} in row 1"):
        statistic([1, 2, 0], [1, bad, 3], "abc")


@pytest.mark.parametrize("bad", [math.nan, -0.01, 1.01])
def test_probabilities_and_labels_must_lie_in_the_unit_interval(bad):
    for function in (lambda *columns: two_afc_accuracy(*columns, "ab"), calibration):
        with pytest.raises(
            ValueError, match=rf"p_b: got {bad} in row 1 \(1 such of 2 rows\), expected numbers in \[0, 1\]"
        ):
            function([0.5, bad], [0, 1])
        with pytest.raises(ValueError, match=f"label: got {bad} in row 1"):
            function([0.5, 0.5], [0, bad])


def test_columns_must_be_flat_numbers():
    with pytest.raises(ValueError, match=r"prediction: got shape \(3, 1\), expected a flat sequence"):
        plcc([[1], [2], [3]], [1, 2, 3], "abc")
    with pytest.raises(ValueError, match="score: got something that is not a number"):
        srocc([1, 2, 3], [1, "good", 3], "abc")


@pytest.mark.parametrize("missing", [None, math.nan])
def test_every_row_needs_a_reference(missing):
    with pytest.raises(ValueError, match="references: got None or nan"):
        plcc([1, 2, 3], [1, 2, 4], ["a", missing, "b"])


def test_references_must_be_of_one_type():
    with pytest.raises(ValueError, match=r"references: .*: pass ids of one type"):
        plcc([1, 2, 3], [1, 2, 4], ["a", 1, "b"])


def test_references_come_as_lists_arrays_or_tuples():
    prediction, score, names = study()
    expected = plcc(prediction, score, names)
    assert plcc(prediction, score, list(names)) == expected
    assert plcc(list(prediction), list(score), [("set", name) for name in names]) == expected


@pytest.mark.parametrize("resamples", [0, -1, 2.5])
def test_resamples_must_be_a_positive_integer(resamples):
    with pytest.raises(ValueError, match=f"resamples: got {resamples}, expected a whole number of at least 1"):
        plcc([1, 2, 3], [1, 2, 4], "abc", resamples=resamples)
    with pytest.raises(ValueError, match="bins: got"):
        calibration([0.5], [1], bins=resamples)


# --- Differences


def test_a_paired_difference_draws_the_same_references_for_both():
    rng = np.random.default_rng(1)
    score, references = rng.normal(size=120), np.repeat(np.arange(12), 10)
    first, second = (score + rng.normal(scale=s, size=120) for s in (0.5, 0.9))
    found = paired_difference(*(srocc(x, score, references, seed=4) for x in (first, second)))
    draws = np.random.default_rng(4)
    gaps = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(references == r) for r in draws.integers(12, size=12)])
        gaps.append(stats.spearmanr(first[rows], score[rows])[0] - stats.spearmanr(second[rows], score[rows])[0])
    assert found.value == pytest.approx(stats.spearmanr(first, score)[0] - stats.spearmanr(second, score)[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(gaps, (2.5, 97.5))))
    same = srocc(first, score, references)
    assert (paired_difference(same, same).low, paired_difference(same, same).high) == (0, 0)


def test_only_estimates_of_the_same_rows_have_a_paired_difference():
    score = np.arange(12.0)
    first, second = (srocc(score[:n], score[:n], ["a", "b", "c"] * (n // 3)) for n in (12, 9))
    with pytest.raises(ValueError, match=r"got \(12, 3, 1000\) and \(9, 3, 1000\) rows, references, resamples"):
        paired_difference(first, second)


@pytest.mark.parametrize("measure", ["accuracy", "plcc", "srocc", "krocc"])
def test_the_noise_of_a_difference_is_that_of_simulated_tests(measure):
    rng, n, value = np.random.default_rng(0), 400, 0.8
    if measure == "accuracy":
        values = (rng.random((3000, n)) < value).mean(axis=1)
    else:
        rho = {"plcc": 0.8, "srocc": 2 * np.sin(np.pi * 0.8 / 6), "krocc": np.sin(np.pi * 0.8 / 2)}[measure]
        x, e = rng.normal(size=(2, 600, n))
        y = rho * x + np.sqrt(1 - rho**2) * e
        statistic = {"plcc": lambda a, b: np.corrcoef(a, b)[0, 1], "srocc": lambda a, b: stats.spearmanr(a, b)[0]}.get(
            measure, lambda a, b: stats.kendalltau(a, b)[0]
        )
        values = np.array([statistic(*pair) for pair in zip(x, y, strict=True)])
    assert values.mean() == pytest.approx(value, abs=0.01)
    assert difference_noise(measure, value, value, n) == pytest.approx(1.96 * 2**0.5 * values.std(), rel=0.15)


def test_the_paired_noise_of_accuracies_is_that_of_simulated_paired_tests():
    rng, n, p, discordance = np.random.default_rng(0), 400, 0.8, 0.1
    first = rng.random((3000, n)) < p
    flipped = rng.random((3000, n)) < np.where(first, discordance / 2 / p, discordance / 2 / (1 - p))
    differences = first.mean(axis=1) - (first ^ flipped).mean(axis=1)
    noise = paired_noise("accuracy", p, p, n, discordance)
    assert noise == pytest.approx(1.96 * differences.std(), rel=0.05)
    assert noise < difference_noise("accuracy", p, p, n)
    assert paired_noise("accuracy", 0.8, 0.7, n, 0.0) == pytest.approx(1.96 * np.sqrt((0.1 - 0.01) / n)), "at least d"
    assert paired_noise("srocc", 0.8, 0.7, n, 0.5) == pytest.approx(0.5 * difference_noise("srocc", 0.8, 0.7, n))


def test_the_main_score_is_the_sum_of_both_correlations_in_each_resample():
    parts, main = [measure(*study()) for measure in (plcc, srocc)], main_score(*study())
    assert main.value == pytest.approx(parts[0].value + parts[1].value)
    assert main.low == pytest.approx(np.percentile(parts[0].resampled + parts[1].resampled, 2.5))
    assert (main.n, main.references) == (parts[0].n, parts[0].references)


def test_the_mean_of_trainings_resamples_the_same_references():
    predictions, scores, references = study()
    noise = np.random.default_rng(1).normal(size=(3, len(scores)))
    trained = [srocc(np.asarray(predictions) + each, scores, references) for each in noise]
    mean = mean_estimate(trained)
    assert mean.value == pytest.approx(np.mean([each.value for each in trained]))
    assert mean.low == pytest.approx(np.percentile(np.mean([each.resampled for each in trained], axis=0), 2.5))
    apart = mean_estimate(trained, same_rows=False)
    assert apart.low == pytest.approx(np.mean([each.low for each in trained]))
    assert not apart.resampled.size
    assert paired_difference(mean, trained[0]).value == pytest.approx(mean.value - trained[0].value)


@pytest.mark.parametrize(
    ("value", "low", "high", "spread", "said"),
    [
        (0.05, -0.01, 0.11, 0.001, "within noise"),
        (0.05, 0.01, 0.09, 0.02, "differs"),
        (-0.05, -0.09, -0.01, 0.02, "differs"),
        (-0.05, -0.09, -0.01, 0.06, "not resolved: one training moves by 0.060"),
        (0.05, 0.01, 0.09, np.nan, "differs, but one training each: its noise is not known"),
        (0.05, np.nan, np.nan, 0.02, ""),
    ],
)
def test_a_verdict_needs_both_the_interval_and_the_trainings(value, low, high, spread, said):
    assert verdict(Estimate(value, low, high, 100, 10), spread) == said


def test_the_noise_of_a_training_is_unknown_from_one():
    assert training_spread([0.7, 0.75, 0.72]) == pytest.approx(0.05)
    assert math.isnan(training_spread([0.7]))
