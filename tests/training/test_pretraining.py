"""pretraining.py: fences, what a recipe is, the fingerprint of bars."""

from types import SimpleNamespace

import pytest

from tsf_llm.training.pretraining import PretrainArguments, PretrainData, fingerprint


def test_validation_is_the_last_year():
    fenced = PretrainData(data=["a.csv"], through="2018-12-31").up_to("2014-12-31")
    assert (fenced.train_through, fenced.valid_through, fenced.through) == ("2013-12-31", "2014-12-31", "2014-12-31")
    assert fenced.data == ["a.csv"]
    chosen = PretrainData(through="2018-12-31", train_through="2018-06-30").up_to("2018-12-31")
    assert chosen.train_through == "2018-06-30"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (PretrainData, {}, "through is missing"),
        (PretrainData, {"through": "2018-99-01"}, "through=2018-99-01: no date"),
        (PretrainData, {"through": "2018-12-31", "valid_through": "2019-12-31"}, "leave it out"),
        (PretrainData, {"through": "2018-12-31", "bag_years": True, "sample_weights": "volatility"}, "give one"),
        (PretrainArguments, {"seeds": []}, "give one or more, each once"),
        (PretrainArguments, {"seeds": [1, 1]}, "each once"),
        (PretrainArguments, {"student_steps": 0}, "student_steps=0"),
        (PretrainArguments, {"student_config": "[1]"}, "must be a mapping"),
    ],
)
def test_arguments_that_train_nothing_are_refused(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(**options)


def test_a_fingerprint_tells_bars_tickers_and_market(make_bars):
    def told(bars, market=None):
        return fingerprint(SimpleNamespace(bars=bars, market=market))

    bars = make_bars(50)
    assert told(bars) == told(bars.copy())
    changed = bars.copy()
    changed.loc[7, "volume"] += 1e-9 * changed.loc[7, "volume"]
    assert (
        len({told(bars), told(changed), told(bars.assign(ticker="B")), told(bars, market=make_bars(50, seed=1))}) == 4
    )
