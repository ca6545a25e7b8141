"""The inference path: its frame, its sampling, and that only the bars, the model and the seed decide the answer."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from scipy import stats
from transformers import pipeline
from transformers.generation import LogitsProcessor, LogitsProcessorList

from tsf_llm import pipeline_tsf_llm
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import InverseCdf, TsfLlmPipeline, path_uniforms, spread
from tsf_llm.processing_tsf_llm import FORECAST_COLUMNS, TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

QUANTILES = FORECAST_COLUMNS[5:-1]
BINS, PAD, BAR = 32, 32, 33
SIZES = {"vocab_size": 34, "pad_token_id": PAD, "bar_token_id": BAR}


@pytest.fixture(scope="module")
def bars(make_bars) -> pd.DataFrame:
    """Three tickers of different lengths; one is shorter than the context."""
    return pd.concat([make_bars(n, ticker=name, seed=n) for name, n in (("AAA", 300), ("BBB", 28), ("CCC", 90))])


@pytest.fixture(scope="module")
def processor(make_bars) -> TsfLlmProcessor:
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=36)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS)).fit(make_bars(400, seed=7))


@pytest.fixture(scope="module")
def pipe(processor, tiny_model) -> TsfLlmPipeline:
    """A causal LM whose weights are random but large: its answers depend on the bars."""
    return TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, **SIZES), processor=processor)


@pytest.fixture(scope="module")
def head(processor, tiny_model):
    """`head(prediction_type)` -> the pipeline of such a model, three steps long."""

    def build(prediction_type: str, **overrides) -> TsfLlmPipeline:
        model = tiny_model(TsfLlmForPrediction, prediction_type=prediction_type, **overrides)
        return TsfLlmPipeline(model=model, processor=processor)

    return build


@pytest.fixture(scope="module")
def with_laws(processor, tiny_model) -> TsfLlmPipeline:
    """A causal LM that names the laws of 1, 5 and 20 steps."""
    model = tiny_model(TsfLlmForCausalLM, horizons=processor.tokenizer.horizons, **SIZES)
    return TsfLlmPipeline(model=model, processor=processor)


def values(frame: pd.DataFrame) -> np.ndarray:
    return frame[[*QUANTILES, "mean", "p_up"]].to_numpy()


# The frame


@pytest.mark.parametrize("horizon", [1, 5])
def test_the_frame(pipe, bars, horizon):
    frame = pipe(bars, horizon=horizon, samples=50)
    assert list(frame.columns) == FORECAST_COLUMNS
    assert frame["ticker"].tolist() == [name for name in ("AAA", "BBB", "CCC") for _ in range(horizon)]
    assert frame["step"].tolist() == [*range(1, horizon + 1)] * 3
    last = bars.groupby("ticker", sort=False)["timestamp"].last()
    assert (frame["origin"].to_numpy() == last[frame["ticker"]].to_numpy()).all()
    assert (frame["timestamp"] > frame["origin"]).all()
    assert (frame["timestamp"].dt.day_of_week < 5).all()
    assert not frame.isna().any().any()
    assert (np.diff(frame[QUANTILES], axis=1) >= 0).all()
    assert (frame[QUANTILES].to_numpy() > 0).all()
    assert frame["p_up"].between(0, 1).all()
    assert frame["mean"].between(frame["q05"], frame["q95"]).all()
    if horizon > 1:
        width = np.log(frame["q95"] / frame["q05"]).to_numpy().reshape(3, horizon)
        assert (width[:, -1] > 1.5 * width[:, 0]).all()  # five steps wander further than one


def test_the_market_reaches_the_features_as_of_the_origin(make_bars, tiny_model):
    bars, index = make_bars(300, seed=1), make_bars(320, ticker="INDEX", seed=2)
    extractor = TsfLlmFeatureExtractor(names=["body", "market_return_5", "market_range"], context_length=36)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS)).fit(bars, market=index)
    pipe = TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, num_features=3, **SIZES), processor=processor)
    frame, masked = pipe(bars, horizon=2, samples=20, market=index), pipe(bars, horizon=2, samples=20)
    assert not np.array_equal(values(frame), values(masked))
    now = index["timestamp"] <= bars["timestamp"].iloc[-1]
    pd.testing.assert_frame_equal(pipe(bars, horizon=2, samples=20, market=index[now]), frame)
    before = bars["timestamp"].iloc[-50]
    past = pipe(bars[bars["timestamp"] <= before], horizon=2, samples=20, market=index)
    pd.testing.assert_frame_equal(pipe(bars, horizon=2, samples=20, market=index, as_of=before), past)


def test_the_horizon_defaults_to_the_models(pipe, bars):
    assert len(pipe(bars, samples=4)) == 3 * pipe.model.config.prediction_length == 9


def test_a_list_gives_a_list(pipe, bars, make_bars):
    other = make_bars(50, ticker="DDD")
    answers = pipe([bars, other], horizon=2, samples=8)
    assert len(answers) == 2
    for answer, frame in zip(answers, (bars, other), strict=True):
        pd.testing.assert_frame_equal(answer, pipe(frame, horizon=2, samples=8))


def test_arguments_of_the_constructor_hold_until_a_call_says_otherwise(pipe, processor, bars):
    fixed = TsfLlmPipeline(model=pipe.model, processor=processor, horizon=2, samples=8, seed=3, as_of="2015-06-30")
    pd.testing.assert_frame_equal(
        fixed(bars[bars["ticker"] == "AAA"]),
        pipe(bars[bars["ticker"] == "AAA"], horizon=2, samples=8, seed=3, as_of="2015-06-30"),
    )
    assert len(fixed(bars, horizon=4, as_of=None)) == 12


# What the answer depends on


def test_the_seed_decides_what_is_sampled(pipe, bars):
    first, again = (pipe(bars, horizon=4, samples=40, seed=1) for _ in range(2))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    other = pipe(bars, horizon=4, samples=40, seed=2)
    assert (values(other)[:, :-1] != values(first)[:, :-1]).any(axis=1).all()


def test_the_first_steps_do_not_depend_on_the_horizon(pipe, bars):
    batch = pipe.processor(bars)
    short, long = (pipe.sample(batch, horizon=horizon, samples=40) for horizon in (2, 5))
    np.testing.assert_allclose(short, long[..., :2], rtol=1e-12)


@pytest.mark.parametrize("prediction_type", [None, "quantile", "regression", "classification"])
def test_other_tickers_do_not_matter(pipe, head, bars, prediction_type):
    pipe = pipe if prediction_type is None else head(prediction_type)
    together = pipe(bars, horizon=3, samples=40)
    for ticker, rows in bars.groupby("ticker"):
        alone = pipe(rows, horizon=3, samples=40)
        expected = together[together["ticker"] == ticker].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, expected, rtol=1e-5)


@pytest.mark.parametrize("rows_at_once", [1, 40, 80, 81])
def test_chunks_do_not_matter(pipe, bars, monkeypatch, rows_at_once):
    whole = pipe(bars, horizon=3, samples=40)
    calls = []
    forward = TsfLlmPipeline._tokens
    monkeypatch.setattr(
        TsfLlmPipeline,
        "_tokens",
        lambda self, batch, **steps: calls.append(len(batch["ticker"])) or forward(self, batch, **steps),
    )
    monkeypatch.setattr(pipeline_tsf_llm, "ROWS_AT_ONCE", rows_at_once)
    chunked = pipe(bars, horizon=3, samples=40)
    assert calls == ([2, 1] if rows_at_once >= 80 else [1, 1, 1])
    pd.testing.assert_frame_equal(chunked, whole, rtol=1e-5)


@pytest.mark.parametrize("prediction_type", [None, "quantile", "regression", "classification"])
def test_as_of_equals_truncated_bars(pipe, head, make_bars, prediction_type):
    pipe, bars = pipe if prediction_type is None else head(prediction_type), make_bars(200)
    cut = bars["timestamp"].iloc[120]
    past = pipe(bars[bars["timestamp"] <= cut], horizon=3, samples=40)
    future = bars["timestamp"] > cut
    bars.loc[future, ["open", "high", "low", "close"]] *= 2.0
    pd.testing.assert_frame_equal(pipe(bars, horizon=3, samples=40, as_of=cut), past, check_exact=True)
    assert not pipe(bars, horizon=3, samples=40).equals(past)


@pytest.mark.parametrize("prediction_type", [None, "quantile"])
def test_the_unit_of_price_is_the_unit_of_the_forecast(pipe, head, make_bars, prediction_type):
    pipe, bars = pipe if prediction_type is None else head(prediction_type), make_bars(100)
    dear = bars.assign(**{name: 7.3 * bars[name] for name in ("open", "high", "low", "close")})
    forecast, dear_forecast = (pipe(frame, horizon=3, samples=100) for frame in (bars, dear))
    np.testing.assert_allclose(dear_forecast[["mean", *QUANTILES]], 7.3 * forecast[["mean", *QUANTILES]], rtol=1e-5)


@pytest.mark.parametrize("horizon", [1, 3])
def test_no_global_state_is_touched(pipe, bars, horizon):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (the global state is what is tested)
    before, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    pipe(bars, horizon=horizon, samples=8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002
    assert torch.is_grad_enabled()


def test_the_model_is_put_into_eval_mode(processor, tiny_model, bars):
    model = tiny_model(TsfLlmForCausalLM, **SIZES, hidden_dropout=0.5).train()
    pipe = TsfLlmPipeline(model=model, processor=processor)
    pd.testing.assert_frame_equal(pipe(bars, horizon=2, samples=8), pipe(bars, horizon=2, samples=8))


# Laws


def test_steps_with_a_law_are_exact_and_those_beyond_are_sampled(with_laws, bars):
    first, other = (with_laws(bars, horizon=22, samples=40, seed=seed) for seed in (1, 2))
    near = first["step"] <= with_laws.law_reach
    assert near.sum() == 3 * 20
    pd.testing.assert_frame_equal(first[near], other[near], check_exact=True)
    assert (values(first)[~near] != values(other)[~near]).any(axis=1).all()
    laws = with_laws.laws(with_laws.processor(bars), horizon=5)
    last_close = np.asarray(with_laws.processor(bars)["last_close"])
    at_five = first[first["step"] == 5]
    np.testing.assert_allclose(at_five["q90"], last_close * np.exp(laws[4].quantile([0.9])[:, 0]), rtol=1e-6)
    np.testing.assert_allclose(at_five["p_up"], laws[4].p_up, atol=1e-6)
    np.testing.assert_allclose(
        at_five["mean"], laws[4].expectation(lambda x: last_close[:, None] * np.exp(x)), rtol=1e-6
    )


def test_a_model_of_other_horizons_than_its_processor_is_refused(processor, tiny_model):
    with pytest.raises(ValueError, match="the bins of 7 bars ahead are not fitted"):
        TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, horizons=[1, 7], **SIZES), processor=processor)


# Sampling


def test_first_step_frequencies_are_the_models_own(pipe, make_bars):
    n = 20_000
    batch = pipe.processor(make_bars(100))
    with torch.inference_mode():
        logits = pipe.model(**batch, use_cache=False).logits[0, -1].double()
    expected = logits[:BINS].softmax(-1).numpy()  # pad and bar are left out
    assert logits.softmax(-1)[BINS:].min() > 0.001  # else nothing would have to be left out
    tokens = pipe.sample_tokens(batch, horizon=1, samples=n)
    counts = np.bincount(tokens.ravel(), minlength=34)
    assert not counts[BINS:].any()
    chi_square = ((counts[:BINS] - n * expected) ** 2 / (n * expected)).sum()
    assert chi_square < 31 + 4 * np.sqrt(2 * 31)  # mean and deviation of 31 degrees of freedom
    uniform = ((counts[:BINS] - n / BINS) ** 2 / (n / BINS)).sum()
    assert uniform > 200  # this many samples tell it from another distribution


@pytest.mark.parametrize("attention_type", ["mla", "gqa", "mha"])
def test_paths_equal_a_plain_loop_without_cache(processor, tiny_model, bars, attention_type):
    """Oracle: the whole sequence anew for every path and step, the same uniforms, one row at a time."""
    pipe = TsfLlmPipeline(
        model=tiny_model(TsfLlmForCausalLM, attention_type=attention_type, **SIZES), processor=processor
    )
    batch, samples, horizon, seed = processor(bars), 12, 4, 9
    tokens = pipe.sample_tokens(batch, horizon=horizon, samples=samples, seed=seed)
    assert tokens.shape == (3, samples, horizon)
    uniforms = (
        path_uniforms(batch["ticker"], batch["origin"], samples, horizon, seed).view(3, samples, horizon).numpy()
    )
    for row in range(3):
        mask = batch["attention_mask"][row : row + 1].repeat(samples, 1)
        bars_BTF = batch["past_values"][row : row + 1].repeat(samples, 1, 1)
        ids = batch["input_ids"][row : row + 1].repeat(samples, 1)
        for step in range(horizon):
            with torch.inference_mode():
                out = pipe.model(input_ids=ids, past_values=bars_BTF, attention_mask=mask, use_cache=False)
            cdf = out.logits[:, -1, :BINS].double().softmax(-1).cumsum(-1).numpy()
            numbers = uniforms[row, :, step]
            if step:  # dealt out by how far the paths have come
                come = processor.tokenizer.decode_returns(tokens[row, :, :step]).sum(axis=-1)
                numbers = spread(torch.tensor(numbers[None]), torch.tensor(come[None]))[0].numpy()
            chosen = [np.searchsorted(c, u * c[-1], side="right") for c, u in zip(cdf, numbers, strict=True)]
            assert tokens[row, :, step].tolist() == chosen
            ids = torch.cat((ids, torch.tensor(chosen)[:, None]), dim=1)
            mask = torch.cat((mask, torch.ones_like(mask[:, :1])), dim=1)


@pytest.mark.parametrize("suppressed", [None, [], [PAD]])
def test_a_model_that_may_sample_special_tokens_is_refused(processor, tiny_model, bars, suppressed):
    model = tiny_model(TsfLlmForCausalLM, **SIZES)
    model.generation_config.suppress_tokens = suppressed
    with pytest.raises(ValueError, match=rf"lets the model sample <pad> or <bar>.*put \[{PAD}, {BAR}\] there"):
        TsfLlmPipeline(model=model, processor=processor)(bars, horizon=2, samples=4)


def test_sharing_the_cache_changes_nothing(pipe, bars):
    """Oracle: `generate` from scratch, one full prompt per path."""
    batch, samples, horizon = pipe.processor(bars), 16, 4
    shared = pipe.sample_tokens(batch, horizon=horizon, samples=samples)
    uniforms = path_uniforms(batch["ticker"], batch["origin"], samples, horizon, 0)
    T = batch["input_ids"].shape[1]
    repeated = {
        key: batch[key].repeat_interleave(samples, 0) for key in ("input_ids", "past_values", "attention_mask")
    }
    sampler = InverseCdf(uniforms.view(3, samples, horizon), [PAD, BAR], pipe._values())

    class Chosen(LogitsProcessor):
        """Leaves the token that the sampler picks, which greedy decoding then takes."""

        def __call__(self, input_ids, scores):
            assert input_ids.shape[1] - T == len(sampler.taken)
            token = sampler.pick(scores)
            return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)

    paths = pipe.model.generate(
        **repeated, max_new_tokens=horizon, do_sample=False, logits_processor=LogitsProcessorList([Chosen()])
    )
    assert np.array_equal(paths[:, T:].view(3, samples, horizon).numpy(), shared)


def test_later_steps_depend_on_earlier_ones(pipe, make_bars):
    batch = pipe.processor(make_bars(100))
    tokens = pipe.sample_tokens(batch, horizon=2, samples=4000)[0]
    low, high = (tokens[side, 1].mean() for side in (tokens[:, 0] < 12, tokens[:, 0] >= 20))
    assert abs(low - high) > 0.5  # deviation of a mean is about 0.25
    assert not np.array_equal(tokens[:, 0], tokens[:, 1])


def test_the_sampler_inverts_the_distribution_function():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4, 50.0]).log().repeat(6, 1)
    uniforms = torch.tensor([0.0, 0.0999, 0.1001, 0.5999, 0.6001, 1 - 2**-53], dtype=torch.float64)[None, :, None]
    assert InverseCdf(uniforms, [4], torch.zeros(5)).pick(logits).tolist() == [0, 0, 1, 2, 3, 3]
    assert InverseCdf(uniforms, [0, 4], torch.zeros(5)).pick(logits).tolist()[0] == 1  # never one without probability


def test_uniforms_belong_to_ticker_origin_and_seed():
    days = [pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-02")]
    base = path_uniforms(["A", "B"], [days[0], days[0]], 50, 4, 0).view(2, 50, 4)
    assert torch.equal(path_uniforms(["B"], days[:1], 50, 4, 0), base[1])
    assert torch.equal(path_uniforms(["A"], days[:1], 50, 2, 0), base[0, :, :2])
    others = [base[1], *(path_uniforms(["A"], [day], 50, 4, seed) for day, seed in ((days[1], 0), (days[0], 1)))]
    assert all((base[0] != other).all() for other in others)
    many = path_uniforms(["A"], days[:1], 20_000, 2, 0)
    assert (many >= 0).all()
    assert (many < 1).all()
    np.testing.assert_allclose(many.mean(0), 0.5, atol=0.01)


def test_uniforms_are_stratified_and_each_is_uniform():
    """A Latin hypercube: one of K in each K-th of a step, in orders that know nothing of one another."""
    found = path_uniforms("AB", [DAY, DAY], 64, 3, 0, np.array([0.0, 0.7])).view(2, 64, 3).numpy()
    assert (np.sort(np.floor(found * 64), axis=1) == np.arange(64)[:, None]).all()
    one = np.stack([path_uniforms("A", [DAY], 4, 2, seed).numpy() for seed in range(2000)])  # [seeds,K,P]
    for path in range(4):
        for step in range(2):
            assert stats.kstest(one[:, path, step], "uniform").pvalue > 0.01
    assert abs(np.corrcoef(one[:, 0].T)[0, 1]) < 0.08
    assert abs(np.corrcoef(one[:, :2, 0].T)[0, 1] + 1 / 3) < 0.08  # what one path takes, the others do not


def test_fewer_stratified_paths_say_as_much():
    """The mean of a sum of steps strays by far less than that of free draws."""
    seeds = range(200)
    sums = np.stack([torch.special.ndtri(path_uniforms("A", [DAY], 64, 5, seed)).sum(1).numpy() for seed in seeds])
    assert sums.mean(axis=1).std() < 0.1 * (5 / 64) ** 0.5
    np.testing.assert_allclose(sums.std(), 5**0.5, rtol=0.02)


def test_numbers_are_dealt_out_by_what_has_come_and_stay_uniform():
    come = torch.randn(3000, 8, dtype=torch.float64)
    u = path_uniforms(["A"] * 3000, [*pd.date_range("2000-01-01", periods=3000)], 8, 1, 0).view(3000, 8)
    dealt = spread(u, come)
    assert torch.equal(dealt.sort(dim=1).values, u.sort(dim=1).values)
    by_rank = dealt.gather(1, come.argsort(dim=1)).numpy()
    for rank in range(8):  # whatever has come
        assert stats.kstest(by_rank[:, rank], "uniform").pvalue > 0.01
    assert (np.abs(np.diff(np.floor(by_rank * 8), axis=1)) > 1).all()  # neighbours lie apart


def test_sums_of_steps_are_spread_as_evenly_as_steps():
    """Quantiles of a random walk's fifth step stray less with 64 paths than with 256 free ones."""

    def stray(paths, free):
        ends = []
        for seed in range(60):
            u = path_uniforms("A", [DAY], paths, 5, seed)
            u = torch.rand(u.shape, dtype=torch.float64) if free else u
            walk = torch.special.ndtri(u[:, 0])
            for step in range(1, 5):
                numbers = u[:, step] if free else spread(u[None, :, step], walk[None])[0]
                walk = walk + torch.special.ndtri(numbers)
            ends.append(walk.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)))
        return torch.stack(ends).std(dim=0).mean()

    assert stray(64, free=False) < stray(256, free=True)


