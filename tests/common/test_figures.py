"""figures.py: a picture is there whole or not at all, and nothing else beside it."""

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from tsf_llm.common.figures import new_figure, save_figure


def assert_only_a_picture(path):
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert imread(path).shape[:2] == (720, 1350)


def fail_half_way(figure, target, **kwargs):
    target.write_bytes(b"\x89PNG half")
    raise OSError("disk full")


def test_rows_lie_under_one_title():
    figure, axes = new_figure("Scores", "two rows", rows=2)
    assert figure.axes == axes
    assert len(axes) == 2
    assert figure.get_suptitle() == "Scores"
    assert axes[0].get_title(loc="left") == "two rows"


def test_a_picture_is_written_alone_into_a_new_folder(tmp_path):
    path = save_figure(new_figure("Scores", "empty")[0], str(tmp_path / "new" / "scores.png"))
    assert path == tmp_path / "new" / "scores.png"
    assert_only_a_picture(path)


def test_a_failure_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", fail_half_way)
    with pytest.raises(OSError, match="disk full"):
        save_figure(new_figure("Scores", "empty")[0], tmp_path / "scores.png")
    assert not list(tmp_path.iterdir())


def test_pictures_are_replaced_whole(tmp_path, monkeypatch):
    figure, axes = new_figure("Scores", "empty")
    path = save_figure(figure, tmp_path / "scores.png")
    before = path.read_bytes()
    axes[0].plot([1, 2])
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", fail_half_way)
        with pytest.raises(OSError, match="disk full"):
            save_figure(figure, path)
    assert path.read_bytes() == before
    assert_only_a_picture(path)
    save_figure(figure, path)
    assert path.read_bytes() != before
    assert_only_a_picture(path)
