"""push.py: the dry run, the command from its words to its exit code, and folders that it refuses."""

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from tsf_llm.train_scripts import push

spec = importlib.util.spec_from_file_location("stand_in_hub", Path(__file__).parents[1] / "stand_in_hub.py")
stand_in_hub = sys.modules["stand_in_hub"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in_hub)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with stand_in_hub.StandInHub() as server:
        stand_in_hub.connect(monkeypatch, server, tmp_path / "home")
        yield server


@pytest.fixture
def folder(base_folder, tmp_path):
    """A model to spoil."""
    target = tmp_path / "model"
    target.mkdir()
    for path in base_folder.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    return target


def publish(model=None, repo_id="org/model", **options):
    """`push` as a function of its options."""
    return push.main(push.PushArguments(repo_id=repo_id, model=model and str(model), **options))


def test_dry_run_needs_neither_network_nor_token(folder, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert publish(folder, dry_run=True) is None
    told = capsys.readouterr().out
    assert "model.safetensors" in told
    assert "Nothing was uploaded" in told
    card = (folder / "card.md").read_text()
    assert stand_in_hub.card_errors(card, "model") == []
    assert 'model="org/model"' in card


def test_a_dry_run_leaves_only_its_card_which_is_never_uploaded(hub, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    publish(folder, dry_run=True)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(after) - set(before) == {"card.md"}
    assert {name: after[name] for name in before} == before
    publish(folder, dry_run=True)
    (folder / "card.md").write_text("mine")
    with pytest.raises(ValueError, match=r"card\.md is no card that a dry run wrote"):
        publish(folder, dry_run=True)
    publish(folder)
    assert "card.md" not in hub.repo("org/model").files


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_command_itself(hub, folder, capsys, monkeypatch):
    """From its words to its exit code."""
    words = ["--model", str(folder), "--repo_id", "org/model", "--public", "--tag", "v1", "--message", "first"]
    monkeypatch.setattr(sys, "argv", ["push", *words])
    runpy.run_module("tsf_llm.train_scripts.push", run_name="__main__")
    repo = hub.repo("org/model")
    assert (repo.private, [*repo.tags], repo.at("v1").title) == (False, ["v1"], "first")
    (folder / ".env").write_text("")
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("tsf_llm.train_scripts.push", run_name="__main__")
    assert capsys.readouterr().err.splitlines()[-1].startswith("push: error: refused, nothing was uploaded: .env")


def test_folders_that_make_no_sense(tmp_path, folder):
    with pytest.raises(ValueError, match="is no folder"):
        publish(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no model"):
        publish(tmp_path)
    with pytest.raises(ValueError, match="is no dataset, or an unfinished one"):
        publish(dataset=str(folder), repo_id="org/bars")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="'bert' model"):
        publish(tmp_path)