# Joint paths

DAY = pd.Timestamp("2020-01-01")


def joint_uniforms(loading, tickers=("A", "B"), samples=20_000, horizon=2, seed=0):
    """`[B,K,P]` from one day."""
    loading = None if loading is None else np.asarray(loading, dtype=float)
    found = path_uniforms(tickers, [DAY] * len(tickers), samples, horizon, seed, loading)
    return found.view(len(tickers), samples, horizon)


def test_a_loading_of_zero_changes_no_bit():
    plain, mixed = joint_uniforms(None), joint_uniforms([0.0, 0.8])
    assert torch.equal(joint_uniforms([0.0, 0.0]), plain)
    assert torch.equal(mixed[0], plain[0])
    assert (mixed[1] != plain[1]).all()


def test_loadings_make_correlations_and_leave_the_marginals():
    loading = np.array([0.9, 0.6, 0.0])
    found = joint_uniforms(loading, "ABC")
    assert (found >= 0).all()
    assert (found < 1).all()
    for row in found.numpy().reshape(3, -1):
        assert stats.kstest(row, "uniform").pvalue > 0.01
    scores = torch.special.ndtri(found).numpy()
    for step in range(2):
        expected = np.outer(loading, loading) + np.diag(1 - loading**2)
        np.testing.assert_allclose(np.corrcoef(scores[..., step]), expected, atol=0.02)
    assert abs(np.corrcoef(scores[0].T)[0, 1]) < 0.02  # steps stay independent


