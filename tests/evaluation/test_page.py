"""page.py: one file that loads nothing, says what the report says, and takes names for text, not for markup."""

import re
from html.parser import HTMLParser

import pytest

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.page import page, write_page
from tsf_llm.evaluation.report import Report

HOSTILE = '<script>alert("$x$")</script>'
VOID = {"meta", "img"}


class Read(HTMLParser):
    """What a page consists of; fails where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def three(synthetic):
    """A page of three horizons."""
    return page(Report.of(synthetic.results()), walks={horizon: synthetic.walk() for horizon in (1, 5, 20)})


def test_the_page_loads_nothing(three):
    read = Read(three)
    assert read.links
    assert all(link.startswith("data:image/png;base64,") for link in read.links)
    assert not {"script", "link", "iframe", "object", "a", "form"} & set(read.tags)
    assert "url(" not in three
    assert "default-src 'none'; img-src data:" in three


def test_every_horizon_has_its_verdict_table_and_plots(three, synthetic):
    text = Read(three).text
    for words in ("The model, 1 bar ahead", "The model, 5 bars ahead", "The model, 20 bars ahead"):
        assert text.count(words) == 1
    assert text.count(synthetic.results()["verdict"]) == 3
    assert text.count("CRPS beside har_range over time") == 3
    assert text.count("With and without the crash of 2020") == 3
    assert "107 dates, 20 bar(s) apart" in text
    assert "The best may be any of: model, har_range" in text
    assert "IPO : IPO: 10 observed bars, 20 are needed" in text
    assert "gjr_garch_t failed: no convergence for 3 of 62 tickers" in text
    assert "refitted yearly (garch_t, har_range)" in text
    assert "None" not in text
    assert "nan" not in text.split()


def test_means_over_steps_stand_where_there_are_several(synthetic):
    content = synthetic.results()
    for row in content["rows"]:
        row |= {"crps_mean": 0.0123, "mase_mean": 0.987}
    text = Read(page(Report.of(content))).text
    assert text.count("CRPS, mean of steps, % MASE, mean of steps") == 2  # not one bar ahead
    assert text.count("1.230 0.987") == 2 * len({row["model"] for row in content["rows"]})
    assert "each counted once" in text


def test_only_what_stands_on_the_page_is_explained(three):
    text = Read(three).text
    assert "Hansen, Lunde, Nason" in text
    assert "foretold the squared outcome" in text
    assert "as in the M6 competition" not in text  # no row has it


def test_what_is_undefined_is_a_dash(synthetic):
    content = synthetic.results((5,))
    read = page(Report.of(content))
    drift = re.search(r'<th scope="row">drift</th>.*?</tr>', read, re.DOTALL).group()
    assert "<td>-</td>" not in drift
    walk = re.search(r'<th scope="row">random_walk</th>.*?</tr>', read, re.DOTALL).group()
    assert "<td>-</td>" in walk  # no direction is called


def test_names_and_reasons_are_text(synthetic):
    content = synthetic.results((5,))
    content |= {"tickers": [HOSTILE, "B\x1b[31m"], "skipped": {HOSTILE: HOSTILE}, "failed": {"arch": HOSTILE}}
    content["groups"]["ticker"] = {HOSTILE: {"model": 1, "har_range": 2}, "a$b_$^": {"model": 2, "har_range": 1}}
    made = page(Report.of(content))
    read = Read(made)
    assert "script" not in read.tags
    assert read.text.count(HOSTILE) == 4
    assert "\x1b" not in made


@pytest.mark.parametrize(
    "groups", [{}, {"year": {}}, {"year": {"2019": {"model": 1.0, "har_range": 2.0}}}, {"ticker": {"A": {}, "B": {}}}]
)
def test_groups_that_say_nothing_are_left_out(synthetic, groups):
    text = Read(page(Report.of(synthetic.results((5,)) | {"groups": groups}))).text
    assert "By year" not in text
    assert "By ticker" not in text


def test_the_crash_is_named_only_where_the_window_holds_it(synthetic):
    content = synthetic.results((5,))
    assert "the crash of 2020" in Read(page(Report.of(content))).text
    assert "the crash of 2020" not in Read(page(Report.of(content | {"end": "2020-01-31"}))).text


@pytest.mark.parametrize(("out_of_sample", "words"), [(False, "Not out of sample"), (None, "is unknown")])
def test_scores_that_are_not_out_of_sample_say_so(synthetic, out_of_sample, words):
    content = synthetic.results((1,)) | {"out_of_sample": out_of_sample}
    assert words in Read(page(Report.of(content))).text


def test_a_page_of_a_file_without_baselines_verdicts_or_walks(tmp_path):
    row = {"model": "model", "n": 3, "crps": 0.02, "crps_ci95": None, "horizon": 5}
    facts = {"horizon": 5, "start": "2011-01-03", "end": "2012-01-02", "out_of_sample": True, "made_by": "evaluate"}
    path = write_page(Report.of({"rows": [row], "verdicts": {}, **facts}), tmp_path / "report.html", kind=UNIVARIATE)
    text = Read(path.read_text(encoding="utf-8")).text
    assert "no baseline to compare with" in text
    assert "over time" not in text


def test_the_same_report_makes_the_same_page(three, synthetic):
    again = page(Report.of(synthetic.results()), walks={horizon: synthetic.walk() for horizon in (1, 5, 20)})
    assert again == three
