"""What several test files share: a tiny random model, its inputs, made-up bars, a comparison, and small trainings."""

import functools
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers.dynamic_module_utils import get_relative_import_files

from tsf_llm import modeling_tsf_llm as modeling
from tsf_llm.audit_tsf_llm import made_up_index
from tsf_llm.bars_tsf_llm import OHLCV
from tsf_llm.configuration_tsf_llm import TsfLlmConfig
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.indicators_tsf_llm import FEATURES
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts import sft

TINY = {
    "num_features": 5,
    "horizons": None,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # ten times the default: attention and routing must matter
    "prediction_length": 3,
    "vocab_size": 20,
    "pad_token_id": 18,
    "bar_token_id": 19,
}


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """Fits of baselines are kept for the session, and nothing in the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSF_LLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def code_files():
    """Names of the files that go with a saved model: what its module imports, as transformers finds it."""
    file = Path(modeling.__file__)
    return {file.name, *(Path(found).name for found in get_relative_import_files(file))}


@pytest.fixture(scope="session")
def tiny_config():
    """`tiny_config(**overrides)` -> a config whose model has a few thousand weights."""
    return lambda **overrides: TsfLlmConfig(**{**TINY, **overrides})


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """`tiny_model(cls, seed=, **overrides)` -> a random model in eval mode."""

    def build(cls=TsfLlmForCausalLM, *, seed=0, **overrides):
        torch.manual_seed(seed)
        return cls(tiny_config(**overrides)).eval()

    return build


@pytest.fixture(scope="session")
def tiny_batch():
    """`tiny_batch(bars=, tokens=, rows=)` -> bars, then return tokens; the second row starts with two paddings."""

    def build(*, bars=6, tokens=3, rows=2, padding=2, seed=0):
        generator = torch.Generator().manual_seed(seed)
        input_ids = torch.randint(0, 18, (rows, bars + tokens), generator=generator)
        input_ids[:, :bars] = 19
        attention_mask = torch.ones_like(input_ids)
        attention_mask[1:2, :padding] = 0
        past_values = torch.randn(rows, bars, 5, generator=generator)
        return {"input_ids": input_ids, "past_values": past_values, "attention_mask": attention_mask}

    return build


@pytest.fixture(scope="session")
def checkpoint_activations():
    """`checkpoint_activations(model)`, by the name that the running transformers has for it: 5.23 brings a new one."""
    return lambda model: getattr(
        model, "activation_checkpointing_enable", getattr(model, "gradient_checkpointing_enable", None)
    )()


@pytest.fixture(scope="session")
def close():
    """`torch.testing.assert_close` to float32 noise."""
    return functools.partial(torch.testing.assert_close, atol=2e-5, rtol=2e-5)


@pytest.fixture(scope="session")
def make_bars():
    """`make_bars(rows, ticker=, seed=, freq=, start=)` -> random-walk bars of one ticker."""

    def build(rows=300, *, ticker="AAA", seed=0, freq="B", start="2015-01-01"):
        rng = np.random.default_rng(seed)
        close = 50 * np.exp(rng.normal(0, 0.012, rows).cumsum())
        open_ = close * np.exp(rng.normal(0, 0.005, rows))
        up, down = np.exp(np.abs(rng.normal(0, 0.004, (2, rows))))
        prices = {"open": open_, "high": np.maximum(open_, close) * up, "low": np.minimum(open_, close) / down}
        times = pd.date_range(start, periods=rows, freq=freq)
        volume = rng.lognormal(10, 0.6, rows)
        return pd.DataFrame({"timestamp": times, "ticker": ticker, **prices, "close": close, "volume": volume})

    return build


@pytest.fixture(scope="session")
def columns_of():
    """`columns_of(bars)`: one ticker of a `Panel`."""

    def build(bars):
        numbers = {name: bars[name].to_numpy(dtype=float) for name in OHLCV.columns}
        return {"timestamp": bars["timestamp"].to_numpy("datetime64[ns]"), **numbers}

    return build


@pytest.fixture(scope="session")
def processor(make_bars) -> TsfLlmProcessor:
    """All features, fitted on two tickers."""
    return TsfLlmProcessor().fit([make_bars(400, ticker="AAA", seed=1), make_bars(500, ticker="BBB", seed=2)])


@pytest.fixture(scope="session")
def small(make_bars) -> TsfLlmProcessor:
    """Few features and a short window, for what does not depend on the features."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], context_length=40)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(make_bars(400, seed=1))


@pytest.fixture
def table():
    """The feature table, put back as it was."""
    before = dict(FEATURES)
    yield FEATURES
    FEATURES.clear()
    FEATURES.update(before)