def test_the_common_factor_belongs_to_origin_and_seed():
    found = joint_uniforms([0.9, 0.6], samples=50)
    assert torch.equal(joint_uniforms([0.6], "B", samples=50), found[1:])
    assert torch.equal(joint_uniforms([0.9, 0.1, 0.6], "ACB", samples=50)[[0, 2]], found)
    assert torch.equal(joint_uniforms([0.9, 0.6], samples=50, horizon=5)[..., :2], found)
    assert (joint_uniforms([0.9, 0.6], samples=50, seed=1) != found).all()
    later = path_uniforms("AB", [DAY, DAY + pd.Timedelta(days=1)], 20_000, 1, 0, np.array([0.9, 0.9])).view(2, -1)
    assert abs(np.corrcoef(later)[0, 1]) < 0.02


def test_a_uniform_number_never_reaches_one():
    ends = torch.tensor([[1 - 2**-53, 0.0, 0.5]], dtype=torch.float64)
    mixed = pipeline_tsf_llm._mixed(ends, ends, 0.7)
    assert mixed[0, 0] < 1
    assert mixed[0, 1] == 0
    assert mixed[0, 2] == 0.5


def test_joint_paths_move_together_and_keep_the_laws(pipe, make_bars):
    one = make_bars(200, seed=1)
    bars = pd.concat([one.assign(ticker=name) for name in "AB"])  # twins: each is all of the other
    batch = pipe.processor(bars, joint=True)
    assert batch["loading"].tolist() == [0.95, 0.95]
    joint, apart = (pipe.sample(one, horizon=3, samples=4000) for one in (batch, pipe.processor(bars)))
    for step in range(3):
        together, alone = (stats.spearmanr(*paths[..., step]).statistic for paths in (joint, apart))
        assert together > 0.6
        assert abs(alone) < 0.06
        for row in range(2):
            assert stats.ks_2samp(joint[row, :, step], apart[row, :, step]).pvalue > 0.01
    again = pipe.sample(pipe.processor(bars, joint=True), horizon=3, samples=4000)
    np.testing.assert_array_equal(again, joint)


