"""The page of all features, written from the table itself.

    python -m tsf_llm.publishing.feature_page docs/features.md

It is written again after a change of `indicators_tsf_llm.py`, or of its words in `features.md` beside this file; a
test compares the two.
"""

import argparse
from pathlib import Path

from jinja2 import Template

from ..common.errors import one_line_errors
from ..common.files import write_text
from ..common.tables import Table
from ..indicators_tsf_llm import FEATURES, SELECTABLE_GROUPS, Feature


def row_of(feature: Feature) -> tuple[str, ...]:
    default = "" if feature.group in SELECTABLE_GROUPS else "yes"
    return f"`{feature.name}`", feature.group, default, str(feature.lookback), feature.formula.replace("|", "\\|")


def page() -> str:
    """The whole page, as Markdown."""
    rows = [row_of(feature) for feature in FEATURES.values()]
    selectable = sum(feature.group in SELECTABLE_GROUPS for feature in FEATURES.values())
    table = Table(("feature", "group", "default", "window", "formula"), rows).markdown()
    words = Template(Path(__file__).with_name("features.md").read_text(encoding="utf-8"), keep_trailing_newline=True)
    return words.render(default=len(rows) - selectable, selectable=selectable, table=table)


def main(target: str) -> None:
    write_text(page(), Path(target))
    print(f"{len(FEATURES)} features written to {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "feature_page", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("page", help="Markdown file to write")
    with one_line_errors("feature_page"):
        main(parser.parse_args().page)
