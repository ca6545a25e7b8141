"""fev_model.py: fev's own tasks on a tiny data set: its schema, its scores, nothing of the outcome, every series."""

from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

fev = pytest.importorskip("fev", reason="fev wants datasets below 5: `make test-lowest` has both")
datasets = pytest.importorskip("datasets")
if int(version("datasets").partition(".")[0]) >= 5:
    pytest.skip("fev loads nothing with datasets 5: `make test-lowest` has an older one", allow_module_level=True)

from tsf_llm.benchmarks import fev_model  # noqa: E402
from tsf_llm.benchmarks.fev_model import SeasonalNaive, TsfLlmModel  # noqa: E402

N, HORIZON, SEASON = 150, 3, 7
LEVELS = [0.1, 0.5, 0.9]
RECIPE = """
context_length: 16
stride: 4
n_bins: 32
max_steps: 3
learning_rate: 1.0e-3
logging_steps: 1
model_config:
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
  kv_lora_rank: 8
  qk_nope_head_dim: 8
  qk_rope_head_dim: 4
  v_head_dim: 8
  n_routed_experts: 2
  num_experts_per_tok: 1
  moe_intermediate_size: 16
  shared_expert_intermediate_size: 8
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def long(*, after=None):
    """Three daily series of two values, with a flag and a shop; behind `after` the values are others."""
    rng, days = np.random.default_rng(0), np.arange(N)
    frames = []
    for i in range(3):
        load = 10 * i + 5 * np.sin(2 * np.pi * days / SEASON) + rng.normal(size=N)
        frame = pd.DataFrame({"id": f"shop {i}", "timestamp": pd.date_range("2023-01-01", periods=N, freq="D")})
        frames.append(frame.assign(load=load, wind=rng.normal(size=N), flag=days % 5 == 0, town="ab"[i % 2]))
    whole = pd.concat(frames, ignore_index=True)
    if after is not None:
        whole.loc[whole["timestamp"] > after, ["load", "wind"]] += 1000
    return whole


def task_of(frame, folder, **options):
    path = folder / "series.parquet"
    frame.to_parquet(path, index=False)
    usual = {"horizon": HORIZON, "seasonality": SEASON, "quantile_levels": LEVELS, "target": "load"}
    return fev.Task(**{"dataset_path": str(path), "static_columns": ["town"], **usual, **options})


def numbers(predictions, target="load"):
    """`[series,1+levels,steps]`"""
    table = predictions[target].with_format("numpy")
    return np.stack([table[name][:] for name in ("predictions", *map(str, LEVELS))], axis=1)


def test_a_model_is_trained_on_the_past_and_scored_by_fev(tmp_path, recipe):
    task = task_of(long(), tmp_path, num_windows=2, known_dynamic_columns=["flag"], eval_metric="WQL")
    model = TsfLlmModel(recipe=recipe)
    answers = model.fit_predict(task)
    found = task.evaluation_summary(answers, model_name=model.model_name, training_time_s=model.training_time)
    assert (found["model_name"], found["num_forecasts"], model.left_out) == ("tsf-llm", 6, {})
    assert 0 < found["test_error"] < 2
    assert model.training_time > 0
    assert model.inference_time > 0
    assert fev.ForecastingModel.get_model_cls("tsf-llm") is TsfLlmModel
    for one in map(numbers, answers):
        assert_array_equal(one[:, 0], one[:, 2])  # the point is the median
        assert (np.diff(one[:, 1:], axis=1) >= 0).all()


def test_no_outcome_is_seen(tmp_path, recipe):
    cut = pd.Timestamp("2023-01-01") + pd.Timedelta(N - HORIZON - 1, "D")
    answers = []
    for name, frame in (("a", long()), ("b", long(after=cut))):
        (folder := tmp_path / name).mkdir()
        answers.append(TsfLlmModel(recipe=recipe).fit_predict(task_of(frame, folder))[0])
    assert_array_equal(numbers(answers[0]), numbers(answers[1]))


def test_targets_and_items_keep_their_places(tmp_path, recipe, monkeypatch):
    task = task_of(long(), tmp_path, target=["wind", "load"], eval_metric="RMSE")
    monkeypatch.setattr(fev_model, "AT_ONCE", 2)
    for model in (SeasonalNaive(), TsfLlmModel(recipe=recipe)):
        [found] = model.fit_predict(task)
        levels = numbers(found)[..., 0].mean(axis=1)
        assert_allclose(levels, [0, 10, 20], atol=9)
        assert np.abs(numbers(found, "wind")).max() < 9
        task.evaluation_summary([found], model_name=model.model_name)


def test_what_the_model_cannot_read_is_answered_by_the_seasonal_naive_and_named(tmp_path, recipe):
    frame = long()
    short = frame["id"].eq("shop 1") & frame["timestamp"].lt("2023-05-15")
    frame.loc[frame["id"] == "shop 2", "load"] = 4.0
    task = task_of(frame[~short], tmp_path)
    model = TsfLlmModel(recipe=recipe)
    [found], [naive] = model.fit_predict(task), SeasonalNaive().fit_predict(task)
    assert sorted(model.left_out) == ["shop 1", "shop 2"]
    assert_array_equal(numbers(found)[1:], numbers(naive)[1:])
    assert_array_equal(numbers(found)[2], np.full((4, HORIZON), 4.0))


def test_the_seasonal_naive_repeats(tmp_path):
    task = task_of(long(), tmp_path, horizon=2 * SEASON)
    past, _ = next(iter(task.iter_windows())).get_input_data()
    last = np.array(past[0]["load"])
    found = numbers(SeasonalNaive().fit_predict(task)[0])[0]
    assert_allclose(found[0], np.tile(last[-SEASON:], 2), rtol=1e-6)
    errors = last[2 * SEASON :] - last[: -2 * SEASON]
    assert_allclose(found[1:, -1] - found[0, -1], np.quantile(errors, LEVELS), rtol=1e-5)


def test_a_folder_answers_as_it_is(tmp_path, recipe):
    task = task_of(long(), tmp_path)
    known = fev_model.Known.of(task, task.get_window(0))
    pipe = fev_model.trained(known, tmp_path / "of_the_test", recipe, seconds=None, seed=1)
    [found] = TsfLlmModel(tmp_path / "of_the_test" / "model").fit_predict(task)
    [frame] = known.some()
    expected = pipe(frame, horizon=HORIZON, quantile_levels=LEVELS)[["q50", "q10", "q50", "q90"]].to_numpy()
    assert_allclose(numbers(found).transpose(0, 2, 1).reshape(-1, 4), expected)
    with pytest.raises(ValueError, match=r"horizon=4, but this model was trained for 3 step"):
        TsfLlmModel(tmp_path / "of_the_test" / "model").fit_predict(task_of(long(), tmp_path, horizon=4))


def test_a_folder_of_prices_is_refused(tmp_path, base_folder):
    with pytest.raises(ValueError, match="reads prices, and tasks of fev are plain series"):
        TsfLlmModel(base_folder).fit_predict(task_of(long(), tmp_path))


def test_much_data_is_bounded(tmp_path, monkeypatch):
    past = fev_model.Known.of(task := task_of(long(), tmp_path), task.get_window(0)).past
    monkeypatch.setattr(fev_model, "MOST_ROWS", 100)
    monkeypatch.setattr(fev_model, "MOST_VALUES", 200)
    some = fev_model.bounded(past)
    assert some.groupby("series_id").size().to_dict() == {"0": 100, "2": 100}
    assert some["timestamp"].max() == past["timestamp"].max()


def test_without_a_recipe_the_series_form_is_chosen_by_the_past(tmp_path, monkeypatch):
    """Settings alone: rows of the outcome change none of them."""
    given = []

    def kept(self, recipe, **options):
        told = {name: value for name, value in options.items() if name not in ("data", "output_dir")}
        given.append((recipe, told))
        raise InterruptedError

    monkeypatch.setattr(fev_model.Parser, "read", kept)
    cut = pd.Timestamp("2023-01-01") + pd.Timedelta(N - HORIZON - 1, "D")
    for name, frame in (("a", long()), ("b", long(after=cut))):
        (folder := tmp_path / name).mkdir()
        with pytest.raises(InterruptedError):
            TsfLlmModel().fit_predict(task_of(frame.assign(load=frame["load"].abs().round()), folder))
    (recipe, options), other = given
    assert (recipe, options) == other
    assert recipe.name == "quickstart_series.yaml"
    assert options["context_length"] % options["model_config"]["patch_length"] == 0
    assert 16 <= options["context_length"] <= 48
    assert (options["integer"], options["nonnegative"]) == (True, True)
