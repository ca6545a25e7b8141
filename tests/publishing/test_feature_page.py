from pathlib import Path

import pytest

from tsf_llm.indicators_tsf_llm import FEATURES
from tsf_llm.publishing import feature_page

PAGE = Path(feature_page.__file__).parents[1] / "docs" / "features.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == feature_page.page(), (
        f"run: {feature_page.__doc__.splitlines()[2].strip()}"
    )


def test_every_feature_has_its_row(tmp_path, capsys):
    feature_page.main(str(tmp_path / "new" / "features.md"))
    lines = (tmp_path / "new" / "features.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("| `")]
    assert len(table) == len(FEATURES)
    assert "| `log_return_1` | returns | yes | 1 | log(close / close[-1]) |" in table
    assert "| `market_beta_63` | market |  | 63 | cov(own, market) / var(market), 63 returns |" in table
    assert f"{len(FEATURES)} features" in capsys.readouterr().out


def test_a_bar_in_a_formula_stays_in_its_cell():
    row = feature_page.row_of(FEATURES["market_abs_return"])
    assert row[-1].count("|") == row[-1].count("\\|") == 2


@pytest.mark.parametrize("group", ["reversal", "regime"])
def test_groups_to_choose_are_not_marked_as_default(group):
    rows = [feature_page.row_of(row) for row in FEATURES.values() if row.group == group]
    assert rows
    assert all(default == "" for _, _, default, _, _ in rows)
