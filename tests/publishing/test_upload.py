"""upload.py, and the save methods: what reaches the Hub, whether strangers can load it, and what is never uploaded.

The Hub is a stand-in on this machine; requests, files and commits are real ones of the client libraries.
"""

import functools
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from tsf_llm.common.errors import one_line_errors
from tsf_llm.data_prep.prepare import prepare
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.preferences.pairs import PairArguments, build_preferences
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.publishing.secrets import PICKLES, matches
from tsf_llm.publishing.upload import HubCallback, PushArguments
from tsf_llm.quantization_tsf_llm import to_int8
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts import push

spec = importlib.util.spec_from_file_location("stand_in_hub", Path(__file__).parents[1] / "stand_in_hub.py")
stand_in_hub = sys.modules["stand_in_hub"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in_hub)
WRITE, READ = stand_in_hub.WRITE_TOKEN, stand_in_hub.READ_TOKEN

CODE_FILES = {path.name for path in Path(push.__file__).parents[1].glob("*_tsf_llm.py")}
LOADING_FILES = {"config.json", "generation_config.json", "model.safetensors", "processor_config.json"}
LOADING_FILES |= {"tokenizer_config.json", *CODE_FILES}

STRANGER = """
import json, pathlib, sys
asked, target = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsf_llm":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import numpy as np, pandas as pd, torch
import transformers as t
from datasets import load_dataset
from peft import PeftModel

bars = pd.read_csv(asked["bars"], parse_dates=["timestamp"])
arrays = {}
for name, revision in asked["models"]:
    kwargs = {"revision": revision, "trust_remote_code": True}
    processor = t.AutoProcessor.from_pretrained(name, **kwargs)
    batch = processor(bars)
    base = t.AutoModel.from_pretrained(name, **kwargs)
    head = t.AutoModelForCausalLM.from_pretrained(name, **kwargs)
    pipe = t.pipeline("time-series-forecasting", model=name, **kwargs)
    inputs = {key: batch[key] for key in ("past_values", "attention_mask")}
    key = f"{name}@{revision}"
    with torch.no_grad():
        arrays[f"{key} hidden"] = base(**inputs).last_hidden_state
        arrays[f"{key} logits"] = head(**batch).logits
    forecast = pipe(bars, horizon=2, samples=16)
    arrays[f"{key} forecast"] = forecast.drop(columns=["ticker", "origin", "timestamp"])
    assert type(head).__module__.startswith("transformers_modules."), type(head)
    head.save_pretrained(target / "again")
for name, base in asked["adapters"]:
    model = t.AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True)
    processor = t.AutoProcessor.from_pretrained(name, trust_remote_code=True)
    with torch.no_grad():
        arrays[f"{name} logits"] = PeftModel.from_pretrained(model, name)(**processor(bars)).logits
for name, columns in asked["datasets"]:
    rows = load_dataset(name, split="train", cache_dir=str(target / "datasets"))
    for column in columns:
        arrays[f"{name} {column}"] = np.array(rows[column])
for name, blocks in asked["code"].items():
    scope = {"bars": bars}
    for block in blocks:
        exec(block, scope)
    if "forecast" in scope:
        arrays[f"{name} card"] = scope["forecast"].drop(columns=["ticker", "origin", "timestamp"])
np.savez(target / "arrays.npz", **{name: np.asarray(array, dtype=float) for name, array in arrays.items()})
facts = {"package": "tsf_llm" in sys.modules, "again": sorted(path.name for path in (target / "again").iterdir())}
(target / "facts.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with stand_in_hub.StandInHub() as server:
        stand_in_hub.connect(monkeypatch, server, tmp_path / "home")
        yield server


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """A trained model with its report. Read only."""
    folder = tmp_path_factory.mktemp("push") / "trained"
    train(folder, num_train_epochs=1, report_samples=8)
    return folder


@pytest.fixture(scope="module")
def other(train, tmp_path_factory):
    """Another model, without scores. Read only."""
    folder = tmp_path_factory.mktemp("push") / "other"
    train(folder, num_train_epochs=1, seed=1)
    return folder


@pytest.fixture(scope="module")
def head(train, tmp_path_factory):
    """A model that is no language model. Read only."""
    folder = tmp_path_factory.mktemp("push") / "head"
    train(folder, num_train_epochs=1, head="quantile")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy to spoil."""
    target = tmp_path / "model"
    target.mkdir()
    for path in trained.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    return target


