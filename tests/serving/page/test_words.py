"""words.py: every text is there twice, with the same blanks to fill in."""

import re
from pathlib import Path

import pytest

from tsf_llm.serving.page import words

FOLDER = Path(words.__file__).parent


@pytest.mark.parametrize("key", list(words.WORDS))
def test_both_languages_fill_in_the_same(key):
    english, chinese = words.WORDS[key]
    assert english
    assert chinese
    assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", chinese))
    assert not re.search(r"[\u4e00-\u9fff]", english)
    if key not in ("garch_t", "var", "es"):
        assert re.search(r"[\u4e00-\u9fff]", chinese), "not translated"


def test_what_the_page_says_is_there():
    code = "\n".join(path.read_text(encoding="utf-8") for path in [*FOLDER.glob("*.py"), *FOLDER.glob("*.html")])
    asked = set(re.findall(r"""say\((?:language, )?"(\w+)["),]""", code))
    asked |= set(re.findall(r'Refusal\(\s*"(\w+)"', code))
    assert asked
    assert asked - set(words.LANGUAGES) <= set(words.WORDS)


def test_no_text_is_left_over():
    code = "\n".join(path.read_text(encoding="utf-8") for path in [*FOLDER.glob("*.py"), *FOLDER.glob("*.html")])
    code = code.replace((FOLDER / "words.py").read_text(encoding="utf-8"), "")
    made = ("group_", "source_", "dates_", "verdict_", "series_")
    unused = [key for key in words.WORDS if f'"{key}"' not in code and not key.startswith(made)]
    assert [key for key in unused if key not in ("random_walk", "garch_t", "har_range", "seasonal_naive")] == []


def test_what_is_said_of_plain_series_stands_for_a_text_of_prices():
    own = {key: text for key, text in words.WORDS.items() if key.startswith("series_")}
    assert own
    for key, text in own.items():
        assert text != words.WORDS[key.removeprefix("series_")]
    assert words.say("en", "ticker", plain=True) == own["series_ticker"][0] != words.say("en", "ticker")
    assert words.say("en", "go", plain=True) == words.say("en", "go")


def test_an_unknown_language_is_english():
    assert words.say("fr", "go") == "Forecast"
    assert words.language_of("fr,zh;q=0.5") == "zh"
    assert words.language_of("") == "en"