def test_paths_with_laws_keep_their_values_and_move_together_the_more_the_higher_the_loadings(with_laws, make_bars):
    pipe = with_laws
    batch = pipe.processor(pd.concat([make_bars(200, seed=seed, ticker=str(seed)) for seed in (1, 2)]), joint=True)
    reach, found, values = 3, [], None
    for loading in (0.0, 0.5, 0.9):
        batch["loading"] = torch.full((2,), loading, dtype=torch.float64)
        paths = pipe.sample(batch, horizon=reach, samples=2000)
        found.append([stats.spearmanr(*paths[..., step]).statistic for step in range(reach)])
        if values is not None:
            np.testing.assert_array_equal(np.sort(paths, axis=1), values)
        values = np.sort(paths, axis=1)
    assert (np.diff(found, axis=0) > 0.1).all()


def test_without_joint_a_batch_has_no_loading(pipe, bars):
    assert "loading" not in pipe.processor(bars)
    lone = bars[bars["ticker"] == "AAA"]
    batch = pipe.processor(lone, joint=True)
    assert batch["loading"].tolist() == [0.0]
    np.testing.assert_array_equal(
        pipe.sample(batch, horizon=2, samples=8), pipe.sample(pipe.processor(lone), horizon=2, samples=8)
    )


def test_loadings_go_with_their_rows_in_chunks(pipe, make_bars, monkeypatch):
    bars = pd.concat([make_bars(200, seed=seed, ticker=name) for seed, name in ((1, "A"), (1, "B"), (2, "C"))])
    batch = pipe.processor(bars, joint=True)
    whole = pipe.sample(batch, horizon=2, samples=40)
    monkeypatch.setattr(pipeline_tsf_llm, "ROWS_AT_ONCE", 40)
    np.testing.assert_allclose(pipe.sample(batch, horizon=2, samples=40), whole, rtol=1e-5)