def publish(model=None, repo_id="org/model", **options):
    """`push` as a function of its options."""
    return push.main(PushArguments(repo_id=repo_id, model=model and str(model), **options))


def add_adapter(base, target, *, ticker="AAA"):
    """A random adapter in a folder as training leaves it; its paths are of this machine. Returns its model."""
    torch.manual_seed(1)
    model = TsfLlmForCausalLM.from_pretrained(base)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["o_proj", "lm_head"], init_lora_weights=False)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(target)
    TsfLlmProcessor.from_pretrained(base).save_pretrained(target)
    facts = {
        "ticker": ticker,
        "base_model": str(base),
        "data": "prices",
        "trained_through": "2016-06-30",
        "horizon": 2,
    }
    (target / "adapter.json").write_text(json.dumps(facts))
    return adapted.eval()


# --- published, and loaded by a process that knows nothing but the name ---------------------------------------------


@pytest.fixture(scope="module")
def world(trained, other, head, prices, tmp_path_factory):
    """A Hub with everything that can be published, each way of publishing it, and what a stranger made of it."""
    place = tmp_path_factory.mktemp("world")
    with stand_in_hub.StandInHub() as hub, pytest.MonkeyPatch.context() as patch:
        stand_in_hub.connect(patch, hub, place / "home")
        found = {"hub": hub, "commit": publish(trained, "org/model", tag="v1")}
        publish(other, "org/model", revision="other/run")  # a branch, while main and v1 stay
        publish(head, "org/head")
        save_everywhere(trained, place)
        add_adapter(trained, place / "adapter").save_pretrained(place / "adapter")
        publish(place / "adapter", "org/adapter", base="org/model")
        make_datasets(trained, prices, place)
        publish(dataset=str(place / "prepared"), repo_id="org/bars", source="made up", license="cc0-1.0")
        publish(dataset=str(place / "pairs"), repo_id="org/pairs")
        bars = pd.read_csv(prices, parse_dates=["timestamp"])
        bars[bars["ticker"] == "AAA"].to_csv(place / "bars.csv", index=False)
        found |= {"arrays": ask_a_stranger(hub, place), "place": place}
        yield found


def save_everywhere(folder, place):
    """The same model through each of the save methods, into an empty repository of its own."""
    model, processor = TsfLlmForCausalLM.from_pretrained(folder), TsfLlmProcessor.from_pretrained(folder)
    model.push_to_hub("org/pushed", private=True)
    processor.push_to_hub("org/pushed")
    saved = str(place / "saved")
    model.save_pretrained(saved, push_to_hub=True, repo_id="org/saved")
    processor.save_pretrained(saved, push_to_hub=True, repo_id="org/saved")
    processor.push_to_hub("org/processor")
    train_with_trainer(model, processor, place / "trainer")


