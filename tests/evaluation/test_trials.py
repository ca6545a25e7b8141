"""trials.py: the log only grows, the same settings count once, and what is no log is left alone."""

import pytest

from tsf_llm.evaluation.trials import add_trials, read_trials


def trial(rule, sharpe, **settings):
    return {"settings": {"rule": rule, **settings}, "sharpe": sharpe}


def test_the_log_grows_and_the_same_settings_count_once(tmp_path):
    log = tmp_path / "new" / "trials.jsonl"
    assert read_trials(log) == {}
    assert not log.parent.exists()
    add_trials(log, [trial("sign", 0.5), trial("kelly", -0.25)])
    before = log.read_bytes()
    add_trials(log, [trial("sign", 0.5), trial("sign", 1.0, cost_bp=5)])
    assert log.read_bytes().startswith(before)
    assert [*read_trials(log).values()] == [0.5, -0.25, 1.0]


def test_the_order_of_settings_does_not_matter(tmp_path):
    log = tmp_path / "trials.jsonl"
    add_trials(log, [{"settings": {"a": 1, "b": 2}, "sharpe": 0.5}, {"settings": {"b": 2, "a": 1}, "sharpe": 0.7}])
    assert [*read_trials(log).values()] == [0.7]


def test_a_trial_without_a_ratio_does_not_count(tmp_path):
    add_trials(tmp_path / "t.jsonl", [trial("sign", None)])
    assert read_trials(tmp_path / "t.jsonl") == {}


@pytest.mark.parametrize("line", ["{", "[1]", '{"sharpe": 1}', '{"settings": 3, "sharpe": 1}', "\ufffd"])
def test_what_is_no_log_is_refused_in_one_line(tmp_path, line):
    log = tmp_path / "t.jsonl"
    add_trials(log, [trial("sign", 1.0)])
    with log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="line 2 is no trial") as error:
        read_trials(log)
    assert "\n" not in str(error.value)


def test_a_last_line_without_an_end_stays_a_line(tmp_path):
    log = tmp_path / "t.jsonl"
    log.write_text('{"settings": {"rule": "sign"}, "sharpe": 0.5}')
    add_trials(log, [trial("kelly", 1.0)])
    assert [*read_trials(log).values()] == [0.5, 1.0]
