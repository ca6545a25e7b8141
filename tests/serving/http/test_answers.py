import numpy as np
import pandas as pd

from tsf_llm.serving.http.answers import as_csv, as_records

FRAME = pd.DataFrame(
    {"ticker": ["=A()"], "timestamp": pd.to_datetime(["2024-01-02"]), "step": [1], "mean": [1 / 3], "p_up": [np.nan]}
)


def test_records_have_none_for_what_is_undefined():
    assert as_records(FRAME) == [
        {"ticker": "=A()", "timestamp": "2024-01-02T00:00:00", "step": 1, "mean": 0.33333333, "p_up": None}
    ]


def test_csv_runs_nothing():
    assert as_csv(FRAME).splitlines()[1] == "'=A(),2024-01-02T00:00:00,1,0.33333333,"
