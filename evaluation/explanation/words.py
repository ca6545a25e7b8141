r"""Which words of a text decide its sentiment: a page that marks them.

    python -m tsf_llm.evaluation.explanation.words --classifier outputs/sentiment --texts labelled.csv --out words.html

`--classifier` is a text classifier with labels positive and negative, as `train_scripts/sentiment.py` saves one;
`--texts` is CSV or parquet with a column text, and perhaps one called label.

Design choices:
* Occlusion: a word's effect is the score of the text less the score with the word hidden, behind the tokenizer's mask
  where it has one, or else left out. It is exact for what it says, needs no gradient, and is the same for any model.
* Words are what blanks divide. Effects are not shared out: they need not sum to the score.
* A text is data. It stands on the page as text, whatever it contains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from ...cells_tsf_llm import stripped
from ...columns_tsf_llm import find_columns, listed
from ...common.errors import one_line_errors
from ...common.files import check_output, write_text
from ...common.pages import html
from ...common.parser import Parser, option
from ...data_prep.tables import open_table
from ...data_prep.text import NAMES, score_sentiment

TEMPLATE = Path(__file__).with_name("words.html")
UP, DOWN = "31,119,180", "255,127,14"  # blue and orange
FULL = 0.2  # an effect that has the full color where no other of the text is larger
FAINTEST = 0.04  # share of the largest effect below which a word is not marked
MOST_WORDS = 100  # of a text; the classifier cuts long ones anyway


@dataclass
class WordsArguments:
    """Which classifier, which texts."""

    classifier: str = option(help="folder or name of a text classifier")
    texts: str = option(help="CSV or parquet with a column text, and perhaps label")
    out: str = option(help="page to write, .html")
    most: int = option(20, "texts on the page, the first ones")


@dataclass(frozen=True)
class Explained:
    """A text's score in [-1, 1], its words, and what each of them adds to the score."""

    score: float
    words: list[str]
    effects: np.ndarray


def word_effects(texts: Sequence[str], classifier: str | Path) -> list[Explained]:
    """Of each text, by hiding each of its first `MOST_WORDS` words.

    Raises:
        ValueError: the classifier has no labels positive and negative.
    """
    mask = AutoTokenizer.from_pretrained(str(classifier)).mask_token
    words = [text.split()[:MOST_WORDS] for text in texts]
    hidden = [
        " ".join([*one[:place], *([mask] if mask else []), *one[place + 1 :]])
        for one in words
        for place in range(len(one))
    ]
    scores = score_sentiment([*map(" ".join, words), *hidden], classifier)
    whole, others = scores[: len(texts)], np.split(scores[len(texts) :], np.cumsum([len(one) for one in words])[:-1])
    return [Explained(float(score), one, score - each) for score, one, each in zip(whole, words, others, strict=True)]


def page(explained: Sequence[Explained], classifier: str, labels: Sequence[str] | None = None) -> str:
    """HTML of the texts with their words marked; the fullest color is a text's largest effect, or `FULL` if less."""
    told = labels or [""] * len(explained)
    return html(
        TEMPLATE,
        classifier=classifier,
        texts=[
            {"score": f"{one.score:+.2f}", "label": label, "words": _marked(one)}
            for one, label in zip(explained, told, strict=True)
        ],
    )


def _marked(one: Explained) -> list[dict[str, Any]]:
    largest = np.abs(one.effects).max(initial=FULL)
    share = np.abs(one.effects) / largest
    return [
        {
            "text": word,
            "color": UP if effect > 0 else DOWN,
            "effect": f"{effect:+.3f}",
            "strength": f"{0.75 * part:.2f}" if part >= FAINTEST else "",
        }
        for word, effect, part in zip(one.words, one.effects, share, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> list[Explained]:
    with one_line_errors("words"):
        [args] = Parser((WordsArguments,), prog="words", description=__doc__).parse_args_and_config(arguments)
        check_output(Path(args.out), ".html")
        if args.most < 1:
            raise ValueError(f"--most {args.most}: give 1 or more")
        path = Path(args.texts)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; name a CSV or parquet file with a column text.")
        raw = open_table(path)
        found = find_columns(raw, {"text": NAMES["text"], "label": ("label",)})
        if "text" not in found:
            raise ValueError(f"{path} has no column text; found: {listed(raw)}. Rename its columns.")
        raw = raw.head(args.most)
        labels = stripped(raw[found["label"]]).tolist() if "label" in found else None
        explained = word_effects(stripped(raw[found["text"]]).fillna("").tolist(), args.classifier)
        write_text(page(explained, Path(args.classifier).name, labels), args.out)
    return explained


if __name__ == "__main__":
    main()