def test_joint_paths_read_no_later_bar(pipe, make_bars):
    bars = pd.concat([make_bars(200, seed=seed, ticker=name) for seed, name in ((1, "A"), (1, "B"), (2, "C"))])
    cut = bars["timestamp"].iloc[150]
    past = pipe.processor(bars[bars["timestamp"] <= cut], joint=True)
    prices = ["open", "high", "low", "close"]
    bars.loc[bars["timestamp"] > cut, prices] *= 2.0
    then = pipe.processor(bars, as_of=cut, joint=True)
    assert torch.equal(then["loading"], past["loading"])
    np.testing.assert_array_equal(*(pipe.sample(one, horizon=2, samples=20) for one in (then, past)))


# Models with a head


def test_quantile_model(head, make_bars):
    pipe, bars = head("quantile"), make_bars(100)
    frame = pipe(bars, horizon=3, samples=499)
    batch = pipe.processor(bars)
    with torch.inference_mode():
        own = pipe.model(past_values=batch["past_values"], attention_mask=batch["attention_mask"]).prediction[0]
    prices = pipe.processor.inverse_transform(own[None], batch)[0]
    np.testing.assert_allclose(frame[QUANTILES], prices, rtol=1e-4)
    np.testing.assert_allclose(frame["q50"], prices[:, 3], rtol=1e-6)
    assert frame["mean"].between(frame["q05"], frame["q95"]).all()
    assert frame["p_up"].between(0, 1).all()
    up = (frame["q25"] > batch["last_close"].item()).to_numpy()
    assert (frame["p_up"].to_numpy()[up] > 0.75).all()


def test_spread_quantiles_pass_through_the_models_own(head):
    pipe = head("quantile", quantiles=[0.1, 0.5, 0.9])
    own = np.array([[[-1.2815515655446004, 0.0, 1.2815515655446004], [2.0, 3.0, 3.5]]])  # the first is standard normal
    spread = pipe._spread_quantiles(own, None, 99)
    assert spread.shape == (1, 99, 2)
    np.testing.assert_allclose(spread[0, [9, 49, 89]], own[0].T, rtol=1e-9, atol=1e-9)
    assert (np.diff(spread, axis=1) > 0).all()
    np.testing.assert_allclose(spread[0, [0, 24, 98], 0], [-2.3263478740, -0.6744897502, 2.3263478740], rtol=1e-8)


def test_a_single_quantile_stays_itself(head, make_bars):
    pipe = head("quantile", quantiles=[0.5])
    paths = pipe.sample(pipe.processor(make_bars(60)), horizon=2, samples=5)
    assert paths.shape == (1, 5, 2)
    assert (paths == paths[:, :1]).all()
    assert paths[0, 0, 0] != paths[0, 0, 1]