def train_with_trainer(model, processor, place):
    """transformers' own Trainer, which uploads with every checkpoint and at the end; the weights do not move."""
    for name in ("base", ".unfinished"):
        (place / name).mkdir(parents=True)
        (place / name / "config.json").write_text("{}")
    args = TrainingArguments(
        output_dir=str(place),
        max_steps=2,
        save_steps=1,
        learning_rate=0.0,
        push_to_hub=True,
        hub_model_id="org/trainer",
        hub_always_push=True,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    features = len(processor.feature_extractor.names)
    row = {"past_values": torch.zeros(4, features), "input_ids": torch.full((4,), processor.tokenizer.bar_token_id)}
    row |= {"attention_mask": torch.ones(4, dtype=torch.long), "labels": torch.zeros(4, dtype=torch.long)}
    rows = [row] * 16
    trainer = Trainer(model, args, train_dataset=rows, processing_class=processor, callbacks=[HubCallback()])
    trainer.train()
    trainer.push_to_hub()


def make_datasets(folder, prices, place):
    features = TsfLlmFeatureExtractor(context_length=16)
    processor = TsfLlmProcessor(features, TsfLlmTokenizer(n_bins=32))
    prepare(prices, place / "prepared", processor=processor, horizon=2)
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    build_preferences(load_pipeline(folder), bars, place / "pairs", PairArguments(samples=4), progress=False)


def ask_a_stranger(hub, place):
    """Outputs of `STRANGER`: a new process with an empty cache, to which our package does not exist."""
    cards = {name: hub.repo(name).files["README.md"].decode() for name in ("org/model", "org/head", "org/adapter")}
    asked = {
        "bars": str(place / "bars.csv"),
        "models": [["org/model", "v1"], ["org/model", "other/run"], ["org/model", "main"]]
        + [[name, "main"] for name in ("org/pushed", "org/saved", "org/trainer")],
        "adapters": [["org/adapter", "org/model"]],
        "datasets": [["org/bars", ["close", "features", "token"]], ["org/pairs", ["chosen_ids", "margin"]]],
        "code": {name: re.findall(r"```python\n(.*?)```", card, re.DOTALL) for name, card in cards.items()},
    }
    assert [len(blocks) for blocks in asked["code"].values()] == [2, 2, 1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": READ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HOME": str(place / "stranger"), "HOME": str(place / "stranger")}
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_DISABLE_TELEMETRY": "1"}
    (place / "out").mkdir()
    command = [sys.executable, "-I", "-c", STRANGER, json.dumps(asked), str(place / "out")]
    done = subprocess.run(command, cwd=place / "out", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = json.loads((place / "out" / "facts.json").read_text())
    assert not facts["package"]
    assert set(facts["again"]) >= set(CODE_FILES)  # saved from what the Hub brought, whole again
    with np.load(place / "out" / "arrays.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def outputs(folder, bars):
    """What the stranger computes, here and from the folder."""
    processor, model = TsfLlmProcessor.from_pretrained(folder), TsfLlmForCausalLM.from_pretrained(folder)
    batch = processor(bars)
    inputs = {key: batch[key] for key in ("past_values", "attention_mask")}
    with torch.no_grad():
        found = {"hidden": model.model(**inputs).last_hidden_state, "logits": model(**batch).logits}
    forecast = TsfLlmPipeline(model=model, processor=processor)(bars, horizon=2, samples=16)
    found["forecast"] = forecast.drop(columns=["ticker", "origin", "timestamp"])
    return {name: np.asarray(array, dtype=float) for name, array in found.items()}


@pytest.fixture(scope="module")
def bars(world):
    return pd.read_csv(world["place"] / "bars.csv", parse_dates=["timestamp"])


@pytest.mark.parametrize(
    "name", ["org/model@v1", "org/model@main", "org/pushed@main", "org/saved@main", "org/trainer@main"]
)
def test_a_stranger_gets_the_same_numbers_to_the_bit(world, trained, bars, name):
    for part, wanted in outputs(trained, bars).items():
        np.testing.assert_array_equal(world["arrays"][f"{name} {part}"], wanted, err_msg=part)


def test_a_branch_is_another_model(world, other, bars):
    for part, wanted in outputs(other, bars).items():
        np.testing.assert_array_equal(world["arrays"][f"org/model@other/run {part}"], wanted, err_msg=part)
    assert not np.array_equal(world["arrays"]["org/model@v1 logits"], world["arrays"]["org/model@other/run logits"])


@pytest.mark.parametrize("name", ["model", "head", "adapter"])
def test_the_code_in_the_card_runs(world, trained, head, bars, name):
    pipe = load_pipeline({"model": trained, "head": head}.get(name) or merged_adapter(world, trained))
    wanted = pipe(bars, horizon=2).drop(columns=["ticker", "origin", "timestamp"])
    np.testing.assert_array_equal(world["arrays"][f"org/{name} card"], wanted.astype(float))


def merged_adapter(world, trained):
    folder = world["place"] / "merged"
    model = PeftModel.from_pretrained(TsfLlmForCausalLM.from_pretrained(trained), str(world["place"] / "adapter"))
    model.merge_and_unload().save_pretrained(folder)
    TsfLlmProcessor.from_pretrained(trained).save_pretrained(folder)
    return folder


def test_an_adapter_loads_by_its_name_and_names_its_base_on_the_hub(world, trained, bars):
    model = PeftModel.from_pretrained(TsfLlmForCausalLM.from_pretrained(trained), str(world["place"] / "adapter"))
    with torch.no_grad():
        wanted = model(**TsfLlmProcessor.from_pretrained(trained)(bars)).logits.numpy()
    np.testing.assert_array_equal(world["arrays"]["org/adapter logits"], wanted)
    assert not np.array_equal(wanted, world["arrays"]["org/model@v1 logits"])
    files = world["hub"].repo("org/adapter").files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/model"
    assert json.loads(files["adapter.json"])["base_model"] == "org/model"
    assert not any(str(world["place"]).encode() in content for content in files.values())


def test_datasets_come_back(world):
    place, arrays = world["place"], world["arrays"]
    shards = pd.concat([pd.read_parquet(path) for path in sorted((place / "prepared" / "data").glob("*.parquet"))])
    np.testing.assert_array_equal(arrays["org/bars close"], shards["close"])
    np.testing.assert_array_equal(arrays["org/bars features"], np.stack(shards["features"]))
    np.testing.assert_array_equal(arrays["org/bars token"], shards["token"])
    pairs = pd.read_parquet(place / "pairs" / "preferences.parquet")
    np.testing.assert_array_equal(arrays["org/pairs chosen_ids"], np.stack(pairs["chosen_ids"]))
    np.testing.assert_array_equal(arrays["org/pairs margin"], pairs["margin"])


def test_no_way_of_publishing_uploads_a_pickle(world):
    for (_, name), repo in world["hub"].repos.items():
        for commit in repo.commits.values():
            assert not [path for path in commit.files if matches(path, PICKLES)], name


def test_every_commit_of_trainer_is_whole(world):
    """Also those with a checkpoint, whose code `HubCallback` adds. Nothing else of its folder is in them."""
    commits = [*world["hub"].repo("org/trainer").commits.values()][1:]
    assert len(commits) >= 2
    for commit in commits:
        assert set(commit.files) >= LOADING_FILES
        assert not [path for path in commit.files if "/" in path]


def test_a_processor_alone_is_whole(world):
    files = set(world["hub"].repo("org/processor").files)
    assert files >= {"processor_config.json", "processing_tsf_llm.py", "feature_extraction_tsf_llm.py"}
    assert "modeling_tsf_llm.py" not in files


def test_a_push_is_one_commit_with_its_tag(world):
    repo = world["hub"].repo("org/model")
    assert world["commit"].endswith(repo.tags["v1"])
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "Push trained", "Push other"]
    assert set(repo.branches) == {"main", "other/run"}
    expected = LOADING_FILES | {"README.md", "report.json", "loss.png", ".gitattributes"}
    assert set(repo.files) == expected


# --- who may see it -------------------------------------------------------------------------------------------------


def test_private_unless_told_otherwise(hub, trained):
    publish(trained)
    publish(trained, "org/open", public=True)
    assert hub.repo("org/model").private
    assert not hub.repo("org/open").private


def test_a_public_repository_is_not_written_to_by_mistake(hub, trained):
    hub.create("org/model", private=False)
    with pytest.raises(ValueError, match=r"is public.*add --public"):
        publish(trained)
    assert set(hub.repo("org/model").files) == {".gitattributes"}
    assert not hub.requests("PUT|commit/")


def test_a_private_one_stays_private(hub, trained, capsys):
    hub.create("org/model", private=True)
    publish(trained, public=True)
    assert "is private and stays so" in capsys.readouterr().out
    assert hub.repo("org/model").private


# --- what never leaves ----------------------------------------------------------------------------------------------

TOKEN = "hf_" + "aB3" * 12
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in TOKEN)  # the same in JSON


def spoil(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (".env", "KEY=1", ["credentials", ".env"]),
        ("training_args.bin", pickle.dumps({}), ["training_args.bin", "pickle"]),
        ("optimizer.pt", pickle.dumps({}), ["optimizer.pt", "pickle"]),
        ("pytorch_model.bin", pickle.dumps({}), ["pytorch_model.bin", "pickle"]),
        ("prices.csv", "timestamp,close\n", ["prices.csv", "raw data"]),
        ("windows.npz", b"PK", ["windows.npz", "raw data"]),
        ("bars.parquet", b"PAR1", ["bars.parquet", "raw data"]),
        ("generation_config.json", f'{{\n"token": "{TOKEN}"}}', ["generation_config.json line 2", "Face token"]),
        ("generation_config.json", f'{{"a": "{ESCAPED}"}}', ["generation_config.json line 1", "Face token"]),
        ("series_tsf_llm.py", "KEY = 'AKIA" + "A1" * 8 + "'", ["series_tsf_llm.py line 1", "AWS key"]),
        ("market_tsf_llm.py", "api_key = " + "'c0ffee-c0ffee-c0ffee'", ["market_tsf_llm.py line 1", "password"]),
        ("model.safetensors", pickle.dumps({}), ["model.safetensors", "no safetensors file"]),
    ],
)
def test_refuses_before_the_first_request(hub, folder, capsys, name, content, words):
    spoil(folder, name, content)
    with pytest.raises(SystemExit, match="2"), one_line_errors("push"):
        publish(folder)
    [line] = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words)
    assert TOKEN not in line
    assert hub.log == []


