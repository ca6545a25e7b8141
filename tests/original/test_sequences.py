"""The published sequence files: what is read, what is refused, and how they are split."""

import numpy as np
import pytest
import torch

from tsf_llm.original.sequences import SequenceDataset, read_sequences, sequence_files, split_sequences


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
