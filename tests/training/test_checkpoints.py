"""checkpoints.py: what is whole, what is passed over, and that a full disk leaves nothing half-finished."""

import errno
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.common.errors import Terminated, one_line_errors
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.training.checkpoints import (
    EARLIER,
    UNFINISHED,
    checkpoints,
    last_complete_checkpoint,
    missing_parts,
    remove_unfinished,
)

STEPS = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 4, "eval_steps": 4, "max_steps": 12}


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(folder, **STEPS, save_total_limit=9)
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def test_what_transformers_writes_is_complete(trained):
    assert [path.name for path in checkpoints(trained)] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    assert [missing_parts(path) for path in checkpoints(trained)] == [[], [], []]
    assert last_complete_checkpoint(trained) == str(trained / "checkpoint-12")
    assert not (trained / UNFINISHED).exists()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.safetensors", "weights"),
        ("optimizer.pt", "optimizer"),
        ("scheduler.pt", "schedule"),
        ("rng_state.pth", "random state"),
        ("trainer_state.json", "progress"),
    ],
)
def test_a_missing_or_torn_file_is_noticed(copy, name, part):
    path = copy / "checkpoint-12" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert missing_parts(path.parent) == [part]
    path.unlink()
    assert missing_parts(path.parent) == [part]
    assert last_complete_checkpoint(copy) == str(copy / "checkpoint-8")


@pytest.mark.parametrize("lost", ["optimizer.pt", "trainer_state.json"])
def test_a_resumed_run_falls_back_to_the_last_complete_checkpoint(train, trained, copy, lost, caplog):
    (copy / "checkpoint-12" / lost).unlink()
    (copy / "model.safetensors").unlink()
    train(copy, **STEPS, save_total_limit=9, resume_from_checkpoint="true")
    assert same(weights(copy), weights(trained))
    assert missing_parts(copy / "checkpoint-12") == []


def test_an_incomplete_checkpoint_is_refused_by_name(train, copy):
    (copy / "checkpoint-12" / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-12: no whole schedule there; true picks the last complete"):
        train(copy, **STEPS, resume_from_checkpoint=copy / "checkpoint-12")
    with pytest.raises(ValueError, match=r"nowhere: no whole weights"):
        train(copy, **STEPS, resume_from_checkpoint="nowhere")


def test_only_unfinished_things_are_removed(copy):
    (copy / "checkpoint-12" / "trainer_state.json").unlink()
    (copy / "checkpoint-8" / "optimizer.pt").unlink()  # as of save_only_model
    (copy / UNFINISHED).mkdir()
    (copy / "checkpoint-mine").mkdir()
    remove_unfinished(copy)
    left = {path.name for path in copy.iterdir() if path.is_dir()}
    assert left == {"checkpoint-4", "checkpoint-8", "checkpoint-mine"}


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(train, trained, tmp_path, monkeypatch, capsys):
    """The optimizer of the second checkpoint finds no room."""
    save = torch.save
    with monkeypatch.context() as patch:

        def full(content, path, *args, **kwargs):
            if str(path).endswith("checkpoint-8/optimizer.pt"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return save(content, path, *args, **kwargs)

        patch.setattr(torch, "save", full)
        with pytest.raises(SystemExit, match="2"), one_line_errors("sft"):
            train(tmp_path, **STEPS, save_total_limit=9)
    [line] = [one for one in capsys.readouterr().err.splitlines() if one.startswith("sft: error")]
    assert all(words in line for words in ("No space left", "make room", "checkpoint-4", "--resume_from_checkpoint"))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4"]
    assert not (tmp_path / "config.json").exists()
    train(tmp_path, **STEPS, save_total_limit=9, resume_from_checkpoint="true")
    assert same(weights(tmp_path), weights(trained))


def test_files_that_may_not_grow_are_one_line_too(train, tmp_path):
    """Real failures of real writers: safetensors and torch have errors of their own for them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, before[1]))
        with pytest.raises(OSError, match=r"could not write to .*: make room there, then start again"):
            train(tmp_path, **STEPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints(tmp_path) == []
    assert not (tmp_path / "model.safetensors").exists()


def test_a_final_save_that_fails_leaves_no_folder_that_loads(train, tmp_path, monkeypatch):
    save = TsfLlmForCausalLM.save_pretrained

    def full(self, folder, *args, **kwargs):
        save(self, folder, *args, **kwargs)
        if str(folder).endswith(UNFINISHED):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TsfLlmForCausalLM, "save_pretrained", full)
    with pytest.raises(OSError, match="make room"):
        train(tmp_path, **STEPS)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-8", "checkpoint-12", ".tsf_llm.json"}


def test_other_errors_stay_what_they_are(train, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(TsfLlmForCausalLM, "forward", broken)
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"n_bins": 48}, "vocab_size"),
        ({"head": "regression"}, "TsfLlmForCausalLM"),
        ({"train_through": "2015-12-31"}, "fitted_through"),
        ({"tickers": "AAA"}, "trained_on"),
        ({"feature_groups": "returns"}, "num_features"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(train, copy, changed, told):
    with pytest.raises(ValueError, match=rf"is of another training: .*{told}"):
        train(copy, **STEPS, **changed, resume_from_checkpoint="true")


def test_a_fresh_run_moves_the_checkpoints_of_an_earlier_one_out_of_the_way(train, copy, caplog):
    """Else a later resume would go on from those of more steps."""
    before = {path.name for path in checkpoints(copy)}
    train(copy, **{**STEPS, "max_steps": 4}, n_bins=48)
    assert [path.name for path in checkpoints(copy)] == ["checkpoint-4"]
    assert {path.name for path in (copy / EARLIER).iterdir()} == before
    assert "of an earlier run" in caplog.text


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_stopped_run_says_how_to_go_on(train, tmp_path, monkeypatch, capsys, stop, code):
    save = torch.save

    def interrupted(content, path, *args, **kwargs):
        if str(path).endswith("checkpoint-8/optimizer.pt"):
            raise stop
        return save(content, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(SystemExit) as end, one_line_errors("sft"):
        train(tmp_path, **STEPS, save_total_limit=9)
    assert end.value.code == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"sft: stopped: go on from {tmp_path}/checkpoint-4 with --resume_from_checkpoint true"
