"""What explains shares: windows of an untrained model."""

import pytest

from tsf_llm.evaluation.explanation.probe import Probe


@pytest.fixture(scope="module")
def probe(pipe, bars):
    return Probe.of(pipe, pipe.processor.encode(bars), start="2016-01-01", end="2016-03-01", most=20)
