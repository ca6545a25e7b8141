"""pages.py: only what lies between the markers changes."""

import pytest

from tsf_llm.common.pages import fill, write_between


def test_text_goes_between_its_markers(tmp_path):
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nmiddle\n<!-- b -->\n<!-- /b -->\n"
    filled = page.replace("old", "new")
    assert fill(page, "new", "a") == filled
    (tmp_path / "page.md").write_text(page)
    write_between(tmp_path / "page.md", "new", "a")
    assert (tmp_path / "page.md").read_text() == filled


@pytest.mark.parametrize("page", ["", "<!-- a -->", "<!-- /a -->"])
def test_a_page_without_both_markers_is_refused(page):
    with pytest.raises(ValueError, match=r"has no <!-- a --> \.\.\. <!-- /a -->: add both markers"):
        fill(page, "new", "a")