def name_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "/etc/passwd"}}')


def name_code(folder, module):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = f"{module}.TsfLlmModel"
    (folder / "config.json").write_text(json.dumps(config))


def name_processor_code(folder):
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["auto_map"] = {"AutoProcessor": "../outside.TsfLlmProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(settings))


def name_import(folder):
    path = folder / "modeling_tsf_llm.py"
    path.write_text(f"from ./../outside import a\n{path.read_text()}")


def link(folder, name):
    path = folder.parent / f"outside{Path(name).suffix}"
    path.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(path)


def pipe_instead(folder):
    (folder / "report.json").unlink(missing_ok=True)
    os.mkfifo(folder / "report.json")


LINKED = ["config.json", "processor_config.json", "tokenizer_config.json", "model.safetensors", "modeling_tsf_llm.py"]
LINKED += ["generation_config.json", "report.json", "results.json", "loss.png", "card.md"]
OUTSIDE = {
    "weight_map": (name_weights, "names '/etc/passwd'"),
    "auto_map, absolute": (lambda folder: name_code(folder, folder.parent / "outside"), "which does not lie in it"),
    "auto_map, upwards": (lambda folder: name_code(folder, "../outside"), r"names '\.\./outside\.py'"),
    "auto_map of the processor": (name_processor_code, r"names '\.\./outside\.py'"),
    "import": (name_import, r"names '/\.\./outside\.py'"),
    "pipe": (pipe_instead, "is a link or no plain file"),
    **{f"link {name}": (functools.partial(link, name=name), f"{name} is a link") for name in LINKED},
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_nothing_outside_of_the_folder_is_published(folder, tmp_path, case):
    spoil, words = OUTSIDE[case]
    (tmp_path / "outside.py").write_text("a = 'private'")
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        publish(folder, dry_run=True)


def test_leftovers_are_left_out_and_listed(hub, folder, capsys):
    for name in ("notes.txt", "events.log", "fan.png", "README.md", ".gitignore"):
        spoil(folder, name, "mine")
    for name in ("checkpoint-5", "runs", "preferences"):
        (folder / name).mkdir()
        spoil(folder / name, "optimizer.pt", b"")
    publish(folder)
    told = capsys.readouterr().out
    for name in ("notes.txt", "events.log", "fan.png", "README.md", ".gitignore", "checkpoint-5/", "runs/"):
        assert f"left out: {name}" in told
    files = hub.repo("org/model").files
    assert set(files) == LOADING_FILES | {"README.md", "report.json", "loss.png", ".gitattributes"}
    assert files["README.md"] != b"mine"


def test_sharded_weights(hub, folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    TsfLlmForCausalLM.from_pretrained(None, config=json_config(folder), state_dict=tensors).save_pretrained(
        folder, max_shard_size="10KB"
    )
    publish(folder)
    shards = {name for name in hub.repo("org/model").files if name.endswith(".safetensors")}
    assert len(shards) > 1
    [first, *_] = sorted(shards)
    (folder / first).unlink()
    with pytest.raises(ValueError, match=f"lacks {first}"):
        publish(folder)


def json_config(folder):
    from tsf_llm.configuration_tsf_llm import TsfLlmConfig

    return TsfLlmConfig.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "holds no model"),
        ("model.safetensors", "has no model.safetensors"),
        ("processor_config.json", "save the processor there too"),
        ("original_modeling_tsf_llm.py", "has no original_modeling_tsf_llm.py, which loading needs"),
        ("pipeline_tsf_llm.py", "has no pipeline_tsf_llm.py, which loading needs"),
    ],
)
def test_what_loading_needs_must_be_there(hub, folder, name, words):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=words):
        publish(folder)
    assert hub.log == []


