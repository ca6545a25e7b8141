"""card.py: what cards say comes from the files, all of it and nothing else."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard

from tsf_llm.data_prep.augment import AUGMENTATIONS
from tsf_llm.evaluation.report import Report
from tsf_llm.publishing.cards import Facts, adapter_card, model_card, preferences_card, prepared_card, read_scores

spec = importlib.util.spec_from_file_location("stand_in_hub", Path(__file__).parents[1] / "stand_in_hub.py")
stand_in_hub = sys.modules["stand_in_hub"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in_hub)

MODEL = {
    "model": "model",
    "horizon": 5,
    "n": 295,
    "crps": 0.0223534872,
    "mae": 0.0311308081,
    "rmse": 0.0441336,
    "mase": 0.75998077,
    "coverage_80": 0.8169492,
    "direction_accuracy": 0.5070423,
    "direction_ci95": [0.4541671, 0.5599174],
    "direction_base_rate": 0.5627119,
    "rank_ic": None,
}
WALK = {
    **MODEL,
    "model": "random_walk",
    "crps": 0.0231194,
    "coverage_80": None,
    "direction_accuracy": None,
    "direction_ci95": None,
}
BETTER = "better than random_walk (CRPS -3.3 %, 95 % CI [-6.5 %, -0.1 %])"
NO_EDGE = "no edge over drift (CRPS +0.4 %, 95 % CI [-0.8 %, +1.5 %])"
RESULTS = {
    "rows": [MODEL, WALK],
    "verdicts": {"random_walk": {"verdict": BETTER}, "drift": {"verdict": NO_EDGE}},
    "start": "2011-11-10",
    "end": "2013-02-22",
    "horizon": 5,
    "stride": 5,
    "tickers": ["AAPL", "IBM"],
    "samples": 256,
    "seed": 0,
    "trained_through": "2011-11-09",
    "out_of_sample": True,
    "version": "9.8.7",
    "commit": "a2714a6",
}
REPORT = {
    "train_through": "2010-07-27",
    "valid_through": "2011-11-09",
    "trained_through": "2011-11-09",
    "out_of_sample": True,
    "seed": 3,
    "augment": {"jitter": 0.02},
    "before": {**MODEL, "crps": 0.0999},
    "after": MODEL,
    "baselines": {"random_walk": WALK},
    "verdicts": {"random_walk": BETTER, "drift": NO_EDGE},
    "version": "9.8.7",
    "commit": "a2714a6",
}
FACTS = Facts(
    repo_id="org/bars-27m",
    revision="v1",
    config={
        "architectures": ["TsfLlmForCausalLM"],
        "num_features": 64,
        "prediction_length": 5,
        "trained_on": "sample: AAPL, IBM, from 2000-03-01",
        "trained_through": "2011-11-09",
    },
    features={
        "kind": "ohlcv",
        "context_length": 128,
        "scaling": "robust",
        "bar_seconds": 86400.0,
        "fitted_through": "2010-07-27",
    },
    parameters=27_000_001,
    datasets=[],
    report=None,
)


def scores_of(content, tmp_path, name="results.json", **kwargs):
    (tmp_path / name).write_text(json.dumps(content))
    return read_scores(tmp_path / name, **{"trained_through": "2011-11-09", **kwargs})


def test_every_score_is_in_metadata_and_text(tmp_path):
    text = model_card(FACTS, scores_of(RESULTS, tmp_path))
    assert stand_in_hub.card_errors(text, "model") == []
    card = ModelCard(text)
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values.pop("accuracy") == MODEL["direction_accuracy"]
    assert values == {name: MODEL[name] for name in ("crps", "mae", "rmse", "mase", "coverage_80")}  # rank_ic is null
    assert set(card.data.metrics) == {*values, "accuracy"}
    [task] = {(result.task_type, result.dataset_type) for result in card.data.eval_results}
    assert task == ("time-series-forecasting", "bars")
    assert "| this model | 2.235 | +3.3 | - | 0.82 | 0.507 [0.45, 0.56] | 0.563 |" in card.text
    assert "| random_walk | 2.312 | +0.0 | - | - | - | 0.563 |" in card.text
    assert f"* {BETTER}\n* {NO_EDGE}" in card.text
    assert "295 forecasts of AAPL, IBM, 5 bars ahead, from 2011-11-10 to 2013-02-22" in card.text
    assert "measured with tsf-llm 9.8.7, commit `a2714a6`" in card.text


def test_the_headlines_stand_first_and_p_values_beside_their_rows(tmp_path):
    one = {"verdict": BETTER, "verdicts": {"random_walk": {"verdict": BETTER, "dm_p": 0.04}}}
    text = model_card(FACTS, scores_of(RESULTS | one, tmp_path))
    assert f"## Scores\n\n**It is {BETTER}.**\n\n295 forecasts" in text
    assert "| random_walk | 2.312 | +0.0 | 0.040 |" in text
    horizons = {"5": one, "1": {"verdict": NO_EDGE, "verdicts": {}}}
    rows = [{**row, "horizon": horizon} for horizon in (5, 1) for row in (MODEL, WALK)]
    text = model_card(FACTS, scores_of(RESULTS | one | {"horizons": horizons, "rows": rows}, tmp_path))
    assert f"**5 ahead: {BETTER}.**\n\n**1 ahead: {NO_EDGE}.**\n\n295 forecasts" in text


def test_metadata_of_a_model():
    data = ModelCard(model_card(replace(FACTS, datasets=["org/bars"]), None)).data.to_dict()
    tags = ["tsf-llm", "time-series", "forecasting"]
    wanted = {"library_name": "transformers", "pipeline_tag": "time-series-forecasting", "license": "mit"}
    assert data == {**wanted, "tags": tags, "datasets": ["org/bars"]}


def test_without_a_file_there_is_no_number(tmp_path):
    text = model_card(FACTS, None)
    assert "No scores were measured." in text
    assert "model-index" not in text
    assert scores_of({**REPORT, "after": {}, "before": {}}, tmp_path, "report.json") is None
    known = {"27,000,001", "64", "128", "5", "1", "2011-11-09", "2010-07-27", "2000-03-01", "5.20"}
    page = ModelCard(text).text.replace("bars-27m", "").replace('"v1"', "")
    assert set(re.findall(r"\d[\d,.-]*\d|\d", page)) == known


def test_facts_are_told():
    text = model_card(replace(FACTS, report=Report.of(REPORT)), None)
    for line in (
        "27,000,001 parameters",
        "| trained on | sample: AAPL, IBM, from 2000-03-01 |",
        "| trained through | 2011-11-09 |",
        "| training fence | 2010-07-27 |",
        "| validation fence | 2011-11-09 |",
        "| scalers and bins fitted through | 2010-07-27 |",
        "| looks back | 128 bars |",
        "| spacing of bars | 1 day |",
        "| augmentation | jitter 0.02 |",
        "| made by | tsf-llm 9.8.7, commit `a2714a6` |",
        "Forecasts of dates through 2011-11-09 are no test",
        "no investment advice",
        'pipeline("time-series-forecasting", model="org/bars-27m", revision="v1", trust_remote_code=True)',
    ):
        assert line in text
    unknown = model_card(replace(FACTS, config={**FACTS.config, "trained_through": None, "trained_on": None}), None)
    assert "| trained through | not recorded |" in unknown
    assert "no score of theirs is known to be a test" in unknown


def test_a_head_loads_through_its_own_class():
    config = {**FACTS.config, "architectures": ["TsfLlmForPrediction"], "prediction_type": "quantile"}
    text = model_card(replace(FACTS, config=config, revision=None), None)
    assert 'AutoModelForTimeSeriesPrediction.from_pretrained("org/bars-27m", trust_remote_code=True)' in text
    assert "AutoModelForCausalLM" not in text
    assert "a quantile head" in text


def test_plain_series_have_units_of_their_own(tmp_path):
    features = {**FACTS.features, "kind": "univariate", "past_covariates": ["load"], "known_covariates": []}
    text = model_card(replace(FACTS, features=features), scores_of(RESULTS, tmp_path))
    assert "CRPS, mean one-step changes" in text
    assert "| this model | 0.022 |" in text
    assert "timestamp, value, load" in text


@pytest.mark.parametrize(
    ("seen", "words"), [(False, "**Not out of sample"), (None, "**Whether the weights have seen prices")]
)
def test_scores_on_seen_dates_are_marked_and_not_ranked(tmp_path, seen, words):
    text = model_card(FACTS, scores_of({**RESULTS, "out_of_sample": seen}, tmp_path))
    assert words in text
    assert "| this model | 2.235" in text
    assert "model-index" not in text
    assert "metrics" not in ModelCard(text).data.to_dict()


def test_a_report_stands_in_for_results(tmp_path):
    scores = scores_of(REPORT, tmp_path, "report.json")
    text = model_card(FACTS, scores)
    assert [*scores.rows] == ["this model", "before this training", "random_walk"]
    assert "| before this training | 9.990 |" in text
    assert "on the dates after 2011-11-09" in text
    assert f"* {NO_EDGE}" in text
    [crps] = [result for result in ModelCard(text).data.eval_results if result.metric_type == "crps"]
    assert crps.metric_value == MODEL["crps"]
    assert crps.dataset_args == {"horizon": 5, "seed": 3}


def test_utility_stands_apart_with_its_verdicts_and_its_warning(tmp_path):
    """Reports of dpo and grpo."""
    mine = {**MODEL, "utility": 0.00123, "utility_ci95": [-0.001, 0.003], "pair_accuracy": 0.87, "margin": 1.4}
    report = {
        **REPORT,
        "loss_type": ["sigmoid"],
        "beta": 0.1,
        "pairs": {"train": 617, "utility": "crps", "cost_bp": 5.0},
        "after": mine,
        "baselines": {"random_walk": WALK, "always_long": {"utility": 0.2, "utility_ci95": None}},
        "difference": {
            "crps": {"verdict": "better than before (CRPS)"},
            "utility": {"verdict": "no edge over before (U)"},
            "margin": {"verdict": "better than before (M)"},
        },
        "verdicts": {"random_walk": BETTER, "utility_against_always_long": "worse than always long (U)"},
        "warning": "utility rises while CRPS gets worse",
    }
    text = model_card(replace(FACTS, report=Report.of(report)), scores_of(report, tmp_path, "report.json"))
    assert "**Warning: utility rises while CRPS gets worse**" in text
    assert "DPO (sigmoid, beta 0.1) on 617 preference pairs, chosen by crps" in text
    forecasts, rest = text.split("### Preference pairs")
    pairs, profits = rest.split("### Utility")
    assert "always_long" not in forecasts
    assert f"* better than before (CRPS)\n* {BETTER}\n" in forecasts
    assert "| this model | 0.870 | 1.400 |" in pairs
    assert "* margin: better than before (M)" in pairs
    assert "after costs of 5 basis points" in profits
    assert "| this model | 0.00123 [-0.00100, 0.00300] |\n| always_long | 0.20000 |" in profits
    assert "* no edge over before (U)\n* worse than always long (U)" in profits


def test_a_distilled_model_stands_beside_its_teacher(tmp_path):
    teacher = {**MODEL, "model": "teacher", "crps": 0.0111, "parameters": 43344}
    alone, student = {**MODEL, "model": "student_alone", "crps": 0.0222}, {**MODEL, "model": "student"}
    report = {
        **REPORT,
        "teacher": "base",
        "temperature": 2.0,
        "alpha": 0.5,
        "rows": [teacher, student, alone, WALK],
        "baselines": None,
        "differences": {"teacher": {"verdict": "worse than the teacher (...)"}},
    }
    scores = scores_of(report, tmp_path, "report.json")
    text = model_card(replace(FACTS, report=Report.of(report), base="org/teacher"), scores)
    names = ["this model", "before this training", "its teacher", "the same, trained without the teacher"]
    assert [*scores.rows] == [*names, "random_walk"]
    assert "| its teacher | 1.110 |" in text
    assert f"* worse than the teacher (...)\n* {BETTER}" in text
    assert "distillation of a teacher of 43,344 parameters, temperature 2, alpha 0.5" in text
    unscored = Report.of({**report, "rows": [student]})
    assert "distillation of a teacher, temperature 2" in model_card(replace(FACTS, report=unscored), None)
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "org/teacher"
    assert "base_model_relation" not in data  # it is no fine-tuned teacher


def test_classes_have_scores_of_their_own(tmp_path):
    recall = {name: {"recall": value} for name, value in (("down", 0.21), ("flat", 0.35), ("up", 0.5))}
    mine = {"horizon": 5, "n": 291, "accuracy": 0.3643, "accuracy_ci95": [0.2757, 0.4528], "log_loss": 1.09479}
    mine |= {"log_loss_ci95": None, "brier": 0.66449, "macro_f1": 0.34972, "per_class": recall}
    report = {**REPORT, "before": {}, "after": mine, "baselines": {"majority_class": {**mine, "log_loss": None}}}
    text = model_card(FACTS, scores_of(report, tmp_path, "report.json"))
    assert stand_in_hub.card_errors(text, "model") == []
    assert "CRPS, %" not in text
    assert "| this model | 0.364 [0.276, 0.453] | 1.0948 | 0.6645 | 0.350 | 0.21, 0.35, 0.50 |" in text
    assert "| majority_class | 0.364 [0.276, 0.453] | - |" in text
    values = {result.metric_type: result.metric_value for result in ModelCard(text).data.eval_results}
    assert values == {"accuracy": 0.3643, "log_loss": 1.09479, "brier_score": 0.66449, "f1": 0.34972}


def test_a_continued_model_tells_what_it_kept():
    told = {"old_through": "2010-07-27", "replay": 0.2, "ewc": 0.0, "old_loss_before": 3.947, "old_loss_after": 3.9331}
    text = model_card(replace(FACTS, report=Report.of({**REPORT, "continual": told}), base="org/old"), None)
    assert "continued behind 2010-07-27: replay 0.2" in text
    assert "3.9470 before, 3.9331 after" in text
    assert "base_model_relation: finetune" in text


def test_a_leak_in_the_inputs_is_a_warning(tmp_path):
    report = {**REPORT, "leak": "inputs contain future returns"}
    assert "**Warning: inputs contain future returns**" in model_card(
        FACTS, scores_of(report, tmp_path, "report.json")
    )


def test_without_a_figure_that_the_hub_knows_there_is_no_ranking(tmp_path):
    text = model_card(FACTS, scores_of({**REPORT, "after": {"n": 3}}, tmp_path, "report.json"))
    assert "model-index" not in text
    assert "metrics" not in text.split("---")[1]


def test_scores_of_other_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="trained through 2011-11-09, but these were through 2020-01-01"):
        scores_of(RESULTS, tmp_path, trained_through="2020-01-01")


@pytest.mark.parametrize(
    ("content", "words"), [("{", "is no results.json"), ("[]", "holds no scores"), ("{}", "holds no scores")]
)
def test_files_that_hold_no_scores_are_refused(tmp_path, content, words):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_scores(tmp_path / "results.json", trained_through=None)


def test_plots_beside_the_scores_are_shown(tmp_path):
    (tmp_path / "scores.png").write_bytes(b"x")
    scores = scores_of(RESULTS, tmp_path)
    assert scores.plots == [tmp_path / "scores.png"]
    assert "![scores](scores.png)" in model_card(FACTS, scores)


# --- adapters -------------------------------------------------------------------------------------------------------

RUN = {**REPORT, "tickers": {"IBM": {"before": WALK, "after": MODEL, "verdict": "no edge over the base (...)"}}}
ADAPTER = replace(
    FACTS,
    repo_id="org/ibm",
    config={
        "architectures": ["TsfLlmForCausalLM"],
        "ticker": "IBM",
        "data": "sample: IBM, from 2000-03-01",
        "trained_through": "2011-11-09",
        "train_through": "2010-07-27",
        "r": 8,
        "target_modules": ["o_proj", "lm_head"],
    },
)


def test_an_adapter_finds_its_part_of_the_run(tmp_path):
    scores = scores_of(RUN, tmp_path, "report.json", ticker="IBM")
    text = adapter_card(ADAPTER, scores, base="org/bars-27m")
    assert stand_in_hub.card_errors(text, "model") == []
    data = ModelCard(text).data
    assert (data.library_name, data.base_model) == ("peft", "org/bars-27m")
    assert [*scores.rows] == ["this adapter", "its base"]
    assert "* no edge over the base (...)" in text
    assert "295 forecasts of IBM" in text
    assert "`lm_head`, `o_proj`" in text
    assert 'PeftModel.from_pretrained(base, "org/ibm", revision="v1")' in text
    assert 'AutoProcessor.from_pretrained("org/ibm", revision="v1", trust_remote_code=True)' in text
    without = adapter_card(replace(ADAPTER, features={}), None, base="org/bars-27m")
    assert 'AutoProcessor.from_pretrained("org/bars-27m", trust_remote_code=True)' in without


def test_the_model_beside_adapters_does_not_take_their_scores(tmp_path):
    assert scores_of(RUN, tmp_path, "report.json") is None
    assert scores_of(RUN, tmp_path, "report.json", ticker="AAPL") is None


# --- datasets -------------------------------------------------------------------------------------------------------


def test_a_prepared_dataset_keeps_its_card_and_gets_what_the_hub_needs(tmp_path):
    load = 'load_dataset("parquet", data_files="data/*.parquet", split="train")'
    written = f"---\ntags:\n- finance\n---\n\n# Bars\n\n`{load}`\n"
    (tmp_path / "README.md").write_text(written)
    text = prepared_card(tmp_path, "org/bars", source="an exchange", licence="cc-by-4.0")
    assert stand_in_hub.card_errors(text, "dataset") == []
    card = DatasetCard(text)
    assert card.data.to_dict() == {"tags": ["finance"], "license": "cc-by-4.0"}
    assert 'load_dataset("org/bars", split="train")' in text
    assert "Source: an exchange." in text
    for name in AUGMENTATIONS:
        assert f"| `{name}` |" in text
    assert "Source: not stated" in prepared_card(tmp_path, "org/bars", source=None, licence=None)


def test_preference_pairs_tell_their_fence():
    info = {
        "settings": {"samples": 16, "through": "2015-12-31", "utility": "pnl", "horizon": 5, "stride": 5, "seed": 1},
        "counts": {"pairs": 1200, "origins": 1300, "ties": 60, "below_margin": 40},
        "pairs_by_ticker": {"AAA": 700, "BBB": 500},
        "first_origin": "2015-02-02",
        "last_origin": "2015-12-24",
        "fitted_through": "2015-12-31",
        "trained_through": "2016-06-30",
        "features": ["a", "b"],
    }
    text = preferences_card(info, "org/pairs", source=None, licence=None)
    assert stand_in_hub.card_errors(text, "dataset") == []
    assert DatasetCard(text).data.configs == [{"config_name": "default", "data_files": "preferences.parquet"}]
    assert "1,200 pairs from 1,300 past bars of 2 series" in text
    assert "| fence: last outcome | 2015-12-31 |" in text
    assert "| utility | `pnl` |" in text
    assert 'load_dataset("org/pairs", split="train")' in text
