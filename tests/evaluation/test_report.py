"""report.py: files of all commands, and of the versions that did not name theirs, are read into one shape."""

import json

import pytest

from tsf_llm.evaluation.report import Report, print_evaluation, remarks

ROW = {"n": 3, "crps": 0.02, "rmse": 0.04, "mase": None, "coverage_80": 0.8}
ROW |= {"direction_accuracy": 0.5, "direction_ci95": None, "direction_base_rate": 0.5}
TRAINED = {"before": ROW, "after": ROW, "verdicts": {"drift": "worse than drift"}, "baselines": {"drift": ROW}}
TWO = {"rows": [{"model": name, **ROW} for name in ("model", "drift")], "verdicts": {"drift": {"verdict": "so so"}}}
COPIES = [{"model": "original", **ROW}, {"model": "int8", **ROW, "difference": {"verdict": "no edge"}}]


@pytest.mark.parametrize(
    ("content", "made_by"),
    [
        (TRAINED, "sft"),
        ({**TRAINED, "loss_type": ["ipo"]}, "dpo"),
        ({**TRAINED, "reward": "pnl"}, "grpo"),
        ({**TRAINED, "teacher": "27m", "rows": []}, "distill"),
        ({**TRAINED, "tickers": {}}, "lora"),
        ({**TRAINED, "kept": True}, "adapt"),
        (TWO, "evaluate"),
        ({"rows": COPIES}, "compress"),
        ({**TRAINED, "made_by": "something new"}, "something new"),
    ],
)
def test_who_wrote_it_is_told_or_inferred(content, made_by):
    assert Report.of(content).made_by == made_by


def test_a_training_an_evaluation_and_a_distillation_have_one_shape():
    trained = Report.of({**TRAINED, "difference": {"crps": {"verdict": "better than before"}}, "seed": 3})
    assert list(trained.rows) == ["model", "before", "drift"]
    assert trained.verdicts == {"crps": "better than before", "drift": "worse than drift"}
    assert trained.facts == {"seed": 3}
    evaluated = Report.of({**TWO, "horizon": 5, "tickers": ["A"]})
    assert (list(evaluated.rows), evaluated.verdicts) == (["model", "drift"], {"drift": "so so"})
    assert evaluated.facts == {"horizon": 5, "tickers": ["A"]}
    rows = [{"model": name, **ROW} for name in ("teacher", "student", "drift")]
    distilled = {**TRAINED, "baselines": None, "rows": rows, "differences": {"teacher": {"verdict": "worse"}}}
    assert list(Report.of(distilled).rows) == ["model", "before", "teacher", "drift"]
    assert Report.of(distilled).verdicts == {"teacher": "worse", "drift": "worse than drift"}


def test_adapters_and_copies_are_parts():
    tickers = {"A": {"after": ROW, "before": ROW, "verdict": "no edge over the base"}, "B": {"after": {}}}
    run = Report.of({**TRAINED, "tickers": tickers, "seed": 1})
    assert run.parts["A"].verdicts == {"before": "no edge over the base"}
    assert (list(run.parts["A"].rows), list(run.parts["B"].rows)) == (["model", "before"], [])
    assert (run.parts["A"].facts["seed"], run.parts["A"].made_by) == (1, "adapter")
    copy = Report.of({"rows": COPIES, "seed": 2}).parts["int8"]
    assert (copy.made_by, copy.verdicts, copy.facts["seed"]) == ("copy", {"original": "no edge"}, 2)
    assert list(copy.rows) == ["model", "original"]


@pytest.mark.parametrize(
    ("content", "words"), [("{", "is no results.json"), ("[]", "holds no scores"), ("{}", "holds no scores")]
)
def test_files_that_hold_no_scores_are_refused(tmp_path, content, words):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        Report.read(tmp_path / "results.json")


def test_the_terminal_shows_what_is_undefined_as_a_dash_within_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    facts = {"horizon": 5, "start": "2011-11-10", "end": "2013-02-22", "out_of_sample": False}
    long = {"model": "historical_volatility_20", **ROW, "direction_ci95": [0.4, 0.6]}
    content = {**TWO, "rows": [*TWO["rows"], long], **facts, "trained_through": "2012-01-01"}
    (tmp_path / "results.json").write_text(json.dumps(content))
    print_evaluation(Report.read(tmp_path / "results.json"))
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    assert "historical_volatility_20 2.000 +0.0 - 0.80 0.500 [0.40, 0.60] 0.500" in " ".join(told.split())
    assert "model: so so" in told
    assert "Not out of sample: the model has seen prices through 2012-01-01" in told


@pytest.mark.parametrize(
    ("seen", "out_of_sample", "words"),
    [
        ("2012-01-01", False, "Not out of sample: the model has seen prices through 2012-01-01."),
        (None, None, "Whether this is out of sample is unknown: the model does not say which dates it has seen."),
        ("2009-01-01", True, ""),
    ],
)
def test_the_terminal_says_what_is_known_of_the_dates(capsys, seen, out_of_sample, words):
    facts = {"horizon": 5, "start": "2011-11-10", "end": "2013-02-22", "out_of_sample": out_of_sample}
    print_evaluation(Report.of({**TWO, **facts, "trained_through": seen}))
    told = " ".join(capsys.readouterr().out.split())
    assert words in told
    assert ("out of sample" in told) == bool(words)


def test_a_calibration_is_told_where_it_was_used():
    told = {"used": True, "before": {"coverage_80": 0.7}, "after": {"coverage_80": 0.8}}
    row = {"model": "model", "horizon": 1, "crps": 1.0}
    used, unused = (
        Report.of({"rows": [row], "horizon": 1, "calibration": one}, "evaluate") for one in (told, {"used": False})
    )
    assert remarks(used) == ["The model's law is calibrated, which took coverage 80 from 0.700 to 0.800."]
    assert remarks(unused) == []
