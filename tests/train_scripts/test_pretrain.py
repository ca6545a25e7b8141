"""pretrain.py: from files to folder; what is held out changes no bit; a run that died goes on; recipes over years."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.configuration_tsf_llm import TsfLlmConfig
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.train_scripts import pretrain
from tsf_llm.training import pretraining
from tsf_llm.training.pretraining import RUN

THROUGH = "2018-06-29"
FILES = ("model.safetensors", "config.json", "processor_config.json", "tokenizer_config.json")


def write(folder, tables):
    folder.mkdir(exist_ok=True)
    for name, bars in tables.items():
        pd.concat(bars).to_csv(folder / f"{name}.csv", index=False)
    return [folder / f"{name}.csv" for name in tables]


@pytest.fixture(scope="module")
def tables(make_bars):
    """Two files of 1,000 days until October 2018; BBB is in both, HID is to be held out."""
    options = {"rows": 1000, "start": "2015-01-01"}
    first = [make_bars(**options, ticker=name, seed=seed) for name, seed in (("AAA", 1), ("BBB", 2))]
    second = [make_bars(**options, ticker=name, seed=seed) for name, seed in (("BBB", 5), ("CCC", 3), ("HID", 4))]
    return {"first": first, "second": second}


@pytest.fixture(scope="module")
def run(small_model, command_line):
    """`run(output_dir, files, **options)` -> the report of a small pretraining."""
    usual = {"held_out": "HID", "through": THROUGH, "context_length": 16, "horizon": 2, "stride": 8, "n_bins": 32}
    usual |= {"feature_groups": ["returns", "market"], "model_config": small_model, "max_steps": 4}
    usual |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}
    usual |= {"per_device_train_batch_size": 16, "disable_tqdm": True, "ema_decay": 0.5, "seeds": [0, 1]}
    usual |= {"bag_years": True, "learning_rate": 1e-2}

    def call(output_dir, files, **options):
        words = command_line(**{**usual, "data": files, "output_dir": output_dir, **options})
        return pretrain.main(*pretrain.parse(words))

    return call


@pytest.fixture(scope="module")
def done(run, tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    files = write(folder / "files", tables)
    return folder / "out", run(folder / "out", files), files


def log(folder):
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def contents(folder):
    """All that must not change by a bit, but for the times of day."""
    report = json.loads((folder / "report.json").read_text())
    lines = [{name: value for name, value in line.items() if name != "at"} for line in log(folder)]
    weights = [path.read_bytes() for path in sorted(folder.glob("runs/*/model.safetensors"))]
    return [(folder / name).read_bytes() for name in FILES], {**report, "seconds": 0}, lines, weights


def test_leaves_a_model_a_report_and_a_line_for_each_trial(done):
    folder, report, _ = done
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    model = TsfLlmForCausalLM.from_pretrained(folder)
    assert model.config.trained_through == report["valid_through"] == report["trained_through"] == THROUGH
    assert report["train_through"] == load_pipeline(folder).processor.fitted_through == "2017-06-29"
    assert "AAA, BBB, CCC" in model.config.trained_on
    lines = log(folder)
    assert [line["what"] for line in lines] == ["seed", "seed", "ensemble", "student"]
    assert report["trials"] == 4
    for line in lines:
        assert list(line["figures"]) == ["1", "5", "20"]
        assert line["settings"]["bars"] == report["fingerprint"]
        assert line["settings"]["held_out"] == ["HID"]
        assert line["settings"]["max_steps"] == 4
    assert not list(folder.rglob("checkpoint-*"))  # a finished run needs none


def test_the_better_of_student_and_seeds_is_kept(done):
    folder, report, _ = done
    losses = {one["what"] if one["what"] == "student" else f"seed {one['seed']}": one.get("valid_loss")
              for one in report["validation"] if "valid_loss" in one}  # fmt: skip
    assert report["kept"] == min(losses, key=losses.get)
    kept = load_file(folder / "runs" / report["kept"].replace(" ", "-") / "model.safetensors")
    assert all(value.equal(kept[name]) for name, value in load_file(folder / "model.safetensors").items())
    assert "kept" in report["calibration"]
    assert load_pipeline(folder).processor.calibration == json.loads(json.dumps(report["calibration"]))


def altered(tables, *, future=False, held_out=False, second=False, gone=False, past=False):
    changed = {name: [bars.copy() for bars in part] for name, part in tables.items()}
    for bars in (bars for part in changed.values() for bars in part):
        rows = pd.Series(False, index=bars.index)
        if future:
            rows |= bars["timestamp"] > THROUGH
        if held_out and bars["ticker"].iloc[0] == "HID":
            rows |= True
        if past and bars["ticker"].iloc[0] == "CCC":
            rows.iloc[100] = True
        bars.loc[rows, ["open", "high", "low", "close"]] *= 3.0
        bars.loc[rows, "volume"] *= 7
    if second:
        changed["second"][0]["high"] *= 1.02
    if gone:
        changed["second"] = [bars[bars["timestamp"] <= THROUGH] for bars in changed["second"]]
    return changed


@pytest.mark.parametrize("change", [{"future": True, "held_out": True, "second": True, "gone": True}, {"past": True}])
def test_later_bars_and_held_out_tickers_change_no_bit(done, run, tables, tmp_path, change):
    """Nor does a ticker's second file. Of the weights, scalers, bins, figures, calibration: a bar before does."""
    run(tmp_path / "out", write(tmp_path / "files", altered(tables, **change)))
    same = [one == other for one, other in zip(contents(done[0]), contents(tmp_path / "out"), strict=True)]
    assert same == [not change.get("past")] * 4


