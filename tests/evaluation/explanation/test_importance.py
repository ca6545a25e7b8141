"""importance.py: what the model does not read counts nothing, what it reads counts, and seeds reproduce."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from tsf_llm.evaluation.explanation.importance import (
    changed,
    group_of,
    groups_of,
    increase,
    last_forecasts,
    parts_of,
    permutation_importance,
    permuted,
    without,
)
from tsf_llm.evaluation.explanation.probe import Probe
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline

READ = 2  # the only column that the model of `one_eyed` reads


@pytest.fixture
def one_eyed(probe):
    """The probe of a model that reads one feature."""
    model = copy.deepcopy(probe.pipe.model)
    weights = [one for one in model.parameters() if one.ndim == 2 and one.shape[1] == model.config.num_features]
    assert weights
    for weight in weights:
        weight.data[:, [i for i in range(weight.shape[1]) if i != READ]] = 0
    return dataclasses.replace(probe, pipe=TsfLlmPipeline(model=model, processor=probe.pipe.processor))


def test_only_what_is_read_counts(one_eyed):
    found = permutation_importance(one_eyed, repeats=2)
    name = one_eyed.pipe.processor.feature_extractor.names[READ]
    effect = {row["name"]: row["increase"] for row in found["features"]}
    assert effect.pop(name) != 0
    assert set(effect.values()) == {0.0}
    (group,) = found["groups"]
    assert (group["name"], group["features"]) == ("bar", 5)
    assert group["increase"] == pytest.approx(
        next(row["increase"] for row in found["features"] if row["name"] == name)
    )


def test_seeds_reproduce_to_the_bit(probe):
    first, again, other = (permutation_importance(probe, repeats=1, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_columns_of_a_group_come_from_one_window_and_padding_stays(probe):
    values, order = probe.batch["past_values"], np.roll(np.arange(len(probe.outcome)), 1)
    mask = probe.batch["attention_mask"].clone()
    mask[0, :3] = 0
    hidden = dataclasses.replace(probe, batch={**probe.batch, "attention_mask": mask})
    changed = permuted(hidden, [1, 3], order)
    assert torch.equal(changed[..., [0, 2, 4]], values[..., [0, 2, 4]])
    assert torch.equal(changed[1:][..., [1, 3]], values[:-1][..., [1, 3]])
    assert not changed[0, :3][..., [1, 3]].any()


def test_an_increase_is_told_in_percent_with_an_interval(probe):
    usual = probe.loss()
    row = increase(probe, usual, usual * 1.1, 0)
    assert row["percent"] == pytest.approx(10)
    assert row["percent_ci95"][0] < 10 < row["percent_ci95"][1]
    few = dataclasses.replace(probe, batch={**probe.batch, "origin": probe.batch["origin"][:1] * len(usual)})
    assert increase(few, usual, usual, 0)["percent_ci95"] is None


def test_groups_keep_the_order_of_the_table():
    assert groups_of(["rsi_14", "body", "rsi_7", "past:x", "lag_1"]) == {
        "oscillators": [0, 2],
        "bar": [1],
        "covariates": [3],
        "series": [4],
    }
    assert group_of("known:x+1") == "covariates"


def test_last_forecasts_without_a_group_are_those_of_zeros(probe):
    rows = last_forecasts(probe)
    plain = [row for row in rows if row["without"] is None]
    assert len(plain) == len(probe.outcome) == len(rows) / 2
    assert sorted(row["median"] for row in plain) == pytest.approx(sorted(probe.law().median))
    assert all(row["q10"] <= row["median"] <= row["q90"] for row in rows)


def test_the_inputs_of_the_series_form_are_groups(series_form, weekly_sales):
    pipe = series_form(num_hidden_layers=1)
    probe = Probe.of(pipe, pipe.processor.encode(weekly_sales), start="2020-06-01", most=12, step=3)
    inputs = ["past values", "seasons ahead", "known ahead", "static covariates"]
    assert list(parts_of(probe)) == [*inputs, "level", "calendar"]
    found = permutation_importance(probe, repeats=1)
    assert {row["name"] for row in found["groups"]} == {*parts_of(probe)}
    order = np.arange(len(probe.outcome))[::-1].copy()
    other = changed(probe, "season_values", order)["season_values"]
    assert torch.equal(other, probe.batch["season_values"].flip(0))
    assert not torch.equal(without(probe, "static_ids")["static_ids"], probe.batch["static_ids"])
    nothing = probe.loss(**changed(probe, "past_target", np.arange(len(order))))
    np.testing.assert_allclose(nothing, probe.loss())


def test_a_step_that_is_not_answered_is_refused(series_form, weekly_sales):
    pipe = series_form(num_hidden_layers=1)
    with pytest.raises(ValueError, match="step=4"):
        Probe.of(pipe, pipe.processor.encode(weekly_sales), start="2020-06-01", most=3, step=4)
