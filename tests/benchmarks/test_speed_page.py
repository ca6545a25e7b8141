"""The page is made of results alone."""

import pytest

from tsf_llm.benchmarks import speed_page
from tsf_llm.common.tables import Table

CURVE = {
    "points": [{"size": size, "cpu": 1.0, "wall": 1.0, "counts": 1.0, "peak_mb": 9.0} for size in (1, 4)],
    "slope": 0.0,
}


@pytest.fixture
def results():
    return {
        "contest": {"contestants": {"tsf-llm": {"imports_mb": 432.1}}},
        "growth": {"paths": CURVE},
        "settings": {
            "contest": {"rounds": 3, "product": 1024},
            "whole_way": {"encoded": 50, "bars": 2520, "first": 60},
            "seed": 0,
            "field": {"quick": False},
        },
        "machine": {"cpu_count": 2, "cpu_flags": ["avx2"], "device": "cpu", "threads": 1},
        "versions": {"python": "3.11", "torch": "2.13"},
        "date": "2026-01-02",
        "commit": "abc",
    }


def test_the_page_tells_machine_versions_date_and_seed(results, tmp_path):
    table = Table(("CPU time", "tsf-llm"), [["forward, ms", "1.23"]])
    speed_page.write_page(results, tmp_path / "page.md", table, Table(("time over ours",), []), ["The limit: 9."])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    for told in (
        "on 2026-01-02: 2 cores (avx2), cpu.",
        "python 3.11, torch 2.13; commit abc. Seed 0.",
        "| forward, ms | 1.23 |",
        "* The limit: 9.",
        "432 MB",
        "50 tickers, 2,520 each",
        f"images/{speed_page.PLOT}",
        "| paths of 20 steps | 1 | 1 | 1 | 9 |  |",
    ):
        assert told in page
    assert (tmp_path / "images" / speed_page.PLOT).stat().st_size > 1000
    assert "mean nothing" not in page
    results["settings"]["field"]["quick"] = True
    assert "its times mean nothing" in speed_page.text(results, table, table, [])
