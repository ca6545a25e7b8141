"""reading.py: what is read is checked, and weights are one file or all that an index names."""

import json

import pytest

from tsf_llm.common.reading import read_json, weight_files


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
