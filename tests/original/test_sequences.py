"""The published sequence files: what is read, what is refused, how they are split, and training on them."""

import json

import numpy as np
import pytest
import torch

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.feature_extraction_tsf_llm import center_and_scale
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.original import training as sequences
from tsf_llm.original.sequences import SequenceDataset, read_sequences, sequence_files, split_sequences
from tsf_llm.original_features_tsf_llm import (
    OriginalFeatureExtractor,
    original_features,
    original_sequences,
    original_split,
    original_target,
)
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.train_scripts import sft


def published(bars):
    """X and y of the training rows, as the original leaves them."""
    part = original_split(len(bars))[0]
    table = original_features(bars, expose_leak=True).to_numpy()
    target = original_target(bars["close"]).fillna(0).to_numpy()[:, None]
    scaled = []
    for values in (table, target):
        center, scale = center_and_scale(values[part], "robust")
        scaled.append((values - center) / scale)
    return original_sequences(scaled[0], scaled[1][:, 0], part)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("stocks")
    for ticker, bars in read_bars("sample", ["AAPL", "IBM"]).groupby("ticker"):
        X, y = published(bars.tail(1000).reset_index(drop=True))
        np.savez(where / f"{ticker}_train_sequences.npz", X=X, y=y)
    return where


@pytest.fixture
def train(folder, small_model, command_line):
    """`train(output_dir, **options)` -> the report."""

    def run(output_dir, **options):
        chosen = {"data": folder, "head": "regression", "output_dir": output_dir, "num_train_epochs": 3}
        chosen |= {"disable_tqdm": True, "model_config": small_model, "learning_rate": 5e-3, **options}
        return sft.main(*sft.parse(command_line(**chosen)))

    return run


def test_reads_a_folder_and_a_file(folder):
    found = read_sequences(folder)
    assert list(found) == ["AAPL_train", "IBM_train"]
    X, y = read_sequences(folder / "IBM_train_sequences.npz")["IBM_train"]
    assert (X.shape, y.shape, X.dtype, y.dtype) == ((778, 32, 64), (778,), np.float32, np.float32)
    np.testing.assert_array_equal(X, found["IBM_train"][0])
    assert sequence_files("sample") == []


GOOD = {"X": np.zeros((3, 32, 64)), "y": np.zeros(3)}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"X": GOOD["X"]}, "no array 'y.*X .N,32,64."),
        ({**GOOD, "X": np.zeros((3, 32, 63))}, r"X is \(3, 32, 63\).*expected"),
        ({**GOOD, "y": np.zeros(4)}, r"y \(4,\).*expected"),
        ({"X": np.zeros((0, 32, 64)), "y": np.zeros(0)}, "expected"),
        ({**GOOD, "y": np.zeros(3, dtype=int)}, "y is int64, expected floating-point"),
        ({**GOOD, "y": np.array([0, np.nan, np.inf])}, "y holds 2 values that are not finite"),
        ({**GOOD, "X": np.full((3, 32, 64), 4e8)}, "X reaches 4e.08; scale it"),
        ({**GOOD, "y": np.array([None, 1, 2], dtype=object)}, "plain numbers.*allow_pickle"),
    ],
)
def test_another_layout_is_refused(tmp_path, arrays, words):
    path = tmp_path / "A_train_sequences.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=words) as refused:
        read_sequences(path)
    assert str(path) in str(refused.value)


