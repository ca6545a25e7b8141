"""assistant_page.py: the conversation of docs/mcp.md is one that the server gives."""

import json
import re
from pathlib import Path

from tsf_llm.serving import assistant_page
from tsf_llm.serving.assistant_page import CALL, QUESTION, ask, conversation
from tsf_llm.serving.loading import load_pipeline

PAGE = Path(assistant_page.__file__).parents[1] / "docs" / "mcp.md"


def shown(text):
    [block] = re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)
    return json.loads(block)


def keys(value):
    """The shape of an answer: numbers differ by machine in their last digits."""
    if isinstance(value, dict):
        return {name: keys(one) for name, one in value.items()}
    return [keys(one) for one in value] if isinstance(value, list) else type(value).__name__


def test_the_page_has_the_conversation_that_the_server_gives():
    text = conversation(ask(load_pipeline("mini")))
    written = PAGE.read_text(encoding="utf-8").split("<!-- conversation -->")[1].split("<!-- /conversation -->")[0]
    assert keys(shown(written)) == keys(shown(text))
    assert shown(written)["forecasts"][0]["sentence"] in written.split("**Assistant:**")[1]
    assert json.dumps(CALL) in written
    assert QUESTION in written
