"""Where results go, and on what they were measured."""

import os

import pytest

from tsf_llm.benchmarks.results import Output, circumstances


def test_a_place_for_results_is_checked_before_any_work(tmp_path):
    assert Output(json=tmp_path / "new.json").json == tmp_path / "new.json"
    for path in (tmp_path, tmp_path / "nowhere" / "new.json"):
        with pytest.raises(ValueError, match="give a file name in an existing folder"):
            Output(json=path)


def test_the_circumstances_name_machine_and_versions():
    told = circumstances("numpy", threads=2)
    assert told["machine"] == {"cpu_count": os.cpu_count(), "threads": 2}
    assert set(told["versions"]) == {"python", "numpy"}
