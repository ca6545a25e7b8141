import pytest
from pydantic import ValidationError

from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving.http.bodies import MAX_COLUMNS, MAX_TEXT, ForecastRequest
from tsf_llm.serving.http.tables import sent_tables

RECORD = {"timestamp": "2024-01-02", "close": 1.5, "volume": None}


@pytest.mark.parametrize("bars", [[RECORD, RECORD], {name: [cell, cell] for name, cell in RECORD.items()}])
def test_records_and_columns_are_one_table(bars):
    frame = sent_tables(ForecastRequest(bars=bars), TsfLlmProcessor())["bars"]
    assert frame["close"].tolist() == [1.5, 1.5]
    assert frame["timestamp"].tolist() == ["2024-01-02"] * 2


@pytest.mark.parametrize(
    "bars",
    [
        *([], {}, "x", 1, None, [[]], [RECORD, 1], {"close": 1}, {"close": []}, {"close": [1, 2], "open": [1]}),
        *([{"close": float("inf")}], [{"close": True}], [{"close": {}}], [{"close": 10**400}]),
        *([{"close": "x" * (MAX_TEXT + 1)}], [{"x" * (MAX_TEXT + 1): 1}], [{"": 1}]),
        {f"c{i}": [1] for i in range(MAX_COLUMNS + 1)},
    ],
)
def test_bars_that_are_none(bars):
    with pytest.raises(ValidationError):
        ForecastRequest(bars=bars)


@pytest.mark.parametrize(
    "asked",
    [
        *({"horizon": 0}, {"horizon": -1}, {"horizon": 10**9}, {"horizon": 1.5}, {"seed": -1}, {"samples": 1}),
        *({"quantile_levels": []}, {"quantile_levels": [0]}, {"quantile_levels": [float("nan")]}, {"path": "/etc"}),
        *(
            {"calibration": "yes"},
            {"horizon": True},
            {"horizon": "5"},
            {"as_of": "x" * 100},
            {"model": "mini"},
            {"trust_remote_code": True},
        ),
    ],
)
def test_arguments_that_are_none(asked):
    with pytest.raises(ValidationError):
        ForecastRequest(bars=[RECORD], **asked)
