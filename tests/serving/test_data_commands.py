"""The commands about data: what they check and show."""

import json

import pytest

from tsf_llm.indicators_tsf_llm import FEATURES


def test_audit_passes_on_the_sample(run, model):
    code, text, _ = run("audit", "--data", "sample", "--ticker", "IBM,FB", "--cuts", 6)
    report = json.loads(text)
    assert (code, report["passed"], report["features"]) == (0, True, len(FEATURES))
    code, text, _ = run("audit", "--data", "sample", "--ticker", "IBM", "--model", model, "--cuts", 6)
    assert (code, json.loads(text)["passed"]) == (0, True)


def test_audit_says_what_it_would_have_found(run, tmp_path):
    own, broken = tmp_path / "own.py", tmp_path / "broken.py"
    head = "from tsf_llm.indicators_tsf_llm import feature\n\n\n"
    own.write_text(head + "@feature(group='mine', lookback=1)\ndef halved(bars):\n    return bars.no_such_column\n")
    broken.write_text("import a_module_that_is_not_there\n")
    chosen = ["--data", "sample", "--ticker", "IBM"]
    try:
        code, _, error = run("audit", *chosen, "--features", own)
    finally:
        FEATURES.pop("halved", None)
    assert code == 2
    assert "IBM: feature 'halved' raised AttributeError: " in error
    for options, says in (
        (["--features", broken], "broken.py cannot be run: ModuleNotFoundError: No module named 'a_module_that"),
        (["--cuts", "some"], "--cuts some: give a number of bars of each ticker, 1 or more, or all"),
    ):
        code, _, error = run("audit", *chosen, *options)
        assert (code, says in error) == (2, True), error
    code, text, error = run("audit", *chosen, "--cuts", 7)
    report = json.loads(text)["prefix_invariance"]
    assert (code, report["cuts_per_ticker"]) == (0, 7)
    assert "would have been found with probability 99%: a leak on at least 48.21% of rows" in error
    assert report["found_from_share"] == pytest.approx(1 - 0.01 ** (1 / 7), abs=1e-6)


def test_audit_fails_on_tomorrows_close(run, tmp_path):
    from tsf_llm.indicators_tsf_llm import FEATURES

    leak = tmp_path / "my_features.py"
    leak.write_text(
        "from tsf_llm.indicators_tsf_llm import feature\n\n"
        "@feature(group='mine', lookback=0, formula='tomorrow')\n"
        "def tomorrow(bars):\n    return bars.close.shift(-1) / bars.close\n"
    )
    try:
        code, text, error = run("audit", "--data", "sample", "--ticker", "IBM", "--features", leak, "--cuts", 6)
    finally:
        FEATURES.pop("tomorrow", None)
    assert code == 1
    assert [found["feature"] for found in json.loads(text)["prefix_invariance"]["leaks"]] == ["tomorrow"]
    assert json.loads(text)["random_walk"]["passed"] is False
    assert "tomorrow" in error
