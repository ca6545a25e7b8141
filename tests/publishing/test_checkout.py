"""checkout.py: a clone with weights is a model folder, here and on the Hub; `push` uploads what git tracks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.publishing import checkout
from tsf_llm.publishing.upload import PushArguments
from tsf_llm.serving import cli
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.train_scripts import push, ship
from tsf_llm.training import models

ROOT = Path(checkout.__file__).parents[1]
LEFT = ("*.safetensors", ".*", "__pycache__", "quickstart", "outputs", "fixtures", "build", "dist", "*.egg-info")

STRANGER = """
import json, pathlib, sys
root, again, bars, target = sys.argv[1:]

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsf_llm":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import numpy as np, pandas as pd, torch
import transformers as t

bars = pd.read_csv(bars, parse_dates=["timestamp"])
arrays = {}
for key, name, place in (("model", root, {}), ("mini", again, {"subfolder": "mini"})):
    load = lambda auto: getattr(t, auto).from_pretrained(name, trust_remote_code=True, **place)
    model, processor = load("AutoModelForCausalLM"), load("AutoProcessor")
    parts = [load(auto) for auto in ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoFeatureExtractor")]
    pipe = t.pipeline("time-series-forecasting", model=name, trust_remote_code=True, model_kwargs=place)
    for part in (model, processor, pipe, *parts):
        assert type(part).__module__.startswith("transformers_modules."), type(part)
    with torch.no_grad():
        arrays[f"{key} logits"] = model(**processor(bars)).logits
    arrays[f"{key} forecast"] = pipe(bars, horizon=3).drop(columns=["ticker", "origin", "timestamp"])
np.savez(target, **{name: np.asarray(array, dtype=float) for name, array in arrays.items()})
assert "tsf_llm" not in sys.modules
"""


def git(folder, *words):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def clone(train, tmp_path_factory):
    """This tree with two small models shipped into it and committed. Read only."""
    place = tmp_path_factory.mktemp("clone")
    for seed, name in enumerate(("27m", "mini")):
        train(place / name, num_train_epochs=1, seed=seed)
    root = place / "TSF-LLM"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT))
    for name in (".gitignore", ".gitattributes"):
        shutil.copyfile(ROOT / name, root / name)
    sizes = {"model": (1_000, 1_000_000), "mini": (1_000, 1_000_000)}
    ship.ship(ship.ShipArguments(model=str(place / "27m"), mini=str(place / "mini"), root=str(root)), sizes)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    return root


@pytest.fixture(scope="module")
def one_ticker(prices, tmp_path_factory):
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    path = tmp_path_factory.mktemp("bars") / "bars.csv"
    bars[bars["ticker"] == "AAA"].to_csv(path, index=False)
    return path


def ask_a_stranger(names, bars, place, cwd, **variables):
    """Outputs of `STRANGER`: a new process with an empty cache, to which this package does not exist.

    `names` are those by which it opens the root, and `mini` in it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HOME": str(place / "home"), "HOME": str(place / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads()), **variables}
    target = place / "arrays.npz"
    command = [sys.executable, "-I", "-c", STRANGER, *names, str(bars), str(target)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(target, allow_pickle=False) as arrays:
        return dict(arrays)


def assert_as_here(arrays, clone, bars):
    """The numbers are those of this package, to the bit."""
    bars = pd.read_csv(bars, parse_dates=["timestamp"])
    for key, folder in (("model", clone), ("mini", clone / "mini")):
        pipe = load_pipeline(folder)
        with torch.no_grad():
            np.testing.assert_array_equal(arrays[f"{key} logits"], pipe.model(**pipe.processor(bars)).logits)
        forecast = pipe(bars, horizon=3).drop(columns=["ticker", "origin", "timestamp"])
        np.testing.assert_array_equal(arrays[f"{key} forecast"], forecast.astype(float))
    assert not np.array_equal(arrays["model logits"], arrays["mini logits"])


def test_a_clone_opens_offline_without_this_package(clone, one_ticker, tmp_path):
    arrays = ask_a_stranger((".", str(clone)), one_ticker, tmp_path, clone, HF_HUB_OFFLINE="1")
    assert_as_here(arrays, clone, one_ticker)


def test_the_hub_gets_the_repository_and_gives_it_to_a_stranger(clone, one_ticker, stand_in, monkeypatch, tmp_path):
    (clone / "notes.txt").write_text("mine")  # untracked, as all of these
    (clone / ".env").write_text("KEY=1")
    with stand_in.StandInHub() as hub:
        stand_in.connect(monkeypatch, hub, tmp_path / "home")
        push.main(PushArguments(repo_id="org/name", model=str(clone)))
        files = hub.repo("org/name").files
        assert len(hub.requests("POST .*/commit/")) == 1
        variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": stand_in.READ_TOKEN, "HF_HUB_DISABLE_XET": "1"}
        arrays = ask_a_stranger(["org/name"] * 2, one_ticker, tmp_path, tmp_path, HF_HUB_OFFLINE="0", **variables)
        lfs = {path for path, blob in hub.repo("org/name").at("main").files.items() if blob.is_lfs}
    assert_as_here(arrays, clone, one_ticker)
    listed = subprocess.run(["git", "-C", str(clone), "ls-files"], capture_output=True, text=True, check=True).stdout
    assert files.keys() == set(listed.splitlines())
    assert {"notes.txt", ".env"}.isdisjoint(files)
    assert {"model.safetensors", "mini/model.safetensors"} <= lfs
    assert files["README.md"] == (clone / "README.md").read_bytes()
    assert files[".gitattributes"] == checkout.LFS != (clone / ".gitattributes").read_bytes()


def test_a_dry_run_writes_nothing(clone, capsys):
    before = {path.name for path in clone.iterdir()}
    assert push.main(PushArguments(repo_id="org/name", model=str(clone), dry_run=True)) is None
    assert {path.name for path in clone.iterdir()} == before
    assert f"The card is {clone / 'README.md'}" in capsys.readouterr().out


def test_weights_are_plain_files_in_git(clone):
    """A clone needs no git-lfs, and one that has it finds nothing to do."""
    files = ["model.safetensors", "mini/model.safetensors"]
    command = ["git", "-C", str(clone), "check-attr", "filter", "text", "--", *files]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.rpartition(": ")[2] for line in found] == ["unspecified", "unset"] * 2
    blob = subprocess.run(["git", "-C", str(clone), "show", "HEAD:model.safetensors"], capture_output=True, check=True)
    assert blob.stdout == (clone / "model.safetensors").read_bytes()


def test_the_commands_find_it_here_and_by_its_names(clone, one_ticker, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "SHIPPED", {"shipped": clone, "mini": clone / "mini"})
    asked = ["tsf-llm", "forecast", "--data", str(one_ticker), "--horizon", "2"]
    for number, (place, model) in enumerate(
        (
            (clone, ["--model", "."]),
            (tmp_path, ["--model", "shipped"]),
            (tmp_path, []),
            (tmp_path, ["--model", "mini"]),
        )
    ):
        monkeypatch.chdir(place)
        out = tmp_path / f"{number}.csv" if number else Path("outputs/forecast.csv")
        monkeypatch.setattr(sys, "argv", [*asked, *model, "--out", str(out)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    first, shipped, default, mini = (
        path.read_text() for path in (clone / "outputs" / "forecast.csv", *(tmp_path / f"{n}.csv" for n in (1, 2, 3)))
    )
    assert first == shipped == default != mini


@pytest.fixture
def copy(clone, tmp_path):
    """To spoil; without the tests, which take longest to copy."""
    return Path(shutil.copytree(clone, tmp_path / "copy", ignore=shutil.ignore_patterns("tests", "notes.txt", ".env")))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("secret", "docs/leak.md line 1 looks like a Hugging Face token"),
        ("pickle", r"optimizer.pt \(a pickle"),
        ("link", "is a link or no plain file"),
        ("card", "does not begin with library_name"),
        ("yaml", "its head is no metadata"),
        ("git", "git does not say what belongs to it"),
        ("mini", "mini has no processor_config.json"),
        ("code", "has no market_tsf_llm.py"),
        ("weights", "no safetensors file"),
    ],
)
def test_refuses_before_the_first_request(copy, stand_in, monkeypatch, tmp_path, spoil, told):
    if spoil == "secret":
        (copy / "docs" / "leak.md").write_text("hf_" + "aB3" * 12)
    elif spoil == "pickle":
        (copy / "training" / "optimizer.pt").touch()
        git(copy, "add", "-f", "training/optimizer.pt")
    elif spoil == "link":
        (copy / "NOTICE").unlink()
        (copy / "NOTICE").symlink_to("/etc/hostname")
    elif spoil == "card":
        (copy / "README.md").write_text("---\nlicense: mit\n---\n")
    elif spoil == "yaml":
        (copy / "README.md").write_text("---\nlicense: [\n---\n")
    elif spoil == "git":
        shutil.rmtree(copy / ".git")
    elif spoil == "mini":
        (copy / "mini" / "processor_config.json").unlink()
    elif spoil == "code":
        (copy / "market_tsf_llm.py").unlink()
    else:
        (copy / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with stand_in.StandInHub() as hub:
        stand_in.connect(monkeypatch, hub, tmp_path / "home")
        with pytest.raises(ValueError, match=told):
            push.main(PushArguments(repo_id="org/name", model=str(copy)))
        assert hub.log == []


def test_the_card_is_not_made_from_options(clone):
    with pytest.raises(ValueError, match="results is for other folders: the card of"):
        push.main(PushArguments(repo_id="org/name", model=str(clone), results="results.json"))


def test_what_is_tracked_here_may_be_public():
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    push.refuse_secrets(checkout.tracked(ROOT))


def test_parts_of_two_models_are_told_apart(clone):
    """The same sizes, other bins: nothing but the digest sees it."""
    one, other = load_pipeline(clone), load_pipeline(clone / "mini")
    assert one.model.config.processor_digest == one.processor.digest == other.processor.digest
    other.processor.tokenizer.bin_edges[0] -= 1.0
    with pytest.raises(ValueError, match="has other features or bins than that of the model's training"):
        TsfLlmPipeline(model=one.model, processor=other.processor, task="time-series-forecasting")
    assert json.loads((clone / "config.json").read_text())["processor_digest"] == one.processor.digest
