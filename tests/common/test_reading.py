"""reading.py: what is read is checked, and weights are one file or all that an index names."""

import json
import os

import pytest

from tsf_llm.common.reading import plain_file, read_json, shapes_of, weight_files


def test_json_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is no JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json holds no JSON object"):
        read_json(tmp_path / "a.json")


def test_weights_are_one_file_or_all_of_an_index(tmp_path):
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        weight_files(tmp_path)
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1-of-2.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"lacks model-2-of-2\.safetensors, which model\.safetensors\.index\.json"):
        weight_files(tmp_path)
    (tmp_path / "model-2-of-2.safetensors").write_bytes(b"")
    assert len(weight_files(tmp_path)) == 3
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert list(weight_files(tmp_path)) == ["model.safetensors"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "\ufeff{}"], ids=["lists", "objects", "bom"])
def test_json_that_breaks_the_reader_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is no JSON"):
        read_json(tmp_path / "a.json")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json is no plain file"):
        read_json(tmp_path / "a.json")


NO_NAMES = ["/etc/passwd", "../up.txt", "sub/../../up.txt", "link", "folder/a.txt", "pipe", "sub", ".", "", 3, "a\nb"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_leads_to_a_plain_file_of_the_folder_alone(tmp_path, name):
    (tmp_path / "up.txt").write_text("secret")
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("")
    (folder / "link").symlink_to(tmp_path / "up.txt")
    (folder / "folder").symlink_to(folder / "sub")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ValueError, match=r"does not lie in it|is a link or no plain file"):
        plain_file(folder, name)
    assert plain_file(folder, "sub/a.txt").read_text() == ""
    assert not plain_file(folder, "nothing").exists()


@pytest.mark.parametrize(
    "weights", [{"a": "/etc/passwd"}, {"a": "../b.safetensors"}, {"a": "notes.txt"}, {}, [], {"a": 3}]
)
def test_an_index_names_weights_beside_it_alone(tmp_path, weights):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(ValueError, match=r"index\.json names .* no safetensors file beside it"):
        weight_files(tmp_path)


def test_an_error_of_shape_names_what_was_read(tmp_path):
    with (
        pytest.raises(ValueError, match=r"a\.json holds something of another.*KeyError.*copy it"),
        shapes_of("a.json", "copy it"),
    ):
        {}["a"]
    with pytest.raises(ZeroDivisionError), shapes_of("a.json"):
        1 / 0  # noqa: B018
