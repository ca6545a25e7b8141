"""The page says what its rows say: the best is bold, wins and losses follow from losses at the same origins."""

from dataclasses import replace

import numpy as np

from tsf_llm.benchmarks.series_frame import Found, Measure, Row, Section, rounded
from tsf_llm.benchmarks.series_page import block, models, words

SECTION = Section(
    title="Made: up",
    about="About.",
    files={"made.csv": "nowhere; CC0"},
    measures=(
        Measure("mse", "MSE"),
        Measure("hits", "hits", ".2f", more_is_better=True),
        Measure("n", "n", plain=False),
    ),
    run=lambda context: [],
    published={("good", "96 steps"): ".1 (them)"},
)
RNG = np.random.default_rng(0)
BASE = 1 + 0.1 * RNG.random(400)
NOISE = 0.01 * RNG.standard_normal(400)


def row(model, losses, seed=None, hits=0.5, task="96 steps"):
    about = {"commit": "c", "versions": {"torch": "2"}, "machine": {"cpu_count": 2}}
    found = rounded(Found({"hits": hits, "n": 1.0}, {"mse": list(losses)}, 4, 1234, "a note"))
    return Row("made", model, task, seed, 1.5, found, {}, about)


def test_the_best_row_is_bold_and_the_spread_is_that_of_the_seeds():
    good = row("good", BASE - 0.5 + NOISE, hits=0.4)
    text = block(SECTION, [row("tsf-llm", BASE, 0), row("tsf-llm", BASE + 0.2, 1), good])
    assert (
        f"| tsf-llm | {np.mean(BASE) + 0.1:.3f} ± 0.141 | **0.50 ± 0.00** | 1.000 ± 0.000 | - | 2 | 1,234 | - |"
        in text
    )
    assert f"| good | **{np.mean(BASE + NOISE) - 0.5:.3f}** | 0.40 | 1.000 | < 0.001 | 2 | 1,234 | .1 (them) |" in text
    assert text.count("* good: a note") == text.count("* tsf-llm: seed 0: a note") == 1


def test_wins_losses_and_no_edge_are_computed():
    rows = [
        row("tsf-llm", BASE),
        row("good", BASE - 0.5 + NOISE),
        row("bad", BASE + 0.5 + NOISE),
        row("same", BASE + NOISE),
    ]
    told = words(SECTION, rows)
    assert "behind the best by MSE" in told[0]
    assert [line.split(" (")[0] for line in told[1:]] == [
        "96 steps: wins over bad",
        "96 steps: loses to good",
        "96 steps: no edge over same",
    ]


def test_every_measure_that_is_tested_is_told_of():
    section = replace(SECTION, measures=(SECTION.measures[0], replace(SECTION.measures[1], tested=True)))
    rows = [row("tsf-llm", BASE), row("good", BASE - 0.5 + NOISE)]
    for one, hits in zip(rows, (BASE + 1, BASE), strict=True):
        one.found.losses["hits"] = list(hits + NOISE)
    told = [line.split(" (")[0] for line in words(section, rows)]
    assert told[1] == "96 steps: loses to good"
    assert told[3] == "96 steps: wins over good"
    assert "| MSE | hits | p | p, hits | CPU s |" in block(section, rows)


def test_within_two_percent_of_the_best_is_said():
    assert "within 2% of the best" in words(SECTION, [row("tsf-llm", 1.015 * BASE), row("good", BASE)])[0]
    assert "the best row" in words(SECTION, [row("tsf-llm", 0.99 * BASE), row("good", BASE)])[0]


def test_other_origins_are_not_compared():
    told = words(SECTION, [row("tsf-llm", BASE), row("sparse", BASE[::24])])
    assert len(told) == 1


def test_models_keep_their_order_and_their_task():
    rows = [row("b", BASE, task="1 step"), row("a", BASE, task="2 steps"), row("b", BASE, 1, task="1 step")]
    found = models(rows)
    assert {task: [(one.name, len(one.rows)) for one in of] for task, of in found.items()} == {
        "1 step": [("b", 2)],
        "2 steps": [("a", 1)],
    }


def test_an_unknown_score_is_a_dash():
    rows = [row("tsf-llm", BASE, hits=None), row("good", BASE, hits=0.4)]
    assert f"| tsf-llm | {np.mean(BASE):.3f} | - |" in block(SECTION, rows).replace("**", "")
