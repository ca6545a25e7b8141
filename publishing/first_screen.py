"""The first screen of the README: the picture that its own lines draw, and the table of inputs of the shipped models.

    python -m tsf_llm.publishing.first_screen .

The first Python block of README.md is run as it stands, in a folder that looks like a clone; what it draws becomes
`docs/images/fan.png`. The table stands between <!-- inputs --> and <!-- /inputs --> of both READMEs.
"""

import argparse
import contextlib
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import Environment, StrictUndefined

from ..common.errors import one_line_errors
from ..common.files import replace_file
from ..common.pages import write_between
from ..indicators_tsf_llm import FEATURES
from ..processing_tsf_llm import TsfLlmProcessor

MARKER = "inputs"
PAGES = {"README.md": "inputs.md", "README.zh.md": "inputs.zh.md"}  # and their words
DRAWN = "fan.png"  # by the lines
PICTURE = Path("docs/images") / DRAWN
OF_A_CLONE = (".py", ".json", ".safetensors")
NOT_OF_PRICES = ("volume", "calendar", "market", "implied")  # groups of features


def lines(root: Path) -> str:
    """The first Python block of README.md.

    Raises:
        ValueError: there is none.
    """
    found = re.search(r"^```python\n(.*?)^```$", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.M)
    if found is None:
        raise ValueError(f"{root / 'README.md'} has no block of Python: put the lines that draw the picture there")
    return found[1]


def picture(root: Path) -> bytes:
    """What the lines draw, as PNG; nothing is written into the checkout.

    Raises:
        ValueError: the lines draw nothing.
    """
    with TemporaryDirectory() as folder:
        for path in root.resolve().iterdir():
            if path.suffix in OF_A_CLONE:
                (Path(folder) / path.name).symlink_to(path)
        with contextlib.chdir(folder):
            exec(lines(root), {})
        drawn = Path(folder) / DRAWN
        if not drawn.is_file():
            raise ValueError(f"the lines of {root / 'README.md'} draw no {DRAWN}: end them with fan_chart")
        return drawn.read_bytes()


def inputs(root: Path, template: str) -> str:
    """The table, as Markdown, from the processor at the root."""
    extractor = TsfLlmProcessor.from_pretrained(root).feature_extractor
    groups = Counter(FEATURES[name].group for name in extractor.names)
    told = {"groups": groups, "total": groups.total(), "context": extractor.context_length}
    told |= {"prices": groups.total() - sum(groups[name] for name in NOT_OF_PRICES)}
    words = Path(__file__).with_name(template).read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(words).render(**told, covariates=extractor.covariates).strip()


def main(root: Path) -> None:
    drawn = picture(root)
    replace_file(root / PICTURE, lambda unfinished: unfinished.write_bytes(drawn))
    for page, template in PAGES.items():
        write_between(root / page, inputs(root, template), MARKER)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "first_screen", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the checkout")
    with one_line_errors("first_screen"):
        main(parser.parse_args().root)
