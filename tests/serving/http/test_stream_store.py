"""stream_store.py: what is in memory is on disk, one server has a folder, and nothing outside of it is touched."""

import errno

import pandas as pd
import pytest

from tsf_llm.common.files import claim
from tsf_llm.serving.http import stream_store
from tsf_llm.serving.http.errors import Refusal
from tsf_llm.serving.http.stream_store import Streams
from tsf_llm.serving.streaming import FILES, WRITER


@pytest.fixture
def panel(make_bars):
    return pd.concat([make_bars(120, ticker=name, seed=seed) for seed, name in enumerate(("AAA", "BBB"))])


@pytest.fixture
def days(panel):
    return sorted(panel["timestamp"].unique())


@pytest.fixture
def pipe(law_pipe):
    return law_pipe()


@pytest.fixture
def store(pipe, tmp_path):
    return Streams(pipe, tmp_path)


@pytest.fixture
def history(panel, days):
    return panel[panel["timestamp"] < days[100]]


@pytest.fixture
def new(panel, days):
    return lambda day: {"bars": panel[panel["timestamp"] == days[day]]}


def released(store):
    """As if its process had ended."""
    store._lock.release()
    return Streams(store.pipe, store.folder.parent)


def test_a_stream_is_found_again(store, history, new):
    store.create("a", {"bars": history}, horizon=2)
    _, before = store.update("a", new(100))
    store = released(store)
    assert len(store) == 1
    pd.testing.assert_frame_equal(store.get("a").forecast(), before)


def test_idle_streams_leave_memory_and_are_read_again(store, history, new, monkeypatch):
    monkeypatch.setattr(stream_store, "IN_MEMORY", 4)
    for name in "abc":
        store.create(name, {"bars": history}, horizon=2)
    assert list(store._loaded) == ["b", "c"]
    frames = {name: store.update(name, new(100))[1] for name in "abc"}
    assert list(store._loaded) == ["b", "c"]
    pd.testing.assert_frame_equal(frames["a"], frames["c"])


def test_memory_never_holds_what_is_not_on_disk(store, history, new, monkeypatch):
    stream, before = store.create("a", {"bars": history}, horizon=2)

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stream, "save", full)
        with pytest.raises(Refusal, match="could not be saved, so nothing was taken: No space left") as error:
            store.update("a", new(100))
    assert error.value.status_code == 507
    pd.testing.assert_frame_equal(store.get("a").forecast(), before)
    assert len(store.update("a", new(100))[1]) == 4


def test_who_cannot_be_forecast_is_named_at_the_start(store, history):
    bad = history[(history["ticker"] == "AAA") | (history["timestamp"] < history["timestamp"].iloc[5])]
    stream, frame = store.create("a", {"bars": bad}, horizon=2)
    assert stream.symbols == ["AAA"]
    assert list(frame.attrs["skipped"]) == ["BBB"]


def test_a_folder_has_one_server(store, pipe, tmp_path):
    with pytest.raises(ValueError, match="another server keeps its streams there"):
        Streams(pipe, tmp_path)


def test_streams_of_another_model_say_so_without_a_path(store, history, law_pipe, tmp_path):
    store.create("a", {"bars": history}, horizon=2)
    store._lock.release()
    other = Streams(law_pipe(seed=1), tmp_path)
    with pytest.raises(Refusal, match="stream a was saved with another model: delete it, and") as error:
        other.get("a")
    assert error.value.status_code == 409
    assert str(tmp_path) not in error.value.detail
    other.delete("a")
    assert len(other) == 0


def test_what_a_killed_run_left_is_no_stream(store, history):
    (store.folder / "a").mkdir()
    claim(store.folder / "a", FILES, by=WRITER)
    (store.folder / "a" / "stream-a.safetensors").write_bytes(b"torn")
    (store.folder / "Notes").mkdir()
    (store.folder / "Notes" / "stream.json").write_text("{}")
    store = released(store)
    assert len(store) == 0
    with pytest.raises(Refusal, match="there is no stream a"):
        store.get("a")
    store.create("a", {"bars": history}, horizon=2)
    assert released(store).get("a").symbols == ["AAA", "BBB"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a\n", ".lock", "x" * 65])
def test_names_are_no_paths(store, history, name):
    with pytest.raises(ValueError, match="a stream is called by small letters"):
        store.create(name, {"bars": history})


def test_without_a_folder_streams_end_with_the_server(pipe, history):
    store = Streams(pipe, None)
    store.create("a", {"bars": history}, horizon=2)
    folder = store.folder
    assert (folder / "a" / "stream.json").is_file()
    store._temporary.cleanup()
    assert not folder.exists()


def test_what_is_not_ours_is_neither_replaced_nor_removed(store, history):
    theirs = store.folder / "mine" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("of somebody")
    store.create("mine", {"bars": history})
    store.delete("mine")
    assert [path.name for path in theirs.parent.iterdir()] == ["notes.txt"]
    theirs.with_name("stream.json").write_text("{}")
    with pytest.raises(ValueError, match="was not written by this package"):
        store.create("mine", {"bars": history})
    assert theirs.with_name("stream.json").read_text() == "{}"
    store.create("ours", {"bars": history})
    store.delete("ours")
    assert not (store.folder / "ours").exists()
