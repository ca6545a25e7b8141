"""The example conversation of docs/mcp.md, as the server gives it.

    python -m tsf_llm.serving.assistant_page docs/mcp.md

The client is that of the SDK, the model `mini`, the prices the embedded sample.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import anyio
from mcp import Client

from ..common.errors import one_line_errors
from ..common.pages import write_between
from ..pipeline_tsf_llm import TsfLlmPipeline
from .assistant import build
from .loading import load_pipeline

MARKER = "conversation"
QUESTION = "What may AAPL do next week, and how sure are you?"
CALL: dict[str, Any] = {"data": {"sample": "AAPL"}, "horizon": 5}


def ask(pipe: TsfLlmPipeline) -> dict[str, Any]:
    """What the tool `forecast` answers to `CALL`."""

    async def talk() -> Any:
        async with Client(build(pipe)) as client:
            return (await client.call_tool("forecast", CALL)).structured_content

    return anyio.run(talk)


def conversation(answer: dict[str, Any]) -> str:
    """Question, call, answer without the steps before the last, and what the assistant may say."""
    [one] = answer["forecasts"]
    verdict = answer["verdict"]
    rows = [{key: row.get(key) for key in ("model", "crps", "coverage_80", "dm_p")} for row in verdict["rows"]]
    short = answer | {"forecasts": [one | {"steps": one["steps"][-1:]}], "verdict": verdict | {"rows": rows}}
    shown = json.dumps(short, indent=1, ensure_ascii=False)
    called = json.dumps(CALL)
    said = f"{one['sentence']} {answer['notice']}"
    return "\n".join(
        [
            f"> **You:** {QUESTION}",
            "",
            f"The assistant calls `forecast` with `{called}` and gets, of the steps the last alone:",
            "",
            "```json",
            shown,
            "```",
            "",
            f"> **Assistant:** {said}",
        ]
    )


def main(page: str) -> None:
    write_between(Path(page), conversation(ask(load_pipeline("mini"))), MARKER)
    print(f"the conversation written to {page}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "assistant_page", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("page", help="Markdown file with the markers of the conversation")
    with one_line_errors("assistant_page"):
        main(parser.parse_args().page)