def test_regression_model_claims_no_distribution(head, make_bars):
    pipe, bars = head("regression"), make_bars(100)
    frame, batch = pipe(bars, horizon=3), pipe.processor(bars)
    with torch.inference_mode():
        own = (
            pipe.model(past_values=batch["past_values"], attention_mask=batch["attention_mask"]).prediction[0].numpy()
        )
    expected = batch["last_close"].item() * np.exp(own.astype(float) * batch["scale"].item())
    np.testing.assert_allclose(frame["mean"], expected, rtol=1e-12)
    assert frame[[*QUANTILES, "p_up"]].isna().all().all()
    assert list(frame.columns) == FORECAST_COLUMNS


def test_classification_model_gives_p_up_alone(head, make_bars):
    pipe, bars = head("classification"), make_bars(100)
    frame, batch = pipe(bars, horizon=3), pipe.processor(bars)
    with torch.inference_mode():
        own = (
            pipe.model(past_values=batch["past_values"], attention_mask=batch["attention_mask"]).prediction[0].numpy()
        )
    np.testing.assert_allclose(frame["p_up"], own[:, 2] + own[:, 1] / 2, rtol=1e-6)
    assert frame["p_up"].nunique() == 3
    assert frame[["mean", *QUANTILES]].isna().all().all()


@pytest.mark.parametrize("prediction_type", ["quantile", "regression", "classification"])
def test_a_head_cannot_go_beyond_its_length(head, make_bars, prediction_type):
    pipe = head(prediction_type)
    assert len(pipe(make_bars(60), horizon=2)) == 2
    with pytest.raises(ValueError, match=r"horizon=4, but this model was trained for 3 step.*causal LM"):
        pipe(make_bars(60), horizon=4)


# Errors and warnings


def test_a_processor_of_another_model_is_refused(processor, tiny_model):
    with pytest.raises(
        ValueError, match="the processor gives 5 features, the model wants 7: load both from one folder"
    ):
        TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, num_features=7, **SIZES), processor=processor)
    with pytest.raises(ValueError, match="the processor has 34 tokens, the model 20: load both from one folder"):
        TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM), processor=processor)


def test_the_names_that_chronos_and_transformers_use(pipe, bars):
    wanted = pipe(bars, horizon=2, samples=40)
    pd.testing.assert_frame_equal(pipe(bars, prediction_length=2, num_samples=40), wanted)
    other = {"ticker": "item_id", "timestamp": "date", "close": "target"}
    named = pipe(
        bars.rename(columns=other),
        prediction_length=2,
        num_samples=40,
        id_column="item_id",
        timestamp_column="date",
        target_column="target",
    )
    pd.testing.assert_frame_equal(named, wanted.rename(columns=other))
    fixed = TsfLlmPipeline(model=pipe.model, processor=pipe.processor, prediction_length=3, num_samples=40)
    pd.testing.assert_frame_equal(fixed(bars, horizon=2), wanted)


def test_quantile_levels(pipe, head, bars):
    levels = [0.025, 0.5, 0.9]
    frame, usual = (pipe(bars, horizon=2, samples=80, **options) for options in ({"quantile_levels": levels}, {}))
    assert list(frame.columns) == ["ticker", "origin", "step", "timestamp", "mean", "q02.5", "q50", "q90", "p_up"]
    pd.testing.assert_frame_equal(frame.drop(columns="q02.5"), usual[frame.columns.drop("q02.5")])
    assert (frame["q02.5"] < usual["q05"]).all()
    assert head("regression")(bars, quantile_levels=levels)[["q02.5", "q50", "q90"]].isna().all().all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"horizon": 2, "prediction_length": 2}, "horizon and prediction_length are two names of one thing"),
        ({"quantile_levels": [0.5, 1.0]}, r"quantile_levels=\[0.5, 1.0\]: give distinct levels between 0 and 1"),
        ({"quantile_levels": []}, r"quantile_levels=\[\]: give distinct levels"),
        ({"id_column": "symbol"}, r"column\(s\) \['symbol'\] missing from \['timestamp', 'ticker'"),
        ({"target_column": "open"}, "the bars have open and close too: drop or rename one of them"),
        ({"horizon": 0}, "horizon=0: must be 1 or more"),
        ({"samples": 0}, "samples=0: must be 1 or more"),
        (
            {"steps": 3, "epochs": 2},
            r"unknown argument\(s\) \['epochs', 'steps'\]: use as_of, calendar, calibration, horizon",
        ),
        ({"as_of": "2001-01-01"}, "AAA: 0 observed bars"),
    ],
)
def test_wrong_arguments_are_refused(pipe, bars, arguments, words):
    with pytest.raises(ValueError, match=words):
        pipe(bars, **arguments)


@pytest.mark.parametrize("empty", [[], ()])
def test_an_empty_list_is_refused(pipe, empty):
    with pytest.raises(ValueError, match=r"^an empty list of bars: give a DataFrame, or a list of one or more$"):
        pipe(empty)


def test_a_streamed_table_is_one_table(pipe, bars):
    table = Dataset.from_pandas(bars.reset_index(drop=True))
    wanted = pipe(bars, horizon=2, samples=4)
    for given in (table, table.to_iterable_dataset()):
        pd.testing.assert_frame_equal(pipe(given, horizon=2, samples=4), wanted)


def test_bad_bars_are_refused(pipe, bars):
    with pytest.raises(ValueError, match=r"AAA, row 0.*price <= 0"):
        pipe(bars.assign(close=-1.0))