def test_what_an_earlier_push_left_is_removed_in_the_same_commit(hub, folder):
    repo = hub.create("org/model")
    ours = ("model-00001-of-00002.safetensors", "training_args.bin", "results.json")
    earlier = {name: stand_in_hub.Blob(b"x", False) for name in (*ours, "picture.svg")}
    repo.commit("main", "earlier", earlier)
    publish(folder)
    assert "picture.svg" in repo.files  # not ours
    assert not set(repo.files) & set(ours)
    assert len(repo.commits) == 3


# --- what goes wrong ------------------------------------------------------------------------------------------------


def fails(capsys, *args, **options):
    """The one line of a push that exits with 2."""
    with pytest.raises(SystemExit, match="2"), one_line_errors("push"):
        publish(*args, **options)
    return capsys.readouterr().err.splitlines()[-1]


def test_without_a_token(hub, trained, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "no token for the Hub: run `hf auth login`" in fails(capsys, trained)
    assert hub.log == []


@pytest.mark.parametrize(("token", "words"), [("hf_wrong", "does not accept the token"), (READ, "may not write to")])
def test_with_a_token_that_may_not(hub, trained, capsys, monkeypatch, token, words):
    monkeypatch.setenv("HF_TOKEN", token)
    assert words in fails(capsys, trained)
    assert not hub.repos


def test_a_repository_of_another_type(hub, trained, capsys):
    hub.create("org/model", kind="dataset")
    assert "org/model is a dataset, not a model" in fails(capsys, trained)
    assert ("model", "org/model") not in hub.repos


def test_a_tag_stays_what_it_is(hub, trained, other, capsys):
    publish(trained, tag="v1")
    before = hub.repo("org/model").files
    assert "has a tag v1 already" in fails(capsys, other, tag="v1")
    assert hub.repo("org/model").files == before


def test_without_a_network(hub, trained, capsys, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 failed" in fails(capsys, trained)


@pytest.mark.parametrize("step", ["repos/create", "preupload", "objects/batch", "PUT /objects", "commit/main"])
def test_a_hub_that_is_down(hub, trained, capsys, step):
    hub.fail(step, 500)
    assert "not available at the moment (status 500): start it again" in fails(capsys, trained)
    assert all(set(repo.files) == {".gitattributes"} for repo in hub.repos.values())  # nothing half uploaded


@pytest.mark.parametrize(("step", "status"), [("PUT /objects", 500), ("objects/batch", 429), ("preupload", 503)])
def test_one_failed_request_is_repeated_by_the_client(hub, trained, step, status):
    hub.fail(step, status, times=1)
    publish(trained)
    assert len(hub.requests(step)) > len({*hub.requests(step)})
    assert set(hub.repo("org/model").files) >= LOADING_FILES


def test_an_interrupted_push_is_repeated_without_its_large_files(hub, trained, capsys):
    hub.fail("commit/main", 500, times=1)
    fails(capsys, trained)
    sent = hub.requests("PUT /objects")
    assert sent
    assert set(hub.repo("org/model").files) == {".gitattributes"}
    publish(trained)
    assert hub.requests("PUT /objects") == sent  # none was sent again
    assert set(hub.repo("org/model").files) >= LOADING_FILES
    publish(trained)
    assert len(hub.repo("org/model").commits) == 2  # nothing new is no commit


def test_a_push_that_lost_its_tag_is_repeated(hub, trained, capsys):
    hub.fail("tag/", 500, times=1)
    fails(capsys, trained, tag="v1")
    publish(trained, tag="v1")
    repo = hub.repo("org/model")
    assert repo.tags == {"v1": repo.branches["main"]}
    assert len(repo.commits) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repo_id": "model", "model": "x"}, "name the owner too"),
        ({"repo_id": "org/a/b", "model": "x"}, "org/a/b"),
        ({"repo_id": "org/model"}, "give either"),
        ({"repo_id": "org/model", "model": "x", "dataset": "y"}, "give either"),
        ({"repo_id": "org/model", "dataset": "x", "results": "r.json"}, "results is for a model"),
        ({"repo_id": "org/model", "model": "x", "source": "me"}, "source is for a dataset"),
        ({"repo_id": "org/model", "model": "x", "base": "org/model"}, "that is the repository to write to"),
    ],
)
def test_arguments_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        PushArguments(**options)


