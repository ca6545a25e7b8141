"""skill.py: figures that agree with the losses behind them, contexts that differ, looks that are counted."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from tsf_llm.benchmarks import skill
from tsf_llm.evaluation import every_bar
from tsf_llm.evaluation.looks import NAME
from tsf_llm.serving.loading import load_pipeline

START, END, CRASH = "2016-04-01", "2016-06-30", ["2016-05-02", "2016-05-06"]
TICKERS = [*"ABCDEFGHIJKL"]


@pytest.fixture(scope="module")
def files(make_bars, tmp_path_factory):
    """Twelve tickers, and an index."""
    folder = tmp_path_factory.mktemp("files")
    bars = [make_bars(400, ticker=name, seed=k) for k, name in enumerate(TICKERS)]
    pd.concat(bars).to_csv(folder / "prices.csv", index=False)
    make_bars(400, ticker="INDEX", seed=99).to_csv(folder / "index.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def model(train, files, tmp_path_factory):
    """One that reads a market."""
    folder = tmp_path_factory.mktemp("model") / "beside"
    options = {"feature_groups": ["bar", "market"], "market": files / "index.csv", "data": files / "prices.csv"}
    train(folder, num_train_epochs=1, **options)
    return folder


@pytest.fixture
def command(files, command_line):
    """`command(**options)` -> the exit code."""
    usual = {"data": files / "prices.csv", "market": files / "index.csv", "start": START, "end": END, "samples": 8}
    usual |= {"horizons": [1, 2], "unseen": ["A", "B", "Z"], "crash": CRASH}
    return lambda **options: skill.main(command_line(**{**usual, **options}))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_table(command, model, base_folder, files, tmp_path, capsys):
    copies = [tmp_path / "beside", tmp_path / "alone"]
    for source, copy in zip((model, base_folder), copies, strict=True):
        shutil.copytree(source, copy)
    out = {"json": tmp_path / "skill.json", "markdown": tmp_path / "skill.md"}
    assert command(models=copies, **out) == 0
    results, page = read(out["json"]), out["markdown"].read_text(encoding="utf-8")
    keys = [(row["model"], row["context"], row["tickers"], row["horizon"]) for row in results["rows"]]
    pairs = [(name, None) for name in skill.BASELINES] + [(str(copies[0]), one) for one in skill.CONTEXTS]
    pairs.append((str(copies[1]), "alone"))
    wanted = {(*pair, part, h) for pair in pairs for part in ("seen", "unseen") for h in (1, 2)}
    assert len(keys) == len(wanted)
    assert {*keys} == wanted
    assert results["unseen"] == ["A", "B"]
    assert results["looks"] == {str(copy): 1 for copy in copies}
    assert {*results["left_out"]} == {f"{copies[1]}, universe", f"{copies[1]}, index"}
    assert f"Left out: {copies[1]}, universe; " in page
    assert f"{copies[0]} 1" in page
    assert "| model | context | tickers | h = 1 | h = 2 |" in page
    rows = dict(zip(keys, results["rows"], strict=True))
    by_context = [rows[str(copies[0]), one, "seen", 1]["crps"] for one in skill.CONTEXTS]
    assert len({*by_context}) == 3
    check_figures(rows[str(copies[0]), "index", "seen", 2], copies[0], files)
    assert {(row["model"], row["context"], row["horizon"]) for row in results["joint"]} == {
        (*pair, h) for pair in pairs if pair[1] for h in (1, 2)
    }
    assert all(0 < row["joint"] < 0.5 and row["days"] > 50 for row in results["joint"])
    assert command(models=copies[1:], contexts="alone", **out) == 0
    assert read(out["json"])["looks"] == {str(copies[1]): 2}
    assert (copies[1] / NAME).read_text(encoding="utf-8").count("\n") == 2
    assert "of Diebold and Mariano over dates" in " ".join(capsys.readouterr().out.split())


def check_figures(row, folder, files):
    """Those of losses that are made another way."""
    pipe = load_pipeline(folder)
    bars, index = (pd.read_csv(files / name, parse_dates=["timestamp"]) for name in ("prices.csv", "index.csv"))
    series = pipe.processor.encode(bars, market=index)
    outcomes = every_bar.Outcomes.of(series, START, END, 2)
    [ours] = every_bar.forecasts(pipe, series, [outcomes], samples=8, progress=False)
    theirs, _ = every_bar.baselines(["garch_t", "har_range"], series, outcomes, progress=False)
    seen = ~np.isin(outcomes.ticker, ["A", "B"])
    calm = seen & ((outcomes.due < np.datetime64(CRASH[0])) | (outcomes.origin > np.datetime64(CRASH[1])))
    assert 0 < calm.sum() < seen.sum() == row["n"]

    def saved(which, name):
        return 1 - ours.losses[which].mean() / theirs[name].losses[which].mean()

    assert row["skill"] == pytest.approx(saved(seen, "garch_t"))
    assert row["skill_without_crash"] == pytest.approx(saved(calm, "garch_t"))
    assert row["vs_har"]["skill"] == pytest.approx(saved(seen, "har_range"))
    assert row["skill_ci95"][0] < row["skill"] < row["skill_ci95"][1]
    low, high = ours.quantiles[seen][:, [9, 89]].T
    realised = outcomes.realised[seen]
    assert row["coverage_80"] == pytest.approx(((low <= realised) & (realised <= high)).mean())


def test_contexts_of_one_processor_are_encoded_once(command, base_folder, tmp_path, monkeypatch):
    copies = [tmp_path / "one", tmp_path / "two"]
    for copy in copies:
        shutil.copytree(base_folder, copy)
    called = []
    real = skill.load_pipeline
    monkeypatch.setattr(skill, "load_pipeline", lambda name: spied(real(name), called))
    assert command(models=copies, horizons=1, contexts="alone") == 0
    assert len(called) == 1


def spied(pipe, called):
    encode = pipe.processor.encode
    pipe.processor.encode = lambda *args, **options: (called.append(1), encode(*args, **options))[1]
    return pipe


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": None}, "--models and --data are needed"),
        ({"models": "nowhere"}, "--models nowhere: no such folder"),
        ({"contexts": "index"}, "no model answers in index: market=: "),
        ({"contexts": "moon"}, "--contexts moon: choose from universe, index, alone"),
        ({"horizons": 0}, "give 1 or more steps"),
        ({"crash": ["2020-05-31", "2020-02-20"]}, "give its first and its last day"),
        ({"markdown": "nowhere/page.md"}, "--markdown nowhere/page.md: give a file name"),
        ({"start": "2030-01-01", "end": "2030-02-01"}, "the bars run from"),
        ({"data": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_bad_input_is_one_line_and_no_look(command, base_folder, options, words, capsys):
    with pytest.raises(SystemExit) as end:
        command(**{"models": base_folder, **options})
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert not (base_folder / NAME).exists()
