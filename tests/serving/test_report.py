import base64
import hashlib
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.serving.report import DRAWN, report, write_report
from tsf_llm.serving.report_words import WORDS, words_of
from tsf_llm.serving.verdict import Verdict

MADE = datetime(2026, 11, 27, 12, tzinfo=UTC)
ROW = {"model": "model", "crps": 1.0, "coverage_80": 0.79}
VERDICT = Verdict(
    "No edge over <b>random_walk</b>.",
    "no edge",
    5,
    strongest="random_walk",
    rows=[ROW, {**ROW, "model": "random_walk", "skill": 0.01}],
    dates=60,
    start="2012-01-03",
    end="2013-01-02",
    trained_through="2018-12-31",
    out_of_sample=False,
)
INPUTS = {"used": ["volume"], "masked": ["implied"], "ignored": ["sector", "<i>"]}


@pytest.fixture(scope="module")
def pipe(model):
    return load_pipeline(model)


@pytest.fixture(scope="module")
def bars():
    return read_bars("sample", ["AAPL", "MSFT"])


@pytest.fixture(scope="module")
def one(pipe, bars):
    bars = bars[bars["ticker"] == "AAPL"]
    return pipe(bars, horizon=3, as_of="2013-02-01"), bars


@pytest.fixture(scope="module")
def page(pipe, one):
    options = {"model": "mini", "verdict": VERDICT, "inputs": INPUTS, "command": "tsf-llm forecast --report r.html"}
    return report(*one, pipe=pipe, made=MADE, **options)


