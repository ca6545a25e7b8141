"""look.py: nothing of the style comes from elsewhere."""

import re

from tsf_llm.common import figures
from tsf_llm.serving.page import look


def test_styles_and_fonts_are_local():
    styles = look.STYLES.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?:", styles)
    assert look.theme()._stylesheets == []
    assert look.theme()._font_css == []


def test_colours_are_those_of_the_figures():
    assert figures.BLUE in look.BLUES
    styles = look.STYLES.read_text(encoding="utf-8")
    assert figures.BLUE in styles
    assert figures.ORANGE in styles


def test_launch_and_mount_take_the_options():
    import inspect

    import gradio as gr

    for call in (gr.Blocks.launch, gr.mount_gradio_app):
        assert set(look.options()) <= set(inspect.signature(call).parameters)
