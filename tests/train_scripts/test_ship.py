"""ship.py: what lies at the root says what was trained, whole or not at all, without code or paths of this machine."""

import json
import runpy
import sys

import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.common.reading import read_json
from tsf_llm.data_prep.sources import read_bars
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts import ship
from tsf_llm.training.models import digest

SMALL = {"model": (1_000, 100_000), "mini": (1_000, 100_000)}
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """Two folders as training leaves them, of random models with laws. Read only."""
    folder = tmp_path_factory.mktemp("ship")
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], context_length=20)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32), horizons=[1, 5]).fit(
        read_bars("sample", ["AAPL", "IBM"]), "2009-12-31"
    )
    sizes = {"num_features": len(extractor.names), "vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33}
    dates = {"trained_through": "2010-12-31", "trained_on": "/home/me/prices.csv: AAPL, IBM"}
    for seed, name in enumerate(("27m", "mini")):
        torch.manual_seed(seed)
        about = {**sizes, **dates, "horizons": [1, 5], "initializer_range": 0.05, "processor_digest": processor.digest}
        TsfLlmForCausalLM(tiny_config(**about)).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        (folder / name / "trials.jsonl").write_text("{}\n")
    return folder


@pytest.fixture
def root(tmp_path):
    """A checkout as far as shipping goes."""
    for name in ("setup.py", "modeling_tsf_llm.py"):
        (tmp_path / name).touch()
    for name in ("README.md", "README.zh.md"):
        (tmp_path / name).write_text("# Title\n\n<!-- shipped -->\n<!-- /shipped -->\n")
    return tmp_path


def put(root, trained, **options):
    given = {"model": str(trained / "27m"), "mini": str(trained / "mini"), "root": str(root), **options}
    ship.ship(ship.ShipArguments(**given), SMALL)


def listed(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_both_lie_where_a_clone_has_them_without_code(root, trained, capsys):
    before = listed(root)
    put(root, trained)
    assert listed(root) == before | FILES | {"trials.jsonl"}
    assert listed(root / "mini") == FILES | {"trials.jsonl"}
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"mini"}  # nothing unfinished
    assert "parameters" in capsys.readouterr().out
    half, whole = load_file(root / "model.safetensors"), load_file(root / "mini" / "model.safetensors")
    assert {one.dtype for one in half.values()} == {torch.bfloat16}
    assert {one.dtype for one in whole.values()} == {torch.float32}
    assert load_pipeline(root).model.dtype == torch.float32  # no CPU must know bfloat16
    assert digest(load_pipeline(root / "mini").model) == digest(load_pipeline(trained / "mini").model)
    assert not any(b"/home" in path.read_bytes() for path in root.rglob("*.json"))
    assert read_json(root / "config.json")["trained_on"] == "prices.csv: AAPL, IBM"
    assert "**Two models lie here**" in (root / "README.md").read_text()


def test_rounding_moves_no_distribution_far(root, trained):
    put(root, trained)
    apart = ship.distance(load_pipeline(trained / "27m"), load_pipeline(root))
    assert len(apart) == 2 * 5 * ship.ORIGINS  # two laws of each origin of five tickers
    assert 0 < apart.mean() < ship.TOLERANCE[0]
    assert apart.quantile(0.99) < ship.TOLERANCE[1]
    assert not ship.distance(load_pipeline(trained / "mini"), load_pipeline(root / "mini")).any()


def test_results_come_along_and_old_ones_go(root, trained):
    rows = [
        {"model": name, "context": "alone", "tickers": "seen", "horizon": 1, "skill": 0.01, "dm_p": 0.5}
        | {"crps": 0.01, "coverage_80": 0.8}
        for name in ("a", "b")
    ]
    named = {"looks": {"a": 1, "b": 2}, "trained_through": dict.fromkeys("ab", "2010-12-31")}
    named |= {"out_of_sample": dict.fromkeys("ab", True)}
    about = {"period": ["2011-01-03", "2012-12-31"], "tickers": ["AAPL"], "unseen": [], "version": "1", "commit": "a"}
    path = root / "skill.json"
    path.write_text(json.dumps({"rows": rows, "joint": [], **named, **about}))
    put(root, trained, results=str(path))
    assert list(read_json(root / "results.json")["looks"].items()) == [("27M", 1), ("mini", 2)]
    assert "27M 1, mini 2" in (root / "README.md").read_text()
    put(root, trained)
    assert not (root / "results.json").exists()
    assert "No scores were measured" in (root / "README.md").read_text()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("size", "parameters: 26,000,000 to 28,000,000 are shipped here"),
        ("dates", "no causal LM that records trained_through"),
        ("rounded", "once stored, its distributions differ by"),
        ("processor", "has other features or bins"),
        ("pages", "the page has no <!-- shipped -->"),
        ("missing", "is no folder"),
    ],
)
def test_nothing_changes_where_something_is_wrong(root, trained, tmp_path_factory, monkeypatch, spoil, told):
    source = tmp_path_factory.mktemp("spoilt")
    for path in (trained / "27m").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    config = read_json(source / "config.json")
    if spoil == "dates":
        (source / "config.json").write_text(json.dumps(config | {"trained_through": None}))
    if spoil == "rounded":
        monkeypatch.setattr(ship, "TOLERANCE", (0.0, 0.0))
    if spoil == "processor":
        (source / "config.json").write_text(json.dumps(config | {"processor_digest": "0" * 16}))
    if spoil == "pages":
        (root / "README.zh.md").write_text("# Title\n")
    before = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}
    sizes = ship.SIZES if spoil == "size" else SMALL
    with pytest.raises(ValueError, match=told):
        ship.ship(ship.ShipArguments(model=str("nowhere" if spoil == "missing" else source), root=str(root)), sizes)
    assert {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()} == before
    assert not [path for path in root.iterdir() if path.is_dir()]


def test_the_second_generation_replaces_the_first(root, trained):
    put(root, trained)
    (root / "model-00001-of-00002.safetensors").touch()
    (root / "mini" / "trials.jsonl").write_text("old\n")
    put(root, trained, model=str(trained / "mini"))
    assert listed(root) >= FILES
    assert "model-00001-of-00002.safetensors" not in listed(root)
    assert (root / "mini" / "trials.jsonl").read_text() == "{}\n"


def test_the_command_says_in_one_line_what_it_will_not_ship(root, trained, monkeypatch, capsys):
    words = ["ship", "--model", str(trained / "27m"), "--root", str(root)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("tsf_llm.train_scripts.ship", run_name="__main__")
    assert capsys.readouterr().err.splitlines()[-1].startswith("ship: error: ")
    with pytest.raises(ValueError, match="is no checkout"):
        ship.ShipArguments(model="a", root=str(trained))