def test_an_adapter_needs_a_base_on_the_hub(hub, trained, tmp_path):
    add_adapter(trained, tmp_path)
    with pytest.raises(ValueError, match="on this machine: push it, then give --base org/name"):
        publish(tmp_path)
    assert hub.log == []


def test_a_base_must_be_on_the_hub(hub, trained, tmp_path, capsys):
    add_adapter(trained, tmp_path)
    assert "base=org/base: no such model on the Hub" in fails(capsys, tmp_path, base="org/base")
    assert not hub.repos
    hub.create("org/base")
    publish(tmp_path, base="org/base")
    assert json.loads(hub.repo("org/model").files["adapter_config.json"])["base_model_name_or_path"] == "org/base"


def test_a_model_names_what_it_was_made_from(hub, trained):
    hub.create("org/base")
    publish(trained, base="org/base")
    assert b"base_model: org/base\n" in hub.repo("org/model").files["README.md"]


def test_the_folder_of_a_run_of_adapters(hub, folder, trained, capsys):
    """Its model goes up without the scores of the adapters, with the fences of its own report, and tells of them."""
    own = json.loads((folder / "report.json").read_text())
    (folder / "base").mkdir()
    (folder / "base" / "report.json").write_text(json.dumps(own))
    run = {**own, "made_by": "lora", "train_through": "1999-12-31", "tickers": {"AAA": {}}}
    (folder / "report.json").write_text(json.dumps(run))
    add_adapter(trained, folder / "AAA")
    publish(folder)
    assert "left out: AAA/ (an adapter: push it by itself)" in capsys.readouterr().out
    card = hub.repo("org/model").files["README.md"].decode()
    assert "No scores were measured." in card
    assert f"| training fence | {own['train_through']} |" in card