class Elements(HTMLParser):
    """Names of elements, addresses that would be loaded, and all text."""

    def __init__(self, page):
        super().__init__()
        self.names, self.addresses, self.text, self.open = [], [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if not {"style", "script"} & {*self.open} else ""


def test_it_says_what_may_happen_and_how_sure_that_is(page, one):
    frame, _ = one
    end = frame.iloc[-1]
    told = Elements(page)
    assert told.open == []
    assert "By Wednesday 6 February 2013, AAPL is, with a probability of 80\u00a0%, between" in told.text
    assert f"between {end['q10']:.2f} and {end['q90']:.2f}." in told.text
    assert f"{end['mean']:.2f}" in told.text
    assert "No edge over <b>random_walk</b>." in told.text
    assert "sector, <i>" in told.text
    assert "tsf-llm forecast --report r.html" in told.text
    assert "Made 2026-11-27 12:00 UTC" in told.text
    assert "not advice" in told.text
    assert "what happened" in told.text  # bars behind the origin are known


def test_nothing_is_loaded_from_anywhere(page):
    told = Elements(page)
    assert all(address.startswith(("data:image/", "#")) for address in told.addresses)
    assert told.names.count("script") == 1
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_the_same_forecast_gives_the_same_bytes(pipe, one, tmp_path):
    first, second = (write_report(tmp_path / name, *one, pipe=pipe, made=MADE) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()
    assert "does not say how good" in first.read_text(encoding="utf-8")


def test_names_and_reasons_are_text(pipe, bars):
    names = {"AAPL": "<script>alert(1)</script>", "MSFT": "$x$ \x1b[31m"}
    bars = bars.assign(ticker=bars["ticker"].map(names))
    frame = pipe(bars, horizon=2)
    frame.attrs["skipped"] = {"<b>": "<img src=x>"}
    told = Elements(report(frame, bars, pipe=pipe))
    assert told.names.count("script") == 1
    assert "img" in told.names
    assert "x" not in told.addresses
    assert "<script>alert(1)</script>" in told.text
    assert "<img src=x>" in told.text
    assert "\x1b" not in told.text


def test_of_many_tickers_all_are_in_the_table_and_the_first_are_drawn(pipe, one):
    frame, bars = one
    count = DRAWN + 2
    frames = pd.concat([frame.assign(ticker=f"T{i}") for i in range(count)], ignore_index=True)
    histories = pd.concat([bars.tail(80).assign(ticker=f"T{i}") for i in range(count)], ignore_index=True)
    page = report(frames, histories, pipe=pipe, verdict={"T1": VERDICT})
    told = Elements(page)
    assert told.names.count("img") == DRAWN
    assert all(f'data-v="T{i}"' in page for i in range(count))
    assert f"first {DRAWN} of {count}" in told.text
    assert told.text.count("No edge over") == 1


@pytest.mark.parametrize("language", WORDS)
def test_languages_say_the_same_things(pipe, one, language):
    def keys(words):
        return {
            name: keys(value) if isinstance(value, dict) and name != "judged" else 0 for name, value in words.items()
        }

    assert keys(WORDS[language]) == keys(WORDS["en"])
    page = report(*one, pipe=pipe, verdict=VERDICT, language=language)
    assert f'<html lang="{WORDS[language]["lang"]}">' in page
    assert WORDS[language]["advice"] in page
    assert "2013" in page
    text = Elements(page).text
    assert ("79% 的实际结果" in text) == (language == "zh")
    assert (VERDICT.sentence in text) == (language == "en")


def test_a_model_that_gives_one_number(pipe, one):
    frame, bars = one
    bands = ["q05", "q10", "q25", "q50", "q75", "q90", "q95", "p_up"]
    told = Elements(report(frame.assign(**dict.fromkeys(bands, np.nan)), bars, pipe=pipe))
    assert "says nothing about how sure it is" in told.text
    assert "nan" not in told.text.lower().replace("finance", "")
    told = Elements(report(frame.assign(**dict.fromkeys([*bands[:-1], "mean"], np.nan)), bars, pipe=pipe))
    assert "direction of AAPL alone" in told.text


def test_levels_and_a_portfolio(pipe, one):
    risk = {"stop": 50.0, "target": 70.0}
    row = {"ticker": "AAPL", "p_touch": {"60": 0.4}, "expected_max_drawdown": 0.021}
    risk["tickers"] = [{**row, "p_stop_first": 0.01, "p_target_first": None}]
    told = Elements(report(*one, pipe=pipe, risk=risk))
    assert "P(touches 60)" in told.text
    assert "40.0 %" in told.text
    names = ["weight", "mean", "q05", "q50", "q95", "p_loss", "var_95", "es_95", "p_best"]
    joint = pd.DataFrame(
        {
            "ticker": ["(portfolio)", "AAPL"],
            "step": 1,
            "timestamp": pd.Timestamp("2013-02-04"),
            **dict.fromkeys(names, 0.5),
        }
    )
    assert "VaR 95" in Elements(report(*one, pipe=pipe, joint=joint)).text


def test_out_of_sample_is_said(pipe, one, monkeypatch):
    for through, words in {
        "2010-01-01": "out of sample: the model has not",
        "2020-01-01": "not out of sample",
    }.items():
        monkeypatch.setattr(pipe.model.config, "trained_through", through)
        assert words in Elements(report(*one, pipe=pipe)).text
    monkeypatch.setattr(pipe.model.config, "trained_through", None)
    assert "does not say what it has seen" in Elements(report(*one, pipe=pipe)).text


def test_refusals(pipe, one):
    frame, bars = one
    for options, frame_, bars_, words in (
        ({"language": "xx"}, frame, bars, "speaks en, zh"),
        ({}, frame.drop(columns="q05"), bars, "q05"),
        ({}, frame.head(0), bars, "no rows"),
        ({}, frame.assign(ticker="NONE"), bars, "no ticker NONE"),
    ):
        with pytest.raises(ValueError, match=words):
            report(frame_, bars_, pipe=pipe, **options)


@pytest.mark.parametrize("language", WORDS)
def test_plain_series_are_told_in_their_own_words(shop_pipe, sales, language):
    pipe = shop_pipe()
    frame = pipe(sales)
    whole = frame.assign(**{name: frame[name].round() for name in frame if re.fullmatch(r"q\d\d", name)})
    page = report(whole, sales, pipe=pipe, language=language)
    told, words = Elements(page).text, words_of(language, plain=True)
    assert words["many"].format(count=3) in told
    assert words["columns"]["up"] in told
    assert told.count(words["columns"]["zero"]) == 3
    assert not re.search(r"ticker|bar\b|代码|K线|P\(up\)", told)
    assert WORDS[language]["columns"]["move"] not in told
    last = whole[whole["ticker"] == "shop 1"].iloc[-1]
    assert f"{last['q10']:.0f} … {last['q90']:.0f}" in told
    assert f"{last['q50']:.0f}.0" not in told
    assert words["legend"]["realised"] not in told  # rows to come have no value
