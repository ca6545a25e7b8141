import re

import pandas as pd
import pytest

from tsf_llm.serving.report_words import WORDS, day_in_words


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