def test_a_run_that_died_goes_on_at_its_seed(done, run, tmp_path, monkeypatch):
    folder, _, files = done
    trained, train = [], pretraining.train

    def dying(data_args, model_args, training_args, data):
        trained.append(training_args.seed)
        if trained == [0, 1]:
            raise RuntimeError("the power went")
        return train(data_args, model_args, training_args, data)

    monkeypatch.setattr(pretraining, "train", dying)
    with pytest.raises(RuntimeError, match="the power went"):
        run(tmp_path / "out", files)
    assert not (tmp_path / "out" / "config.json").exists()
    run(tmp_path / "out", files)
    assert trained == [0, 1, 1]
    assert contents(tmp_path / "out") == contents(folder)
    run(tmp_path / "out", files)  # finished: nothing is trained again
    assert trained == [0, 1, 1]


def test_another_recipe_or_other_bars_in_the_folder_are_refused(done, run, tables, tmp_path):
    folder, _, files = done
    for options in ({"learning_rate": 5e-3}, {"held_out": "CCC"}):
        with pytest.raises(ValueError, match="seed-0 is of another recipe or other bars"):
            run(folder, files, **options)
    other = write(tmp_path / "files", altered(tables, past=True))
    with pytest.raises(ValueError, match="seed-0 is of another recipe or other bars"):
        run(folder, other)
    assert "figures" in json.loads((folder / "runs" / "seed-0" / RUN).read_text())


def test_a_recipe_is_compared_over_years(run, done, tmp_path):
    report = run(tmp_path, done[2], years=[2016, 2017], seeds=[0, 1])
    assert json.loads((tmp_path / "walk_forward.json").read_text()) == json.loads(json.dumps(report))
    assert [(row["year"], row["what"]) for row in report["rows"]] == [
        (year, what) for year in (2016, 2017) for what in ("ensemble", "seed", "seed")
    ]
    for row in report["rows"]:
        assert row["figures"]["1"]["days"] > 240
    single = [row["figures"]["5"]["crps"] for row in report["rows"] if row["what"] == "seed"]
    assert report["mean"]["one seed"]["5"]["crps"] == pytest.approx(sum(single) / 4)
    lines = log(tmp_path)
    fences = {(line["settings"]["train_through"], line["settings"]["through"]) for line in lines}
    assert fences == {("2015-12-31", "2016-12-31"), ("2016-12-31", "2017-12-31")}
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"years": [2018]}, "years=2018: ends after through=2018-06-29"),
        ({"years": [2016, 2016]}, "give each once"),
        ({"train_through": "2031-01-01"}, "train_through=2031-01-01: give a date within the bars"),
        ({"held_out": ["AAA", "BBB", "CCC", "HID"]}, "leave no bar"),
        ({"head": "quantile"}, "pretraining makes new causal models"),
        ({"through": None}, "through is missing"),
        ({"data": ["nowhere.csv"]}, "nowhere.csv"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(run, done, tmp_path, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        run(tmp_path / "out", done[2], **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "least", "most"), [("pretrain", 26e6, 28e6), ("pretrain_mini", 1e5, 1e6)])
def test_the_shipped_configs_hold_out_what_the_card_is_scored_on(name, least, most, tmp_path):
    path = Path(pretrain.__file__).parent / "configs" / f"{name}.yaml"
    data, model, args, training = pretrain.parse(["--config", str(path), "--output_dir", str(tmp_path)])
    assert data.through == "2018-12-31"
    assert len(data.held_out) == 10
    assert training.max_steps * training.per_device_train_batch_size * data.context_length == 409_600
    assert (len(args.seeds) >= 3, training.ema_decay, data.n_bins) == (True, 0.98, 72)
    sizes = {"vocab_size": 74, "pad_token_id": 72, "bar_token_id": 73, "horizons": data.horizons}
    with torch.device("meta"):
        built = TsfLlmForCausalLM(
            TsfLlmConfig(num_features=80, **sizes, **(args.student_config or model.model_config))
        )
    assert least < built.num_parameters() < most


def test_far_horizons_are_taught_by_shorter_seeds(done, run, tmp_path):
    run(tmp_path, done[2], far_steps=2, student_learning_rate=1e-3, calibrate=False)
    told = [(line["what"], line["settings"]["model"].get("steps")) for line in log(tmp_path)]
    assert told == [("seed", None)] * 2 + [("far seed", 2)] * 2 + [("ensemble", None), ("student", None)]
    assert log(tmp_path)[-1]["settings"]["model"]["teacher"] == ["seed 0", "seed 1", "far seed 0", "far seed 1"]
    assert len(list(tmp_path.glob("runs/far-seed-*/model.safetensors"))) == 2
    with pytest.raises(ValueError, match="far_steps=0: must be 1 or more"):
        run(tmp_path, done[2], far_steps=0)
