"""build_preferences.py: the command writes what the function does."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tsf_llm.common.errors import one_line_errors
from tsf_llm.data_prep.prepare import prepare
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.preferences.pairs import PairArguments, build_preferences
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts.build_preferences import main, parse

BINS = 32
SIZES = {"vocab_size": BINS + 2, "pad_token_id": BINS, "bar_token_id": BINS + 1}
FENCE = "2015-09-30"


@pytest.fixture(scope="module")
def bars(make_bars) -> pd.DataFrame:
    """Two tickers that go on after the fence, and one that hardly starts before it; a missing bar."""
    frames = [make_bars(240, ticker=name, seed=i) for i, name in enumerate(["AAA", "BBB"])]
    frames[0].loc[100, ["open", "high", "low", "close"]] = np.nan
    return pd.concat([*frames, make_bars(60, ticker="NEW", seed=5, start="2015-09-15")], ignore_index=True)


@pytest.fixture(scope="module")
def processor(bars) -> TsfLlmProcessor:
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=24)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS)).fit(bars, through=FENCE)


@pytest.fixture(scope="module")
def pipe(processor, tiny_model) -> TsfLlmPipeline:
    return TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, **SIZES), processor=processor)


@pytest.fixture(scope="module")
def model_folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipe.model.save_pretrained(folder)
    pipe.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prices(bars, tmp_path_factory):
    path = tmp_path_factory.mktemp("prices") / "prices.csv"
    bars.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def folder(pipe, bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs")
    build_preferences(pipe, bars, out, PairArguments(samples=6), jsonl=True, progress=False)
    return out


def table(folder) -> pd.DataFrame:
    return pq.read_table(folder / "preferences.parquet").to_pandas()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}


# The command


def run(words):
    with one_line_errors("build_preferences"):
        main(*parse(words))


def test_the_command_writes_what_the_function_does(model_folder, prices, folder, tmp_path, capsys):
    run(["--model", str(model_folder), "--data", str(prices), "--out", str(tmp_path), "--samples", "6", "--jsonl"])
    assert contents(tmp_path) == contents(folder)
    assert "pairs, 0 ties" in capsys.readouterr().out
    text = (folder / "preferences.json").read_text()
    assert not any(str(path) in text for path in (model_folder, prices, folder, tmp_path))


def test_it_reads_a_prepared_dataset(model_folder, prices, processor, tmp_path):
    data = tmp_path / "data"
    prepare(prices, data, horizon=3, processor=TsfLlmProcessor(TsfLlmFeatureExtractor(), TsfLlmTokenizer(BINS)))
    command = ["--model", str(model_folder), "--data", str(data), "--samples", "4", "--out", str(tmp_path / "out")]
    run([*command, "--tickers", "BBB", "--min-margin", "0.1"])
    assert set(table(tmp_path / "out")["ticker"]) == {"BBB"}
    with pytest.raises(SystemExit):
        run([*command, "--tickers", "ZZZ"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--utility", "sharpe"], "choose one of crps"),
        (["--samples", "1"], "2 paths or more"),
        (["--through", "2016-01-01"], "training ended with 2015-09-30"),
        (["--through", "someday"], "someday"),
        (["--data", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--model", "nowhere"], "nowhere is no folder"),
        (["--tickers", "ZZZ"], "Unknown ticker ZZZ"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(model_folder, prices, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        run(["--model", str(model_folder), "--data", str(prices), "--out", str(tmp_path), *options])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("build_preferences: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_head_in_the_folder_is_refused(tiny_model, prices, tmp_path, capsys):
    tiny_model(TsfLlmForPrediction).save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as stop:
        run(["--model", str(tmp_path / "model"), "--data", str(prices), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "need a causal LM" in capsys.readouterr().err
