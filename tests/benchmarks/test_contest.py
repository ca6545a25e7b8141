"""What a contestant is timed at, and what becomes of the times."""

import pytest

from tsf_llm.benchmarks import contest
from tsf_llm.benchmarks.peers import BF16, DEEPSEEK, INT8, OURS, PATCHTST, PER, Field
from tsf_llm.benchmarks.rounds import Took

QUICK = Field(model="mini", quick=True)


def test_each_measure_suits_those_who_can_do_it():
    assert contest.suited(PATCHTST, QUICK) == ["frame", "forward", "train"]
    ours = {"frame", "forward", "many", "one", "long", "paths", "path", "train"}
    assert set(contest.suited(OURS, QUICK)) == ours
    assert set(contest.suited(INT8, QUICK)) == ours - {"train"}
    assert set(contest.suited(DEEPSEEK, QUICK)) == ours - {"paths", "path"} | {"uncached"}
    assert {key for keys in contest.TOGETHER for key in keys} == set(contest.MEASURES)


def test_a_forecast_is_told_for_a_hundred_series(monkeypatch):
    monkeypatch.setattr(contest, "took", lambda task: Took(1.0, 2.0))
    once = contest.timed(DEEPSEEK, QUICK, "frame", contest.Sizes())
    assert (once.cpu, once.wall) == (PER / 2, PER)
    assert contest.timed(DEEPSEEK, QUICK, "forward", contest.TINY).cpu == 1.0


@pytest.mark.parametrize("name", [OURS, DEEPSEEK])
def test_facts_of_a_model(name):
    told = contest.facts(name, QUICK, contest.TINY)
    config = contest.here(name, QUICK).model.config
    assert told["parameters"] == contest.here(name, QUICK).model.num_parameters()
    assert told["dtype"] == "float32"
    assert told["cache_bytes_per_token"] == 4 * config.num_hidden_layers * (
        config.kv_lora_rank + config.qk_rope_head_dim
    )
    assert told["gflop"]["train"] > 2 * told["gflop"]["forward"] > 0


def test_figures_are_medians_ratios_and_shares_of_the_limit():
    def each(*seconds):
        return [Took(one, 9.0) for one in seconds]

    sizes = contest.Sizes(product=1000)
    times = {
        (contest.PRODUCT, "float32"): each(0.02, 0.04),  # 100 GFLOP/s at best
        (contest.PRODUCT, "bfloat16"): each(0.01),
        ("forward", OURS): each(1.0, 2.0, 3.0),
        ("forward", BF16): each(0.5, 0.5, 0.5),
        ("forward", DEEPSEEK): each(2.0, 3.0, 9.0),
        ("long", OURS): each(1.0),
        ("uncached", DEEPSEEK): each(40.0),
        ("path", OURS): each(1.0),
        ("paths", OURS): each(2.5),
    }
    facts = {name: {"gflop": {"forward": 50.0}, "dtype": "float32"} for name in (OURS, DEEPSEEK)}
    facts[BF16] = {"gflop": {"forward": 50.0}, "dtype": "bfloat16"}
    told = contest.summary(times, facts, sizes)
    assert told["gemm_gflops"] == pytest.approx({"float32": 100, "bfloat16": 200})
    assert told["contestants"][OURS]["forward"] == {"cpu": 2.0, "wall": 9.0, "counts": 2.0}
    assert told["contestants"][OURS]["share"]["forward"] == pytest.approx(0.25)
    assert told["contestants"][BF16]["share"]["forward"] == pytest.approx(0.5)
    assert told["ratios"]["forward"] == {BF16: 0.25, DEEPSEEK: 2.0}
    assert told["ratios"]["uncached"] == {DEEPSEEK: 40.0}
    assert told["ratios"]["paths over one path"] == {OURS: 2.5}


def test_bars_are_the_same_every_time():
    bars = contest.made_bars(2, 40)
    assert bars["ticker"].value_counts().to_dict() == {"T00000": 40, "T00001": 40}
    contest.made_bars.cache_clear()
    assert bars.equals(contest.made_bars(2, 40))


def test_generation_that_ends_early_is_an_error(monkeypatch):
    one = contest.here(OURS, QUICK)
    task = contest.generate(one, contest.TINY)
    task()
    monkeypatch.setattr(one.model, "generate", lambda **given: given["input_ids"])
    with pytest.raises(AssertionError, match="stopped early"):
        task()
