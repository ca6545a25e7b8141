"""What a frozen language model is worth: windows, variants with equal budgets, words made of rows."""

import numpy as np
import pytest
import torch

from tsf_llm.benchmarks import series_time_llm as section
from tsf_llm.benchmarks.series_frame import Found, Row

DAYS, HOURS = section.DAYS, section.HOURS


def test_bars_are_days_in_units_of_their_window():
    past = torch.randn(3, section.WINDOW, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    values, mean, deviation = section.bars(past)
    assert values.shape == (3, DAYS, 1 + HOURS)
    hours = values[..., 1:].flatten(1)
    torch.testing.assert_close(hours * deviation + mean, past)
    torch.testing.assert_close(hours.std(dim=1), torch.ones(3))
    torch.testing.assert_close(values[:, 1:, 0], hours[:, HOURS - 1 :: HOURS].diff(dim=1))
    moved, *_ = section.bars(3 * past + 7)
    torch.testing.assert_close(moved, values, atol=1e-4, rtol=1e-4)


def test_windows_end_at_their_origin():
    values = np.arange(1000.0)[:, None] + [0.0, 0.5]
    past, ahead = section.every_channel(values, np.array([400, 500]))
    assert past[:, -1].tolist() == [400.0, 400.5, 500.0, 500.5]
    assert ahead[:, 0].tolist() == [401.0, 401.5, 501.0, 501.5]
    assert past.shape[1], ahead.shape[1] == (section.WINDOW, section.AHEAD)


def test_the_ridge_finds_a_linear_rule():
    wave = np.sin(2 * np.pi * np.arange(1500) / 24)[:, None] + [0.0, 3.0]
    pool = np.arange(section.WINDOW, 1200)
    answer = section.ridge(wave, pool)
    past, ahead = section.every_channel(wave, np.array([1300]))
    np.testing.assert_allclose(answer(past), ahead, atol=0.05)


def test_the_untrained_model_starts_from_its_linear_map_and_learns_alike_for_a_seed():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((600, 2)).cumsum(axis=0).astype(np.float32)
    budget = section.Budget(steps=2, batch=3)
    first, again = (section.train(values, np.arange(400, 450), budget, seed=1)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    reader = section.Reader()
    assert not reader.linear.weight.any()


def test_as_many_steps_as_fit_into_the_time(monkeypatch):
    clock = iter(np.arange(0.0, 1000.0))
    monkeypatch.setattr(section.time, "process_time", lambda: next(clock))
    values = np.random.default_rng(0).standard_normal((600, 1)).astype(np.float32)
    budget = section.Budget(steps=3, batch=2)
    _, told = section.train(values, np.arange(400, 450), budget, seed=0, seconds=4.0)
    assert told["steps"] == 8  # two steps took one second


def test_the_language_model_that_was_never_trained_has_the_shape_of_the_other(tmp_path):
    trained = section.made_up_encoder(tmp_path / "trained")
    other = section.never_trained(trained, tmp_path / "other")
    mine, theirs = (section.AutoModel.from_pretrained(name).state_dict() for name in (trained, other))
    assert {name: value.shape for name, value in mine.items()} == {n: v.shape for n, v in theirs.items()}
    assert section.never_trained(trained, tmp_path / "other") == other


def test_without_a_language_model_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TSF_LLM_MINILM", raising=False)
    monkeypatch.setattr("tsf_llm.benchmarks.series_encoder.find_spec", lambda name: None)
    context = section.Context("time_llm", tmp_path, tmp_path, (0,), quick=False, models=None, say=print)
    with pytest.raises(ValueError, match="pip install"):
        section.backbone(context, section.FROZEN)


def test_words_are_made_of_the_rows():
    rng = np.random.default_rng(0)
    base = 1 + 0.01 * rng.standard_normal(60)

    def row(name, losses, **extra):
        return Row("time_llm", name, "96 hours", 0, 1.0, Found(losses={"mse": losses}, extra=extra), {}, {})

    rows = [
        row(section.FROZEN, base, steps=200),
        row(section.NONE, base + 0.1 + 0.01 * rng.standard_normal(60), steps=200),
        row(section.RANDOM, base + 0.001 * rng.standard_normal(60), steps=200),
        row(section.LONGER, base - 0.1 + 0.01 * rng.standard_normal(60), steps=5000),
    ]
    told = section.worth(rows)
    assert "All of it, for as many steps? Better than no language model (MSE -9" in told
    assert "Its training on text? No edge over" in told
    assert "All of it, for the same time? Worse than" in told
    assert "200 steps with it there is time for 5000 without" in told
    assert section.worth(rows[1:]) == ""
