import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from tsf_llm.evaluation import track_record
from tsf_llm.evaluation.distributions import Samples
from tsf_llm.evaluation.track_record import GRID, GRID_COLUMNS, Chain, TrackRecord, asked_levels, law_of, shown
from tsf_llm.laws_tsf_llm import PiecewiseLaw
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline


@pytest.fixture(scope="module")
def bars(make_bars):
    """Shorter than those of the room."""
    return pd.concat([make_bars(60, ticker="AAA", seed=1), make_bars(60, ticker="BBB", seed=2)])


@pytest.fixture
def path(bars, log_forecasts):
    """Three origins of two tickers and two steps: twelve rows."""
    return log_forecasts(bars, bars["timestamp"].unique()[-10:-7])


def read(path):
    chain = Chain()
    chunks = list(TrackRecord(path).chunks(chain))
    return (pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame(columns=["id"])), chain


def run(path, *commands):
    connection = sqlite3.connect(path)
    for command in commands:
        connection.execute(command)
    connection.commit()
    connection.close()


def test_a_row_says_what_was_forecast_and_when(path, bars):
    rows, chain = read(path)
    assert chain.sound
    assert (chain.rows, list(rows["id"])) == (12, list(range(1, 13)))
    first, origin = rows.iloc[0], bars["timestamp"].unique()[-10]
    assert (first["ticker"], first["origin"], first["step"], first["horizon"], first["seed"]) == (
        "AAA",
        origin,
        1,
        2,
        0,
    )
    assert first["made_at"] == origin + pd.Timedelta("20h")
    assert first["target"] == origin + pd.offsets.BDay()
    assert first["last_close"] == bars.set_index(["ticker", "timestamp"])["close"]["AAA", origin]
    assert rows["late"].isna().all()
    assert rows["repeats"].isna().all()


def test_the_law_that_comes_back_is_the_one_that_was_written(path):
    rows, _ = read(path)
    law = law_of(np.stack(rows["quantiles"].to_list()))
    width, y = 0.02 * rows["step"].to_numpy(), np.linspace(-0.05, 0.05, len(rows))
    u = np.clip((y + width) / (2 * width), 0, 1)  # uniform on [-width, width], in closed form
    outside = np.maximum(np.abs(y) - width, 0)
    np.testing.assert_allclose(law.crps(y), 2 * width * (u**2 - u + 1 / 3) + outside, rtol=1e-5)
    np.testing.assert_allclose(law.quantile([0.1, 0.5]), np.outer(width, [-0.8, 0.0]), atol=1e-8)


def test_levels_of_the_grid_are_enough_for_a_law_of_bins():
    rng = np.random.default_rng(0)
    edges = np.sort(rng.standard_t(4, 73))
    whole = PiecewiseLaw.of_bins(rng.dirichlet(np.full(72, 5.0), 50), edges, np.ones(50))
    logged = law_of(whole.quantile(np.array(GRID)))
    y = whole.quantile(rng.uniform(size=(50, 1)))[:, 0]
    np.testing.assert_allclose(logged.crps(y), whole.crps(y), rtol=2e-3)
    assert abs(logged.crps(y).mean() / whole.crps(y).mean() - 1) < 2e-4


def test_asking_for_the_grid_changes_no_other_column(tiny_model, small, make_bars):
    pipe = TsfLlmPipeline(
        model=tiny_model(
            vocab_size=34, pad_token_id=32, bar_token_id=33, num_features=len(small.feature_extractor.names)
        ),
        processor=small,
    )
    some = make_bars(100, ticker="AAA", seed=5)
    usual = pipe(some, horizon=2, samples=16)
    pd.testing.assert_frame_equal(shown(pipe(some, horizon=2, samples=16, quantile_levels=asked_levels())), usual)
    assert len(set(GRID_COLUMNS)) == len(GRID)


@pytest.mark.parametrize(
    "command",
    [
        "UPDATE forecasts SET p_up = 1 WHERE id = 2",
        "DELETE FROM forecasts WHERE id = 12",
        "INSERT OR REPLACE INTO forecasts SELECT * FROM forecasts WHERE id = 3",
        "INSERT INTO forecasts SELECT * FROM forecasts WHERE id = 3",
    ],
)
def test_what_is_written_stays(path, command):
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        run(path, command)
    assert read(path)[1].sound


@pytest.mark.parametrize(
    ("command", "at", "why"),
    [
        ("UPDATE forecasts SET p_up = 0.9 WHERE id = 5", 5, "not as it was written"),
        ("UPDATE forecasts SET quantiles = zeroblob(8) WHERE id = 12", 12, "not as it was written"),
        ("UPDATE forecasts SET quantiles = 'text', ticker = x'00' WHERE id = 5", 5, "not as it was written"),
        ("UPDATE forecasts SET made_at = '2001-01-01T00:00:00.000' WHERE id = 1", 1, "not as it was written"),
        ("DELETE FROM forecasts WHERE id = 4", 4, "row 5 does not follow row 3"),
        ("DELETE FROM forecasts WHERE id = 1", 1, "row 2 does not follow row 0"),
    ],
)
def test_a_chain_that_was_broken_by_hand_is_found(path, command, at, why):
    guards = ["DROP TRIGGER no_update", "DROP TRIGGER no_delete"]
    run(path, *guards, command)
    rows, chain = read(path)
    assert (chain.sound, chain.broken_at) == (False, at)
    assert why in chain.broken
    assert list(rows["id"]) == list(range(1, at))  # none that cannot be trusted


