"""classes.py: scores agree with scikit-learn's, and the report has its baselines."""

import doctest
import json

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from tsf_llm.evaluation import classes
from tsf_llm.evaluation.classes import class_report, class_scores, matthews_with_interval, predict_classes

DATES = np.repeat(np.arange("2020-01-01", "2020-03-01", dtype="datetime64[D]"), 3)


@pytest.fixture
def forecasts():
    """Probabilities `[n,2,3]` that are often right, and what happened, `[n,2]`."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=(len(DATES), 2), p=[0.2, 0.5, 0.3])
    logits = rng.normal(size=(len(DATES), 2, 3)) + 1.5 * np.eye(3)[labels]
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), labels


def test_scores_are_those_of_scikit_learn(forecasts):
    probabilities, actual = forecasts[0][:, 0], forecasts[1][:, 0]
    row = class_scores(probabilities, actual, DATES, horizon=1)
    called = probabilities.argmax(-1)
    assert row["accuracy"] == pytest.approx(oracle.accuracy_score(actual, called))
    assert row["log_loss"] == pytest.approx(oracle.log_loss(actual, probabilities))
    assert row["macro_f1"] == pytest.approx(oracle.f1_score(actual, called, average="macro"))
    assert row["confusion"] == oracle.confusion_matrix(actual, called).tolist()
    told = oracle.classification_report(actual, called, target_names=["down", "flat", "up"], output_dict=True)
    for name, scores in row["per_class"].items():
        expected = {
            "f1": told[name]["f1-score"],
            **{key: told[name][key] for key in ("precision", "recall", "support")},
        }
        assert scores == pytest.approx(expected)
    low, high = row["accuracy_ci95"]
    assert low < row["accuracy"] < high
    assert row["num_dates"] == 60


def test_what_has_no_denominator_is_null():
    actual = np.array([0, 1] * 30)
    row = class_scores(np.tile([0.0, 1.0, 0.0], (60, 1)), actual, DATES[:60], horizon=1)
    assert row["per_class"]["down"] == {"precision": None, "recall": 0.0, "f1": 0.0, "support": 30}
    assert row["per_class"]["up"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    json.dumps(row, allow_nan=False)


def test_the_baselines_know_the_training_alone(forecasts):
    probabilities, labels = forecasts
    training = np.array([[0, 2], [0, 2], [0, 2], [0, 1], [1, 0]])  # at the last step mostly up
    report = class_report(probabilities, labels, DATES, training)
    assert report["majority_class"]["accuracy"] == pytest.approx((labels[:, 1] == 2).mean())
    assert report["majority_class"]["log_loss"] is None
    expected = oracle.log_loss(labels[:, 1], np.tile([0.2, 0.2, 0.6], (len(labels), 1)))
    assert report["training_shares"]["log_loss"] == pytest.approx(expected)
    assert [round(x, 6) for x in report["model"]["accuracy_by_step"]] == [
        round((probabilities[:, step].argmax(-1) == labels[:, step]).mean(), 6) for step in range(2)
    ]
    assert report["verdicts"]["majority_class"].startswith("better than majority_class (error rate -")
    assert report["verdicts"]["training_shares"].startswith("better than training_shares (log loss -")


def test_guesses_have_no_edge_and_bad_ones_are_called_worse(forecasts):
    _, labels = forecasts
    shares = np.bincount(labels[:, 1]) / len(labels)
    training = np.repeat(np.arange(3), np.bincount(labels[:, 1]))[:, None]
    same = class_report(np.tile(shares, (len(labels), 2, 1)), labels, DATES, training)
    assert same["verdicts"]["training_shares"].startswith("no edge over")
    wrong = np.eye(3)[(labels + 1) % 3] * 0.9 + 0.1 / 3
    assert class_report(wrong, labels, DATES, training)["verdicts"]["training_shares"].startswith("worse than")


def test_unknown_outcomes_are_left_out(forecasts):
    probabilities, labels = forecasts
    labels = labels.copy()
    labels[::3, 1] = -100
    assert class_report(probabilities, labels, DATES, labels)["model"]["n"] == 2 * len(labels) // 3
    with pytest.raises(ValueError, match="no class is known after validation"):
        class_report(probabilities, np.full_like(labels, -100), DATES, labels)


def test_a_training_of_classes_is_scored_on_later_dates(train, tmp_path):
    report = train(tmp_path, head="classification", report_samples=16)
    for part in (report["before"], report["after"], *report["baselines"].values()):
        assert sum(row["support"] for row in part["per_class"].values()) == part["n"] > 20
    assert set(report["baselines"]) == set(report["verdicts"]) == {"majority_class", "training_shares"}
    assert report["before"]["log_loss"] != report["after"]["log_loss"]
    assert json.loads((tmp_path / "report.json").read_text())["after"] == report["after"]


def test_probabilities_do_not_depend_on_the_batch(tiny_model):
    from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction

    model = tiny_model(TsfLlmForPrediction, prediction_type="classification").train()

    class Windows:
        def __len__(self):
            return 300

        def __getitems__(self, indices):
            values = torch.stack([torch.full((4, 5), i / 100) for i in indices])
            return {"past_values": values, "attention_mask": torch.ones(len(indices), 4, dtype=torch.long)}

    found = predict_classes(model, Windows())
    assert found.shape == (300, 3, 3)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    model.eval()
    one = model(**Windows().__getitems__([299])).prediction[0]
    np.testing.assert_allclose(found[299], one.detach(), rtol=1e-4)


def test_matthews_is_that_of_scikit_learn_and_its_interval_knows_that_dates_move_together():
    assert doctest.testmod(classes).failed == 0
    rng = np.random.default_rng(0)
    actual = rng.integers(0, 2, len(DATES))
    called = np.where(rng.random(len(DATES)) < 0.7, actual, 1 - actual)
    value, (low, high) = matthews_with_interval(actual, called, DATES, horizon=1)
    assert value == pytest.approx(oracle.matthews_corrcoef(actual, called))
    assert low < value < high
    thrice = np.repeat(DATES, 3), np.repeat(actual, 3), np.repeat(called, 3)
    again = matthews_with_interval(thrice[1], thrice[2], thrice[0], horizon=1)
    assert again[0] == pytest.approx(value)
    np.testing.assert_allclose(again[1], (low, high), atol=1e-9)  # repeated samples tell nothing new
    assert matthews_with_interval(actual[:9], called[:9], DATES[:9], horizon=1)[1] is None
