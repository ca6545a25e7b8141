import re

import pandas as pd
import pytest

from tsf_llm.serving.report_words import SERIES, WORDS, day_in_words, words_of


def blanks(words):
    """What each text leaves to be filled."""
    if isinstance(words, dict):
        return {name: blanks(value) for name, value in words.items() if name != "judged"}
    texts = words if isinstance(words, tuple | list) else [words]
    return [sorted(re.findall(r"{(\w+)", one)) for one in texts]


@pytest.mark.parametrize("language", WORDS)
def test_every_language_fills_the_same_blanks(language):
    assert blanks(WORDS[language]) == blanks(WORDS["en"])


def test_days():
    assert day_in_words(pd.Timestamp("2024-03-08"), "en") == "Friday 8 March 2024"
    assert day_in_words(pd.Timestamp("2024-03-08 16:30"), "en") == "Friday 8 March 2024, 16:30"
    assert day_in_words(pd.Timestamp("2024-03-10"), "zh") == "2024年3月10日（星期日）"


@pytest.mark.parametrize("language", WORDS)
def test_plain_series_have_the_same_words_in_each_language(language):
    assert blanks(SERIES[language]) == blanks(SERIES["en"])
    assert {*words_of(language, plain=True)} == {*WORDS[language]}
    assert words_of(language, plain=False) is WORDS[language]