def test_guards_that_are_gone_are_missed(path, bars, log_forecasts):
    run(path, "DROP TRIGGER no_delete")
    assert "no_delete" in read(path)[1].broken
    with pytest.raises(ValueError, match="no_delete was taken away"):
        log_forecasts(bars, bars["timestamp"].unique()[-6:-5])


def test_a_later_head_shows_that_the_rest_was_written_anew(path, bars, log_forecasts, tmp_path):
    origins = bars["timestamp"].unique()[-10:-7]
    other = log_forecasts(bars, origins, width=0.03, path=tmp_path / "other.sqlite")
    heads = [read(one)[1].head for one in (path, other)]
    assert heads[0] != heads[1]
    for noted, sound in zip(heads, (True, False), strict=True):
        chain = Chain(noted)
        list(TrackRecord(path).chunks(chain))
        assert (chain.sound, chain.broken_at) == ((True, None) if sound else (False, 1))


@pytest.mark.parametrize(
    ("after", "whole", "late"),
    [("20h", False, None), ("2D", False, None), ("9D", False, "its first bar was over"), ("20h", True, "later bars")],
)
def test_a_forecast_made_after_the_fact_is_marked(bars, log_forecasts, after, whole, late):
    rows, _ = read(log_forecasts(bars, bars["timestamp"].unique()[-3:-2], after=after, whole=whole))
    assert rows["late"].isna().all() if late is None else rows["late"].str.contains(late).all()


def test_the_same_forecast_again_is_marked_whatever_its_seed(path, bars, log_forecasts):
    again = bars["timestamp"].unique()[-8:-6]  # one old, one new
    log_forecasts(bars, again, width=0.05, seed=7)
    log_forecasts(bars, again, model_digest="cc" * 16)  # another model
    rows, chain = read(path)
    assert chain.sound
    repeats = rows["repeats"].to_numpy()[12:]
    assert repeats[:4].tolist() == [9, 10, 11, 12]
    assert np.isnan(repeats[4:]).all()


def test_a_single_number_is_logged_as_one(bars, log_forecasts, monkeypatch, path):
    record, origin = TrackRecord(path), bars["timestamp"].max()
    known = {"AAA": bars[bars["ticker"] == "AAA"].reset_index(drop=True)}
    empty = dict.fromkeys(GRID_COLUMNS, np.nan)
    last = known["AAA"]["close"].iloc[-1]
    frame = pd.DataFrame({"ticker": ["AAA"], "origin": origin, "step": 1, "mean": last * 1.01, "p_up": np.nan} | empty)
    frame["timestamp"] = origin + pd.Timedelta(days=1)
    facts = read(path)[0].iloc[0][[*track_record.FACTS]].to_dict() | {
        "horizon": 1,
        "market": 0,
        "seed": 0,
        "samples": 2,
    }
    assert record.append(frame, known, facts).rows == 1
    row = read(path)[0].iloc[-1]
    law = law_of(row["quantiles"][None])
    assert (row["law"], isinstance(law, Samples)) == ("number", True)
    np.testing.assert_allclose(law.crps(np.array([0.0])), np.log(1.01), rtol=1e-5)
    assert law.p_up == 1
    with pytest.raises(ValueError, match=r"AAA: its forecast from .* has no law"):
        record.append(frame.assign(mean=np.nan), known, facts)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 50, None, b"SQLite format 3\0"])
def test_what_is_no_record_is_refused_and_left_alone(tmp_path, content, path):
    other = tmp_path / "other.db"
    if content is None:
        run(other, "CREATE TABLE forecasts (id INTEGER)")
    else:
        other.write_bytes(content)
    before = other.read_bytes()
    with pytest.raises(ValueError, match=r"other\.db (is a database of something else|is no track record)"):
        TrackRecord(other)
    assert other.read_bytes() == before


def test_torn_newer_missing_and_odd_files_are_refused(tmp_path, path):
    with pytest.raises(ValueError, match="no plain file"):
        TrackRecord(tmp_path)
    with pytest.raises(ValueError, match="is a file, and a folder is to be written"):
        TrackRecord(path / "record.sqlite")
    with pytest.raises(ValueError, match="holds no forecast"):
        read(tmp_path / "none.sqlite")
    torn = tmp_path / "torn.sqlite"
    torn.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"torn\.sqlite"):
        read(torn)
    run(path, "PRAGMA user_version = 9")
    with pytest.raises(ValueError, match=r"another version \(9\)"):
        TrackRecord(path)


def test_a_batch_is_written_whole_or_not_at_all(path, bars, log_forecasts, monkeypatch):
    def fails(*_):
        raise ValueError("stop")

    monkeypatch.setattr(track_record, "_insert", fails)
    with pytest.raises(ValueError, match="stop"):
        log_forecasts(bars, bars["timestamp"].unique()[-5:-4])
    assert read(path)[1].rows == 12


def _append(path, frame, known, facts, times):
    for _ in range(times):
        TrackRecord(path).append(frame, known, facts)


def test_processes_and_threads_wait_for_each_other(bars, log_forecasts, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(TrackRecord, "append", lambda record, *parts: given.append(parts))
    log_forecasts(bars, bars["timestamp"].unique()[-2:-1])
    monkeypatch.undo()
    path, context = tmp_path / "new.sqlite", multiprocessing.get_context("fork")
    processes = [context.Process(target=_append, args=(path, *given[0], 8)) for _ in range(2)]
    for one in processes:
        one.start()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: _append(path, *given[0], 4), range(2)))
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0, 0]
    rows, chain = read(path)
    assert (chain.sound, len(rows), chain.backwards) == (True, 24 * 4, 0)
    assert rows["repeats"].isna().sum() == 4
