"""fev_bench.py: a list of tasks, kept results, reasons in place of results; and one line where fev cannot run."""

import json
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest

from tsf_llm.benchmarks import fev_bench

TASK = {"dataset_path": "{folder}/load.parquet", "horizon": 2, "seasonality": 7}


def write_tasks(folder, *tasks):
    """As JSON, which is YAML."""
    path = folder / "tasks.yaml"
    path.write_text(json.dumps({"tasks": tasks}).replace("{folder}", str(folder)))
    return path


@pytest.fixture
def fev(tmp_path, monkeypatch):
    found = pytest.importorskip("fev", reason="fev wants datasets below 5: `make test-lowest` has both")
    if int(version("datasets").partition(".")[0]) >= 5:
        pytest.skip("fev loads nothing with datasets 5: `make test-lowest` has an older one")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    days = pd.date_range("2023-01-01", periods=60, freq="D")
    load = np.random.default_rng(0).normal(size=60)
    pd.DataFrame({"id": "a", "timestamp": days, "target": load}).to_parquet(tmp_path / "load.parquet", index=False)
    return found


def stand_in(fev, monkeypatch):
    """A model of zeros, which counts its calls."""
    from tsf_llm.benchmarks import fev_model

    calls = []

    class Zeros(fev.ForecastingModel):
        model_name = f"zeros of {id(calls)}"

        def __init__(self, *args, **options):
            super().__init__()
            self.left_out = {}

        def _fit_predict(self, task):
            calls.append(task.task_name)
            zeros = {name: [[0.0] * task.horizon] for name in ("predictions", *map(str, task.quantile_levels))}
            import datasets

            return [datasets.DatasetDict({"target": datasets.Dataset.from_dict(zeros)})] * task.num_windows

    monkeypatch.setattr(fev_model, "TsfLlmModel", Zeros)
    return calls


def test_tasks_are_scored_once_and_those_that_fail_are_tried_again(fev, tmp_path, monkeypatch, command_line, capsys):
    calls = stand_in(fev, monkeypatch)
    absent = {**TASK, "dataset_path": "{folder}/none.parquet", "task_name": "absent"}
    tasks, out = write_tasks(tmp_path, {**TASK, "task_name": "load"}, absent), tmp_path / "out"
    words = command_line(tasks=tasks, out=out)
    assert fev_bench.main(words) == 0
    assert fev_bench.main(words) == 0
    assert calls == ["load", "absent", "absent"]
    summaries = json.loads((out / "summaries.json").read_text())
    assert [(one["model_name"], one["task_name"]) for one in summaries] == [
        ("seasonal_naive", "load"),
        ("tsf-llm", "load"),
    ]
    board = fev.leaderboard(summaries)
    assert set(board.index) == {"seasonal_naive", "tsf-llm"}
    told = capsys.readouterr().out
    assert "absent, seasonal_naive: Failed to load the dataset" in told
    assert fev_bench.main(command_line(tasks=tasks, out=out, seed=1)) == 0
    assert calls[3:] == ["load", "absent"]


def test_a_foreign_file_is_not_replaced(fev, tmp_path, command_line, capsys):
    (out := tmp_path / "out").mkdir()
    (out / "summaries.json").write_text("{}")
    with pytest.raises(SystemExit) as end:
        fev_bench.main(command_line(tasks=write_tasks(tmp_path, TASK), out=out))
    assert end.value.code == 2
    assert "was not written by this package" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"tasks": []}, "write a list `tasks` of mappings"),
        ({"tasks": [{"horizon": 2}]}, "task 1: "),
        ({"tasks": [{**TASK, "horizn": 3}]}, "horizn"),
        ({"tasks": [{**TASK, "eval_metric": "WQL"}]}, "Please provide quantile_levels"),
    ],
)
def test_no_list_of_tasks(fev, tasks, said, tmp_path, command_line, capsys):
    (path := tmp_path / "tasks.yaml").write_text(json.dumps(tasks))
    with pytest.raises(SystemExit) as end:
        fev_bench.main(command_line(tasks=path, out=tmp_path / "out"))
    assert end.value.code == 2
    assert said in (told := capsys.readouterr().err)
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({"datasets": "5.2.0"}, "fev is not installed: pip install 'tsf-llm[fev]'"),
        ({"datasets": "5.2.0", "fev": "0.10.0"}, "fev loads nothing with datasets 5.2.0, it wants one below 5"),
    ],
)
def test_what_is_missing_is_one_line(installed, said, tmp_path, monkeypatch, command_line, capsys):
    monkeypatch.setattr(fev_bench, "release", installed.get)
    with pytest.raises(SystemExit) as end:
        fev_bench.main(command_line(tasks=write_tasks(tmp_path, TASK), out=tmp_path / "out"))
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--tasks and --out are needed"),
        ({"tasks": "t.yaml", "out": "o", "trained_on": "m4"}, "name it with --model"),
        ({"tasks": "t.yaml", "out": "o", "seconds": "0"}, "must be above 0"),
    ],
)
def test_options_that_cannot_be(options, said, command_line, capsys):
    with pytest.raises(SystemExit) as end:
        fev_bench.main(command_line(**options))
    assert end.value.code == 2
    assert said in capsys.readouterr().err
