"""Which column is which, in files as in frames."""

import doctest

import tsf_llm.columns_tsf_llm as module


def test_the_docstrings():
    assert doctest.testmod(module).failed == 0