def test_an_int8_copy_loads_as_its_card_says(hub, trained, bars, tmp_path):
    """As every model does; its scores are the copy's own row of `compression.json`."""
    copy = tmp_path / "int8"
    to_int8(TsfLlmForCausalLM.from_pretrained(trained)).save_pretrained(copy)
    TsfLlmProcessor.from_pretrained(trained).save_pretrained(copy)
    row = {"model": "original", "parameters": 9, "bytes": 99, "crps": 0.5, "int8_share": 0.0, "zero_share": 0.0}
    rows = [row, {**row, "model": "int8", "crps": 0.0123456, "int8_share": 0.8, "difference": {"verdict": "no edge"}}]
    told = {"rows": rows, "valid_through": "2016-06-30", "out_of_sample": True, "horizon": 2, "samples": 8, "seed": 0}
    (tmp_path / "compression.json").write_text(json.dumps(told))
    hub.create("org/base")
    publish(copy, base="org/base", tag="v1")
    files = hub.repo("org/model").files
    card = files["README.md"].decode()
    assert "compression.json" not in files
    assert "| this model | 1.235 |" in card
    assert "* no edge" in card
    assert "base_model_relation: quantized" in card
    parameters = TsfLlmForCausalLM.from_pretrained(trained).num_parameters()
    assert f"{parameters:,} parameters" in card  # scales are none
    scope = {"bars": bars}
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(block, scope)
    wanted = load_pipeline(copy)(bars, horizon=scope["forecast"]["step"].max())
    pd.testing.assert_frame_equal(scope["forecast"], wanted)