def test_a_calendar_of_the_call_goes_over_that_of_the_processor(pipe, processor, make_bars, monkeypatch):
    bars = make_bars(400, start="2022-07-15")  # to Thursday, 25 January 2024
    options = {"horizon": 1, "samples": 4}
    assert pipe(bars, **options)["timestamp"].tolist() == [pd.Timestamp("2024-01-26")]
    assert pipe(bars, **options, calendar="XBOM")["timestamp"].tolist() == [pd.Timestamp("2024-01-29")]
    monkeypatch.setattr(processor.feature_extractor, "calendar", "XBOM")
    assert pipe(bars, **options)["timestamp"].tolist() == [pd.Timestamp("2024-01-29")]
    assert pipe(bars, **options, calendar="XNYS")["timestamp"].tolist() == [pd.Timestamp("2024-01-26")]
    with pytest.raises(ValueError, match="calendar='Mumbai': no such calendar"):
        pipe(bars, **options, calendar="Mumbai")


def test_forecasts_within_the_training_period_warn_once(processor, tiny_model, make_bars, caplog):
    bars = make_bars(100, freq="h", start="2015-05-01")
    hourly = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["bar"]), TsfLlmTokenizer(BINS)).fit(bars)
    model = tiny_model(TsfLlmForCausalLM, **SIZES, trained_through="2015-05-03")
    pipe = TsfLlmPipeline(model=model, processor=hourly)

    def warned(as_of: str) -> list[str]:
        caplog.clear()
        pipe(bars, as_of=as_of, horizon=1, samples=2)
        return [record.message for record in caplog.records if "not out of sample" in record.message]

    with caplog.at_level(logging.WARNING):
        assert warned("2015-05-04 00:00") == []
        (message,) = warned("2015-05-03 23:00")  # a bar of the last day that the model has seen
        assert "2015-05-03" in message
        assert warned("2015-05-03 23:00") == warned("2015-05-02") == []


# --- as any pipeline of transformers -------------------------------------------------------------------------------


class Frames(torch.utils.data.Dataset):
    def __init__(self, frames):
        self.frames = frames

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        return self.frames[index]


@pytest.mark.parametrize("batch_size", [None, 1, 2, 8])
@pytest.mark.parametrize(
    "given", [list, Frames, lambda frames: (frame for frame in frames)], ids=["list", "set", "gen"]
)
@pytest.mark.parametrize("prediction_type", [None, "quantile", "classification"])
def test_batches_give_what_one_by_one_gives(pipe, head, make_bars, prediction_type, given, batch_size):
    """To the bit: frames of other lengths and with other tickers do not matter."""
    some = pipe if prediction_type is None else head(prediction_type)
    two = pd.concat([make_bars(120, ticker="X", seed=5), make_bars(90, ticker="Y", seed=6)])
    frames = [make_bars(200, ticker="AAA", seed=3), two, make_bars(60, ticker="CCC", seed=4)]
    alone = [some(frame, horizon=2) for frame in frames]
    together = list(some(given(frames), horizon=2, batch_size=batch_size))
    for one, other in zip(alone, together, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    pd.testing.assert_frame_equal(some(frames[0], horizon=2, batch_size=2), alone[0], check_exact=True)


@pytest.mark.parametrize("prediction_type", [None, "quantile"])
def test_transformers_pipeline_takes_objects(pipe, head, bars, prediction_type):
    some = pipe if prediction_type is None else head(prediction_type)
    theirs = pipeline("time-series-forecasting", model=some.model, processor=some.processor, horizon=2)
    assert type(theirs) is TsfLlmPipeline
    pd.testing.assert_frame_equal(theirs(bars), some(bars, horizon=2))


def test_a_config_without_a_cache_forecasts_the_same(processor, tiny_model, bars):
    models = [tiny_model(TsfLlmForCausalLM, **SIZES, use_cache=use) for use in (True, False)]
    one, other = (TsfLlmPipeline(model=model, processor=processor)(bars, horizon=5, samples=8) for model in models)
    pd.testing.assert_frame_equal(one, other)
    assert (
        models[1].generate(**processor(bars), max_new_tokens=5).shape[1] == processor(bars)["input_ids"].shape[1] + 5
    )


def test_paths_that_no_machine_holds_are_refused_with_the_number(small, make_bars, tiny_model):
    model = tiny_model(
        num_features=len(small.feature_extractor.names), vocab_size=34, pad_token_id=32, bar_token_id=33
    )
    pipe = TsfLlmPipeline(model=model, processor=small)
    with pytest.raises(ValueError, match=r"1,000,000 samples x 90,000 steps x 1 series want [0-9,]+ GB"):
        pipe(make_bars(60), horizon=90_000, samples=1_000_000)
    with pytest.raises(ValueError, match=r"horizon=1,000,000,000: more than 100,000 steps"):
        pipe(make_bars(60), horizon=10**9, samples=2)


def test_a_shared_context_is_counted_once(pipe, monkeypatch):
    """256 paths of a model whose contexts are copied want 256 of them, more than this machine is said to have."""
    size, bars = {"horizon": 5, "samples": 256}, 100_000
    c = pipe.model.config
    cached = 4 * c.num_hidden_layers * (c.kv_lora_rank + c.qk_rope_head_dim) * bars
    scores = 4 * 256 * 4 * c.num_attention_heads * (bars + 5)
    monkeypatch.setattr(pipeline_tsf_llm, "memory_of_this_machine", lambda: 100 * cached + scores)
    pipe.check_size(1, bars, **size)
    monkeypatch.setattr(pipeline_tsf_llm, "can_share", lambda model: False)
    with pytest.raises(ValueError, match="256 samples x 5 steps x 1 series want"):
        pipe.check_size(1, bars, **size)


# Calibration


def test_a_kept_calibration_widens_and_off_is_the_law_to_the_bit(pipe, processor, bars):
    kept = {"kept": True, "shift": [0.0, 0.0], "spread": [2.0, 2.0], "through": "2019-02-28"}
    parts = processor.feature_extractor, processor.tokenizer
    wider = TsfLlmPipeline(model=pipe.model, processor=TsfLlmProcessor(*parts, calibration=kept))
    raw = pipe(bars, horizon=2, samples=32)
    pd.testing.assert_frame_equal(wider(bars, horizon=2, samples=32, calibration="off"), raw)
    for choice in ({}, {"calibration": "auto"}, {"calibration": "on"}):
        frame = wider(bars, horizon=2, samples=32, **choice)
        widths = [np.log(one["q90"] / one["q10"]) for one in (frame, raw)]
        np.testing.assert_allclose(widths[0], 2 * widths[1], rtol=1e-2)  # prices are interpolated, not their logs
        np.testing.assert_allclose(frame["q50"], raw["q50"], rtol=1e-4)
    later = [one(bars, horizon=3, samples=32).query("step == 3") for one in (wider, pipe)]
    pd.testing.assert_frame_equal(*later)


def test_calibration_on_needs_one_for_all_steps(pipe, processor, head, bars):
    parts = processor.feature_extractor, processor.tokenizer
    kept = {"kept": True, "shift": [0.0], "spread": [2.0], "through": "2019-02-28"}
    states = {"it has 1 step": kept, "CRPS is no less": {"kept": False, "reason": "CRPS is no less"}, "has none": None}
    for says, state in states.items():
        one = TsfLlmPipeline(model=pipe.model, processor=TsfLlmProcessor(*parts, calibration=state))
        with pytest.raises(ValueError, match=rf"calibration=on, but .*{says}"):
            one(bars, horizon=2, samples=8, calibration="on")
    with pytest.raises(ValueError, match="calibration=on, but this model has none"):
        head("regression")(bars, calibration="on")
    with pytest.raises(ValueError, match="calibration='maybe': choose auto, on, off"):
        pipe(bars, calibration="maybe")


# Bars


@pytest.fixture(scope="module")
def bar_pipe(processor, tiny_model) -> TsfLlmPipeline:
    return TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, emits_bars=True, **SIZES), processor=processor)


