"""reader.py: pairs as they are read, checked and split by date."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from tsf_llm.data_prep.windows import Split
from tsf_llm.preferences.pairs import SCHEMA
from tsf_llm.preferences.reader import Reader, embargo_end, split_pairs

BINS, STEPS = 32, 3


def planted(count, *, seed=0, numbers=False, shortest=8):
    """After a last bar whose first feature is positive, the path up is preferred, else the one down."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        window = rng.normal(size=(int(rng.integers(shortest, 13)), 5)).astype(np.float32)
        up = np.abs(rng.normal(0.8, 0.3, STEPS)) if numbers else rng.integers(BINS // 2, BINS, STEPS)
        down = -np.abs(rng.normal(0.8, 0.3, STEPS)) if numbers else rng.integers(0, BINS // 2, STEPS)
        chosen, rejected = (up, down) if window[-1, 0] > 0 else (down, up)
        mask = [1] * len(window)
        rows.append({"past_values": window, "attention_mask": mask, "chosen": chosen, "rejected": rejected})
    return Dataset.from_list([{name: np.asarray(v).tolist() for name, v in row.items()} for row in rows])


# --- reading


@pytest.fixture
def reader(lm, processor, tmp_path):
    return Reader(lm(), processor, tmp_path / "cache")


def table(**columns):
    usual = {
        "ticker": ["AAA", "AAA"],
        "origin": pd.to_datetime(["2015-01-05", "2015-01-09"]),
        "past_values": [[[0.1] * 5] * 4] * 2,
        "attention_mask": [[0, 1, 1, 1]] * 2,
        "chosen_ids": [[1, 2, 3]] * 2,
        "rejected_ids": [[3, 2, 1]] * 2,
    }
    chosen = {**usual, **columns}
    return pa.table({name: values for name, values in chosen.items() if values is not None})


def lines(*changes):
    usual = {"prompt": [[[0.1] * 5] * 4], "chosen": [0.5, 0.1, 0.2], "rejected": [-0.5, -0.1, 0.0]}
    return "\n".join(json.dumps({**usual, **change}) for change in changes) + "\n"


def test_a_table_is_read_as_it_is(reader, tmp_path):
    pq.write_table(table(), tmp_path / "pairs.parquet")
    pairs = reader.read(tmp_path / "pairs.parquet")
    assert len(pairs) == 2
    assert (pairs[0]["chosen"], pairs[0]["rejected"]) == ([1, 2, 3], [3, 2, 1])
    assert pairs[0]["origin"] == pd.Timestamp("2015-01-05")
    assert set(table().column_names) <= set(SCHEMA.names)


def test_lines_become_tokens_or_stay_numbers(reader, processor, tmp_path, head):
    (tmp_path / "pairs.jsonl").write_text(lines({}, {"prompt": [[[0.2] * 5] * 7]}) + "\n")
    pairs = reader.read(tmp_path / "pairs.jsonl")
    assert [len(pair["past_values"]) for pair in pairs] == [4, 7]
    assert pairs[0]["chosen"] == processor.tokenizer.encode_returns(np.array([0.5, 0.1, 0.2])).tolist()
    numbers = Reader(head(), processor, tmp_path / "cache").read(tmp_path / "pairs.jsonl")
    assert numbers[0]["chosen"] == [0.5, 0.1, 0.2]


def test_tokens_of_a_table_become_numbers_for_a_regression_head(processor, tmp_path, head):
    pq.write_table(table(), tmp_path / "pairs.parquet")
    pairs = Reader(head(), processor, tmp_path / "cache").read(tmp_path / "pairs.parquet")
    np.testing.assert_allclose(pairs[0]["chosen"], processor.tokenizer.bin_centers[[1, 2, 3]])


def test_ties_are_left_out(reader, tmp_path):
    pq.write_table(table(rejected_ids=[[1, 2, 3], [3, 2, 1]]), tmp_path / "pairs.parquet")
    assert [pair["origin"] for pair in reader.read(tmp_path / "pairs.parquet")] == [pd.Timestamp("2015-01-09")]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"attention_mask": None, "chosen_ids": None}, ["attention_mask, chosen_ids"]),
        ({"rejected_ids": [[3, 2, 1], [3, 2]]}, ["row 1", "equal lengths"]),
        ({"past_values": [[[0.1] * 5] * 4, [[0.1] * 5] * 3 + [[0.1] * 4]]}, ["row 1", "5 features"]),
        ({"past_values": [[[0.1] * 6] * 4] * 2}, ["row 0", "5 features"]),
        ({"past_values": [[[0.1] * 5] * 4, [[math.nan] * 5] * 4]}, ["row 1", "not finite"]),
        ({"attention_mask": [[1, 1, 1], [1, 1, 1]]}, ["row 0", "one entry per bar"]),
        ({"attention_mask": [[1, 1, 1, 1], [0, 0, 0, 0]]}, ["row 1", "hides every bar"]),
        ({"chosen_ids": [[1, 2, 3], [1, 32, 3]]}, ["row 1", "chosen_ids", "32 return bins"]),
        ({"rejected_ids": [[1, -100, 3], [1, 2, 3]]}, ["row 0", "rejected_ids", "32 return bins"]),
        ({"rejected_ids": [[1, 2, 3]] * 2}, ["chosen equals rejected"]),
        (
            {"chosen_ids": [[1, 2, 3], [1, 2]], "rejected_ids": [[3, 2, 1], [2, 1]]},
            ["row 1", "another number of steps"],
        ),
    ],
)
def test_a_bad_table_is_refused(reader, tmp_path, columns, words):
    pq.write_table(table(**columns), tmp_path / "pairs.parquet")
    with pytest.raises(ValueError, match=r"pairs\.parquet") as refused:
        reader.read(tmp_path / "pairs.parquet")
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["holds no pairs"]),
        (lines({}) + '{"prompt": [[[0.1, 0', ["line 2", "no JSON"]),
        (lines({}, {"chosen": [0.1, 0.2]}), ["line 2", "2 chosen and 3 rejected"]),
        (lines({"prompt": [[[0.1] * 5, [0.1] * 4]]}), ["line 1", "ragged"]),
        (lines({"prompt": [[[0.1] * 6] * 4]}), ["line 1", "6 features", "5"]),
        (lines({"prompt": [[0.1] * 5] * 4}), ["line 1", "[1][T][F]"]),
        (lines({"chosen": [0.1, "up", 0.2]}), ["line 1", "chosen"]),
        (lines({"chosen": [0.1, math.nan, 0.2]}), ["line 1", "finite"]),
        (lines({"rejected": [0.5, 0.1, 0.2]}), ["chosen equals rejected"]),
        (lines({}, {"chosen": [0.1], "rejected": [0.9]}), ["different lengths"]),
        ('{"prompt": [[[0.1]]]}\n', ["line 1", "lacks chosen, rejected"]),
        ("[]\n", ["line 1", "lacks prompt"]),
    ],
    ids=[
        *("empty", "cut off", "lengths", "ragged", "features", "window", "text", "nan", "tie", "steps", "keys", "list")
    ],
)
def test_bad_lines_are_refused(reader, tmp_path, text, words):
    (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"pairs\.jsonl") as refused:
        reader.read(tmp_path / "pairs.jsonl")
    assert all(word in str(refused.value) for word in words)


