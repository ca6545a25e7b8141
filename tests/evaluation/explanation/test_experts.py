"""experts.py: routing is the router's, regimes are of dates, and the test is neither blind nor credulous."""

import numpy as np
import pytest
import torch

from tsf_llm.evaluation.explanation.experts import adjusted_p, experts_by_regime, regimes, routing


def test_routing_is_what_the_router_chose(probe):
    hooks = [len(module._forward_hooks) for module in probe.pipe.model.modules()]
    shares = routing(probe)
    assert [len(module._forward_hooks) for module in probe.pipe.model.modules()] == hooks
    assert list(shares) == ["layer 1", "layer 2"]
    keys = ("past_values", "attention_mask", "input_ids")
    with torch.inference_mode():
        out = probe.pipe.model(**{key: probe.batch[key] for key in keys}, output_router_logits=True)
    for share, logits in zip(shares.values(), out.router_logits, strict=True):
        last = logits.view(len(probe.outcome), -1, 4)[:, -1]
        chosen = torch.zeros_like(last).scatter_(1, last.topk(2).indices, 0.5)
        assert np.array_equal(share, chosen.numpy())


def test_shares_of_all_regimes_sum_to_one(probe):
    found = experts_by_regime(probe)
    assert np.allclose(np.sum(found["shares"], axis=1), 1)
    assert [regime["name"] for regime in found["regimes"]] == ["volatility", "trend", "weekday"]
    for regime in found["regimes"]:
        assert regime["dates"].keys() == regime["shares"].keys()
        assert all(np.allclose(np.sum(shares, axis=1), 1) for shares in regime["shares"].values())
    assert experts_by_regime(probe) == found


def test_regimes_are_of_dates(probe):
    dates = np.unique(probe.dates)
    labels = regimes(probe, dates)
    assert {name: len(found) for name, found in labels.items()} == dict.fromkeys(labels, len(dates))
    sizes = [labels["volatility"].count(name) for name in ("calm", "middle", "wild")]
    assert max(sizes) - min(sizes) <= 1
    assert labels["weekday"][0] == dates[0].astype("datetime64[s]").item().strftime("%A")


def test_a_planted_difference_is_found_and_no_other():
    rng = np.random.default_rng(0)
    labels = np.repeat(["calm", "wild", "calm", "wild", "calm", "wild"], 10)
    values = rng.normal(0, 1, (60, 8))
    values[:, 5] += 3 * (labels == "wild")
    p = adjusted_p(values, labels, block=1)
    assert p[5] == pytest.approx(0.001)
    assert (np.delete(p, 5) > 0.05).all()


def test_nothing_is_found_in_lasting_noise_more_often_than_stated(monkeypatch):
    """Labels and shares that both last are told apart only by permuting blocks of dates."""
    monkeypatch.setattr("tsf_llm.evaluation.explanation.experts.PERMUTATIONS", 99)
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        noise = rng.normal(0, 1, (400, 5))
        for t in range(1, 400):
            noise[t] += 0.8 * noise[t - 1]
        labels = np.where(noise[:, 0] > 0, "up", "down")
        found.append([adjusted_p(noise[:, 1:], labels, block=block).min() for block in (1, 40)])
    alone, blocks = (np.array(found) <= 0.05).mean(axis=0)
    assert blocks <= 0.15
    assert alone > 2 * blocks


def test_too_few_dates_are_not_tested():
    assert adjusted_p(np.zeros((5, 2)), np.array(["a", "b", "a", "b", "a"]), block=1) is None
    assert adjusted_p(np.zeros((50, 2)), np.array(["a"] * 50), block=1) is None
    assert adjusted_p(np.zeros((50, 2)), np.array(["a"] * 49 + ["b"]), block=1) is None