@pytest.mark.parametrize("horizon", [1, 4])
def test_bars_are_coherent_around_the_closes_of_sample(bar_pipe, bars, horizon):
    batch = bar_pipe.processor(bars)
    made = bar_pipe.sample_bars(batch, horizon=horizon, samples=20, seed=5)
    paths = bar_pipe.sample(batch, horizon=horizon, samples=20, seed=5)
    last_close = batch["last_close"].numpy()[:, None, None]
    np.testing.assert_array_equal(made.close, bar_pipe.processor.kind.level(last_close, paths))
    assert (made.high >= np.maximum(made.open, made.close)).all()
    assert (made.low <= np.minimum(made.open, made.close)).all()
    assert (made.volume > 0).all()
    again = bar_pipe.sample_bars(batch, horizon=horizon, samples=20, seed=5)
    other = bar_pipe.sample_bars(batch, horizon=horizon, samples=20, seed=6)
    for name in ("open", "high", "low", "volume"):
        np.testing.assert_array_equal(getattr(made, name), getattr(again, name))
        assert (getattr(made, name) != getattr(other, name)).all()


def test_bars_depend_on_their_row_and_steps_before_alone(bar_pipe, bars, monkeypatch):
    whole = bar_pipe.sample_bars(bar_pipe.processor(bars), horizon=4, samples=20)
    alone = bar_pipe.processor(bars[bars["ticker"] == "BBB"])
    short = bar_pipe.sample_bars(alone, horizon=2, samples=20)
    monkeypatch.setattr(pipeline_tsf_llm, "ROWS_AT_ONCE", 20)
    chunks = bar_pipe.sample_bars(bar_pipe.processor(bars), horizon=4, samples=20)
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(getattr(short, name), getattr(whole, name)[1:2, :, :2], rtol=1e-5)
        np.testing.assert_allclose(getattr(chunks, name), getattr(whole, name), rtol=1e-5)


def test_a_path_is_read_as_the_whole_sequence_would_be(bar_pipe, bars):
    """The cache of the bars, continued by all tokens at once, against one pass over bars and tokens."""
    batch = bar_pipe.processor(bars[bars["ticker"] == "AAA"])
    tokens = bar_pipe.sample_tokens(batch, horizon=4, samples=3)
    z = bar_pipe.processor.tokenizer.decode_returns(tokens)
    uniforms = np.full((1, 3, 4, 4), 0.3)
    parts = bar_pipe._parts({**batch, "z": z, "uniforms": uniforms})
    for k in range(3):
        ids = torch.cat((batch["input_ids"], torch.from_numpy(tokens[:, k])), dim=1)
        with torch.no_grad():
            hidden = bar_pipe.model.model(input_ids=ids, past_values=batch["past_values"]).last_hidden_state[:, -5:-1]
        wanted = bar_pipe.model.bar_head.draw(hidden, torch.from_numpy(z[:, k]), torch.from_numpy(uniforms[:, k]))
        np.testing.assert_allclose(parts[:, k], wanted, rtol=1e-4, atol=1e-5)


def test_bars_without_a_known_volume_have_none(bar_pipe, bars):
    made = bar_pipe.sample_bars(bar_pipe.processor(bars.assign(volume=0.0)), horizon=2, samples=5)
    assert np.isnan(made.volume).all()
    assert np.isfinite(made.high).all()


def test_a_model_without_the_head_says_so(pipe, head, bars):
    for one in (pipe, head("quantile")):
        with pytest.raises(ValueError, match="no head for open, high, low and volume"):
            one.sample_bars(one.processor(bars), horizon=2, samples=5)