def test_files_that_are_no_npz_are_refused(folder, tmp_path):
    path = tmp_path / "A_train_sequences.npz"
    whole = (folder / "IBM_train_sequences.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 1  # one bit: the checksum finds it
    for content in (b"", b"no zip at all", whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no readable"):
            read_sequences(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    path.write_bytes((tmp_path / "array.npy").read_bytes())
    with pytest.raises(ValueError, match="no readable"):
        read_sequences(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz does not exist"):
        read_sequences(tmp_path / "nowhere.npz")
    with pytest.raises(FileNotFoundError, match="holds no"):
        read_sequences(tmp_path / "nowhere")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / path.name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"A_train.*more than once"):
        read_sequences(tmp_path)


def test_parts_follow_in_time_and_share_no_bar():
    place = np.arange(1000, dtype=np.float32)
    X = np.broadcast_to(place[:, None, None] + np.arange(32)[:, None], (1000, 32, 64)).astype(np.float32)
    parts = split_sequences({"A": (X, place), "B": (X[100:], place[100:])})
    for name, count in (("A", 1000), ("B", 900)):
        train, valid, test = split_sequences({name: (X[1000 - count :], place[1000 - count :])})
        assert train.y.max() + 32 < valid.y.min()
        assert valid.y.max() + 32 < test.y.min()
        assert test.y.max() == 999
        shared = [set(one.X[:, :, 0].flatten().tolist()) for one in (train, valid, test)]
        assert not shared[0] & shared[1]
        assert not shared[1] & shared[2]
    assert sum(map(len, parts)) == 2 * 1000 - 100 - 4 * 32
    both = parts[2].time  # windows of one date have one time
    np.testing.assert_array_equal(np.unique(both)[-5:], np.arange(-5, 0))
    assert (parts[2].y.numpy() == both + 1000).all()
    with pytest.raises(ValueError, match="A: 200 sequences are too few"):
        split_sequences({"A": (X[:200], place[:200])})


def test_a_batch_has_the_form_of_a_regression_window():
    X, y = np.random.default_rng(0).normal(size=(5, 32, 64)).astype(np.float32), np.arange(5, dtype=np.float32)
    data = SequenceDataset(X, y, np.arange(5))
    batch = data.__getitems__([3, 1])
    assert torch.equal(batch["past_values"], torch.from_numpy(X[[3, 1]]))
    assert torch.equal(batch["attention_mask"], torch.ones(2, 32, dtype=torch.int64))
    assert torch.equal(batch["labels"], torch.tensor([[3.0], [1.0]]))
    assert data[2]["labels"].tolist() == [2.0]


def test_training_finds_the_leak_and_says_so(train, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sequences.logger, "warning", said.append)
    report = train(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert "future_return_10d" in said[0]
    assert said[0] == report["leak"]
    assert "training median" in report["direction_about"]
    before, after, ridge = report["before"], report["after"], report["baselines"]["ridge"]
    assert after["mse"] < 0.9 * before["mse"]
    assert ridge["mse"] < 0.7 * ridge["mse_constant_0"]
    assert ridge["direction_accuracy"] > 0.7 > ridge["direction_base_rate"]
    assert report["baselines"]["constant_0"]["mse"] == after["mse_constant_0"]
    assert report["baselines"]["constant_0"]["direction_accuracy"] is None
    assert "future returns" in TsfLlmForPrediction.from_pretrained(tmp_path).config.trained_on
    assert isinstance(TsfLlmProcessor.from_pretrained(tmp_path).feature_extractor, OriginalFeatureExtractor)
    assert (tmp_path / "loss.png").exists()
    assert not list(tmp_path.glob("*.bin"))


def test_fine_tunes_a_folder_with_or_without_its_processor(train, folder, tmp_path, tiny_model):
    base = tmp_path / "base"
    vocabulary = {"vocab_size": 258, "pad_token_id": 256, "bar_token_id": 257}
    tiny_model(TsfLlmForPrediction, num_features=64, prediction_length=1, **vocabulary).save_pretrained(base)
    train(tmp_path / "once", model_name_or_path=base, num_train_epochs=1)
    processor = TsfLlmProcessor.from_pretrained(tmp_path / "once")
    processor.fit(read_bars("sample", ["IBM"])).save_pretrained(tmp_path / "once")
    train(tmp_path / "twice", model_name_or_path=tmp_path / "once", num_train_epochs=1)
    again = TsfLlmProcessor.from_pretrained(tmp_path / "twice").feature_extractor
    assert again.target_scale == processor.feature_extractor.target_scale


def test_what_cannot_train_on_them_is_refused(train, tmp_path, tiny_model):
    with pytest.raises(ValueError, match="--head regression"):
        train(tmp_path / "out", head="causal_lm")
    tiny_model(TsfLlmForPrediction).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="64 inputs and one number"):
        train(tmp_path / "out", model_name_or_path=tmp_path / "other")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [{"augment": "jitter=0.1"}, {"sample_weights": "volatility"}])
def test_options_of_windows_are_refused(train, tmp_path, option):
    with pytest.raises(ValueError, match="leave them out"):
        train(tmp_path / "out", **option)