@pytest.fixture(scope="session")
def beside_market(make_bars) -> TsfLlmProcessor:
    """Features of the market, fitted beside two other tickers."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar", "market", "reversal"], context_length=40)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32))
    return processor.fit(make_bars(400, seed=1), market=[make_bars(400, ticker=name, seed=ord(name)) for name in "XY"])


@pytest.fixture(scope="session")
def make_index(make_bars):
    """`make_index(rows, seed=0)`: bars of an implied-volatility index at the times of `make_bars`."""

    def build(rows: int, seed: int = 0) -> pd.DataFrame:
        index = made_up_index(make_bars(rows)["timestamp"], np.random.default_rng(seed))
        return index.assign(ticker="VIX")

    return build


@pytest.fixture
def warnings_of(caplog):
    """`warnings_of(function)`: what calling it warns of; what is told once is told anew."""

    def call(function) -> list[str]:
        logging.Logger.warning_once.cache_clear()  # of transformers
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            function()
        return [record.getMessage() for record in caplog.records]

    return call


@pytest.fixture(scope="session")
def assert_same_batch():
    """`assert_same_batch(left, right)`: the same fields, equal to the bit."""

    def check(left, right) -> None:
        assert left.keys() == right.keys()
        for key, value in left.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, right[key]), key
            else:
                assert all(np.array_equal(a, b) for a, b in zip(value, right[key], strict=True)), key

    return check


SMALL_MODEL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}


@pytest.fixture(scope="session")
def small_model():
    """Fields of `TsfLlmConfig`, as JSON, of a model that trains in a second."""
    return json.dumps(SMALL_MODEL)


@pytest.fixture(scope="session")
def command_line():
    """`command_line(**options)` -> the words of a command line; a list gives several, None leaves an option out."""

    def flat(**options):
        given = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
        return [
            word for name, values in given.items() if values != [None] for word in (f"--{name}", *map(str, values))
        ]

    return flat


@pytest.fixture(scope="session")
def prices(make_bars, tmp_path_factory):
    """A price file of two tickers, AAA and BBB, 400 bars each."""
    path = tmp_path_factory.mktemp("prices") / "prices.csv"
    pd.concat([make_bars(400, ticker="AAA", seed=1), make_bars(400, ticker="BBB", seed=2)]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def train(prices, small_model, command_line):
    """`train(output_dir, **options)` -> the report of a small `sft` run on `prices`."""
    usual = {"context_length": 16, "horizon": 2, "stride": 2, "n_bins": 32, "report_samples": 0, "data": prices}
    usual |= {"num_train_epochs": 2, "per_device_train_batch_size": 32, "logging_steps": 2, "disable_tqdm": True}
    usual |= {"model_config": small_model}

    def run(output_dir, **options):
        return sft.main(*sft.parse(command_line(**{**usual, "output_dir": output_dir, **options})))

    return run


@pytest.fixture(scope="session")
def base_folder(train, tmp_path_factory):
    """A small causal LM trained on `prices`, to start from. Read only: others read it too."""
    folder = tmp_path_factory.mktemp("base")
    train(folder, num_train_epochs=1)
    return folder


@pytest.fixture(scope="module")
def ray_workers():
    """A cluster of two workers on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'tsf-llm[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield ray
        ray.shutdown()


@pytest.fixture(scope="session")
def weekly_sales():
    """Daily sales of four series of two stores with a week in them, 200 rows each, with the store as a column."""
    rng, days = np.random.default_rng(0), pd.date_range("2020-01-06", periods=200)
    frames = []
    for i, name in enumerate(("a", "b", "c", "d")):
        mean = 4 * (i + 1) + 3 * np.sin(2 * np.pi * np.arange(len(days)) / 7)
        told = {"series_id": name, "timestamp": days, "value": rng.poisson(np.maximum(mean, 0)).astype(float)}
        frames.append(pd.DataFrame({**told, "store": "north" if i < 2 else "south"}))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="session")
def series_form(weekly_sales):
    """`series_form(**fields)` -> the pipeline of a random quantile model in series form, three days ahead."""
    options = {"kind": "univariate", "context_length": 28, "feature_groups": ["level", "calendar"]}
    options |= {"steps_ahead": 3, "static_covariates": ["store"], "seasons": [7], "nonnegative": True}
    extractor = TsfLlmFeatureExtractor(**options)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32), horizons=(1,))
    processor.fit(weekly_sales, "2020-05-31")

    def build(*, seed=0, **fields):
        torch.manual_seed(seed)
        own = {**TINY, **extractor.series_fields(), "num_features": len(extractor.names), "patch_length": 7}
        own |= {"prediction_length": 3, "prediction_type": "quantile", "quantiles": [0.1, 0.5, 0.9], **fields}
        return TsfLlmPipeline(model=TsfLlmForPrediction(TsfLlmConfig(**own)).eval(), processor=processor)

    return build
