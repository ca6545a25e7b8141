"""looks.py: every look at these dates counts, and a log that cannot be read is no clean slate."""

import json

import pytest

from tsf_llm.evaluation.looks import NAME, add_look, count_looks

PERIOD = {"start": "2019-01-02", "end": "2021-04-20"}


def test_looks_at_dates_that_overlap_count_whatever_the_weights(tmp_path):
    assert count_looks(tmp_path, **PERIOD) == 0
    add_look(tmp_path, "a", "skill --models .", **PERIOD)
    add_look(tmp_path, "b", "skill --models .", start="2021-04-20", end="2022-01-01")
    add_look(tmp_path, "b", "skill --models .", start="2015-01-01", end="2019-01-01")
    assert count_looks(tmp_path, **PERIOD) == 2
    first, *_ = map(json.loads, (tmp_path / NAME).read_text(encoding="utf-8").splitlines())
    assert first["model"] == "a"
    assert first["command"] == "skill --models ."
    assert first.keys() == {"model", "date", "command", "start", "end"}


@pytest.mark.parametrize("line", ["{", "[1]", '{"start": "2019-01-01"}', '{"start": "soon", "end": "later"}'])
def test_what_is_no_log_is_refused_in_one_line(tmp_path, line):
    add_look(tmp_path, "a", "skill", **PERIOD)
    with (tmp_path / NAME).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="line 2 is no look at a model: repair it"):
        count_looks(tmp_path, **PERIOD)