def test_an_adapter_takes_its_scores_from_the_run_that_made_it(hub, trained, tmp_path):
    """The report of the run lies above the adapter, speaks of others too, and stays here."""
    add_adapter(trained, tmp_path / "AAA")
    score = {"n": 7, "horizon": 2, "crps": 0.0123456}
    parts = {"AAA": {"after": score}, "BBB": {"after": {**score, "crps": 0.5}}}
    report = {"tickers": parts, "after": {**score, "crps": 0.25}, "trained_through": "2016-06-30"}
    (tmp_path / "report.json").write_text(json.dumps(report))
    hub.create("org/base")
    publish(tmp_path / "AAA", base="org/base")
    files = hub.repo("org/model").files
    assert b"| this adapter | 1.235 |" in files["README.md"]
    assert "report.json" not in files
    (tmp_path / "report.json").write_text(json.dumps({"made_by": "sft", **report}))  # of whatever else lies there
    publish(tmp_path / "AAA", base="org/base")
    files = hub.repo("org/model").files
    assert b"No scores were measured." in files["README.md"]
    assert "report.json" not in files


def spoil_dataset(folder, how):
    info = json.loads((folder / "dataset.json").read_text())
    shard = next(iter(info["tickers"].values()))
    if how == "link":
        (folder / "README.md").rename(folder.parent / "README.md")
        (folder / "README.md").symlink_to(folder.parent / "README.md")
    elif how == "folder":
        (folder / "processor").rename(folder.parent / "processor")
        (folder / "processor").symlink_to(folder.parent / "processor")
    elif how == "shape":
        info["tickers"] = [1]
    else:
        shard["file"] = how
    (folder / "dataset.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("/etc/passwd", "names '/etc/passwd', no shard"),
        ("data/../../outside.parquet", "which does not lie in it"),
        ("cleaning.json", "no shard"),
        ("link", r"README\.md is a link"),
        ("folder", r"processor/processor_config\.json is a link|which does not lie|is a link"),
        ("shape", r"dataset\.json holds something of another shape"),
    ],
)
def test_nothing_outside_of_a_dataset_is_published(prices, tmp_path, how, words):
    processor = TsfLlmProcessor(TsfLlmFeatureExtractor(context_length=16), TsfLlmTokenizer(n_bins=32))
    prepare(prices, tmp_path / "prepared", processor=processor, horizon=2)
    (tmp_path / "outside.parquet").write_bytes(b"")
    spoil_dataset(tmp_path / "prepared", how)
    with pytest.raises(ValueError, match=words):
        publish(dataset=str(tmp_path / "prepared"), dry_run=True)


def test_a_dataset_must_be_whole(hub, trained, prices, tmp_path, capsys):
    make_datasets(trained, prices, tmp_path)
    spoil(tmp_path / "prepared" / "processor", "notes.txt", "mine")
    publish(dataset=str(tmp_path / "prepared"), repo_id="org/bars")
    assert "processor/notes.txt" not in hub.repo("org/bars", "dataset").files
    assert "left out: processor/notes.txt" in capsys.readouterr().out
    hub.log.clear()
    (tmp_path / "prepared" / "data" / "BBB.parquet").unlink()
    with pytest.raises(ValueError, match=r"lacks data/BBB\.parquet"):
        publish(dataset=str(tmp_path / "prepared"), repo_id="org/bars")
    save_file({}, tmp_path / "pairs" / "x.safetensors")
    spoil(tmp_path / "pairs", "cache.pkl", pickle.dumps({}))
    with pytest.raises(ValueError, match=r"cache\.pkl"):
        publish(dataset=str(tmp_path / "pairs"), repo_id="org/pairs")
    assert hub.log == []
