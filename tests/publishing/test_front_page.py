"""front_page.py: what the README's head says is what the files say; the Hub ranks scores of unseen dates alone."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from tsf_llm.publishing import front_page
from tsf_llm.publishing.checkout import check_front_matter

ROOT = Path(front_page.__file__).parents[1]
THROUGH = "2018-12-31"


def results(models=("runs/a", "runs/b"), *, skill=(0.018, 0.017), unseen=True):
    """As `skill` writes them, of two models in two contexts."""
    rows = [{"model": "garch_t", "context": None, "tickers": "unseen", "horizon": h} for h in (1, 5)]
    rows += [
        {"model": model, "context": context, "tickers": tickers, "horizon": h}
        for model in models
        for context in ("universe", "alone")
        for tickers in ("seen", "unseen")
        for h in (1, 5)
    ]
    saved = dict(zip(models, skill, strict=False))
    rows = [row | {"skill": saved.get(row["model"]), "dm_p": 0.01, "crps": 0.011, "coverage_80": 0.8} for row in rows]
    about = {"looks": dict.fromkeys(models, 3), "trained_through": dict.fromkeys(models, THROUGH)}
    about |= {"out_of_sample": dict.fromkeys(models, unseen), "period": ["2019-01-02", "2021-04-20"]}
    about |= {"tickers": ["AAPL", "GILD", "HON"], "unseen": ["GILD", "HON"], "version": "0.1.0", "commit": None}
    return {"rows": rows, "joint": [{"model": models[0], "context": "alone", "horizon": 1}], **about}


@pytest.fixture
def root(tiny_model, tmp_path):
    """A checkout as far as its front pages go: two pages, two models."""
    for folder in (tmp_path, tmp_path / "mini"):
        model = tiny_model()
        model.config.trained_through, model.config.trained_on = THROUGH, "some stocks"
        model.save_pretrained(folder)
    for name in front_page.PAGES:
        (tmp_path / name).write_text("# Title\n\n<!-- shipped -->\n<!-- /shipped -->\n\nBody\n")
    return tmp_path


def written(root, found=None):
    if found is not None:
        (root / "results.json").write_text(json.dumps(found))
    front_page.write_front_pages(root)
    return (root / "README.md").read_text(encoding="utf-8"), (root / "README.zh.md").read_text(encoding="utf-8")


def test_without_results_it_says_so(root):
    page, twin = written(root)
    assert "No scores were measured" in page
    assert "model-index" not in page
    assert page.endswith("<!-- /shipped -->\n\nBody\n")
    assert twin.startswith("# Title")
    assert ModelCard(page, ignore_metadata_errors=False).data.pipeline_tag == "time-series-forecasting"
    assert written(root) == (page, twin)  # again is the same
    (root / "mini" / "config.json").unlink()
    (root / "mini" / "model.safetensors").unlink()
    for path in (root / "mini").iterdir():
        path.unlink()
    (root / "mini").rmdir()
    assert "mini" not in written(root)[0]


def test_the_first_lines_weigh_mini_and_count_looks(root):
    page, twin = written(root, results())
    head = page.partition("<!-- shipped -->")[2]
    assert "**Mini is as good as the 27M**" in head
    assert "is -0.10 points at h = 1, -0.10 points at h = 5." in head
    assert f"Trained through {THROUGH} on some stocks" in head
    assert "Never trained on: GILD, HON" in head
    assert "27M 3, mini 3" in head
    assert "| 27M | universe | unseen | 1.80 (0.010) | 1.80 (0.010) | 0.800, 0.800 |" in head
    assert "| 27M | universe | unseen | 1.80 (0.010) | 1.80 (0.010) | 0.800, 0.800 |" in twin
    assert "not known to be out of sample" not in head
    page, twin = written(root, results(skill=(0.018, 0.012)))
    assert "**The 27M is better than mini**" in page
    assert "27M 优于 mini" in twin


def test_the_hub_gets_a_result_for_each_horizon_and_accepts_it(root, stand_in):
    page, _ = written(root, results())
    card = ModelCard(page, ignore_metadata_errors=False)
    found = {(one.dataset_config, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found["1 ahead", "skill"] == 0.018
    assert len(found) == 6
    assert stand_in.card_errors(page, "model") == []
    check_front_matter(root / "README.md")
    data = yaml.safe_load(page.split("---\n")[1])
    assert {"library_name", "pipeline_tag", "license", "datasets", "metrics", "model-index"} <= data.keys()


def test_seen_dates_are_not_ranked(root):
    page, _ = written(root, results(unseen=None))
    assert "model-index" not in page
    assert "**27M is not known to be out of sample on these dates.**" in page


def test_results_of_other_weights_are_refused(root):
    found = results()
    found["trained_through"]["runs/b"] = "2020-01-01"
    with pytest.raises(ValueError, match=f"runs/b was trained through 2020-01-01, mini through {THROUGH}"):
        written(root, found)
    with pytest.raises(ValueError, match="is about runs/a: run it with --models for 27M and mini, in this order"):
        written(root, results(("runs/a",)))
    with pytest.raises(ValueError, match="another shape"):
        written(root, {"rows": []})
    assert "---" not in (root / "README.md").read_text()  # nothing was written


def test_the_command(root, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["front_page", str(root)])
    runpy.run_module("tsf_llm.publishing.front_page", run_name="__main__")
    assert "Two models lie here" in (root / "README.md").read_text()


def test_the_pages_here_are_cards_and_twins():
    check_front_matter(ROOT / "README.md")
    figures = []
    for name in front_page.PAGES:
        text = (ROOT / name).read_text(encoding="utf-8").partition("<!-- shipped -->")[2]
        figures.append([line for line in text.partition("<!-- /shipped -->")[0].splitlines() if line.startswith("|")])
    assert figures[0] == figures[1]