def test_other_sources_are_refused(reader, tmp_path):
    pq.write_table(table().slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="holds no pairs"):
        reader.read(tmp_path / "empty.parquet")
    (tmp_path / "text.parquet").write_text("pairs")
    with pytest.raises(ValueError, match="no parquet file"):
        reader.read(tmp_path / "text.parquet")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl does not exist"):
        reader.read(tmp_path / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match="no finished pairs"):
        reader.read(tmp_path)
    for change, words in (({"n_bins": 64}, "64 bins, the model 32"), ({"features": ["body"]}, "other features")):
        info = {"n_bins": BINS, "features": reader.processor.feature_extractor.names}
        (tmp_path / "preferences.json").write_text(json.dumps({**info, **change}))
        with pytest.raises(ValueError, match=words):
            reader.read(tmp_path)
    for text, words in {"{}": "other features", "[]": "no JSON object", "[" * 100_000: "nested too deep"}.items():
        (tmp_path / "preferences.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            reader.read(tmp_path)
    (tmp_path / "deep.jsonl").write_text('{"prompt": ' + "[" * 100_000)
    with pytest.raises(ValueError, match="nested too deep"):
        reader.read(tmp_path / "deep.jsonl")


def test_a_head_wants_its_own_number_of_steps(processor, tmp_path, head):
    (tmp_path / "pairs.jsonl").write_text(lines({}))
    model = head(prediction_length=2)
    with pytest.raises(ValueError, match="line 1 has 3 steps, the head 2"):
        Reader(model, processor, tmp_path / "cache").read(tmp_path / "pairs.jsonl")


# --- splitting


@pytest.fixture(scope="module")
def bars(make_bars):
    return pd.concat([make_bars(200, ticker="AAA"), make_bars(200, ticker="BBB").iloc[::2]])


def dated(origins, ticker="AAA"):
    return Dataset.from_dict(
        {"ticker": [ticker] * len(origins), "origin": list(origins), "number": range(len(origins))}
    )


def test_pairs_are_split_at_the_fences(bars):
    times = np.sort(bars["timestamp"].unique())
    split = Split(pd.Timestamp(times[120]), pd.Timestamp(times[160]))
    parts = split_pairs(dated(times), bars, split, horizon=5)
    numbers = [list(part["number"][:]) for part in (parts.train, parts.valid)]
    assert numbers[0] == list(range(116))  # the last outcome is bar 120
    assert numbers[1] == list(range(125, 156))  # labels from bar 126 on: five bars lie between
    assert parts.counts == {"embargo": 125 - 116, "after_fence": 200 - 156}
    first_label = times[numbers[1][0] + 1]
    assert ((times > times[120]) & (times < first_label)).sum() == 5


def test_outcomes_are_counted_in_the_ticker_s_own_bars(bars):
    times = np.sort(bars["timestamp"].unique())
    split = Split(pd.Timestamp(times[120]), pd.Timestamp(times[160]))
    own = np.sort(bars.loc[bars["ticker"] == "BBB", "timestamp"].to_numpy())
    parts = split_pairs(dated(own, "BBB"), bars, split, horizon=5)
    assert max(parts.train["number"][:]) == 55  # its bar 60 is bar 120 of the other


def test_without_validation_dates_the_last_training_dates_are_held_out(bars):
    times = np.sort(bars["timestamp"].unique())
    split = Split(pd.Timestamp(times[120]), pd.Timestamp(times[160]))
    parts = split_pairs(dated(times[:100]), bars, split, horizon=5)
    train, valid = list(parts.train["number"][:]), list(parts.valid["number"][:])
    assert valid == list(range(90, 100))
    assert max(train) + 5 < 90
    assert parts.counts == {"embargo": 5, "after_fence": 0}


def test_later_pairs_never_train(bars):
    times = np.sort(bars["timestamp"].unique())
    split = Split(pd.Timestamp(times[120]), pd.Timestamp(times[160]))
    with pytest.raises(ValueError, match="no pair's outcome lies by the training fence"):
        split_pairs(dated(times[118:150]), bars, split, horizon=5)
    with pytest.raises(ValueError, match="no bars of ZZZ"):
        split_pairs(dated(times, "ZZZ"), bars, split, horizon=5)


def test_undated_pairs_keep_their_order(bars):
    times = np.sort(bars["timestamp"].unique())
    split = Split(pd.Timestamp(times[120]), pd.Timestamp(times[160]))
    parts = split_pairs(planted(20), bars, split, horizon=3)
    assert (len(parts.train), len(parts.valid), parts.dated) == (18, 2, False)
    with pytest.raises(ValueError, match="give more"):
        split_pairs(planted(1), bars, split, horizon=3)


def test_the_embargo_needs_dates(bars):
    last = pd.Timestamp(bars["timestamp"].max())
    with pytest.raises(ValueError, match="fewer than 4 bar times lie behind"):
        embargo_end(bars, last, 3)
