import copy

import pytest
import torch
from fastapi.testclient import TestClient
from peft import LoraConfig, get_peft_model

from tsf_llm.common.files import write_json
from tsf_llm.serving.http.adapters import find_folders, open_adapters
from tsf_llm.serving.http.app import create_app
from tsf_llm.serving.http.settings import Settings
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.training.models import digest


def adapter(pipe, folder, ticker, seed, **facts):
    """A random adapter of a pipeline's model, as training saves one."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(copy.deepcopy(pipe.model), config).save_pretrained(folder, save_embedding_layers=False)
    pipe.processor.save_pretrained(folder)
    about = {"ticker": ticker, "base_digest": digest(pipe.model), "trained_through": "2012-01-31", **facts}
    write_json(about, folder / "adapter.json")
    return folder


@pytest.fixture(scope="module")
def own():
    return load_pipeline("mini")


@pytest.fixture(scope="module")
def folders(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {name: adapter(own, folder / name, name, seed) for seed, name in enumerate(("AAPL", "IBM"))}


@pytest.fixture(scope="module")
def mixed_client(own, folders):
    adapters = open_adapters(own, folders)
    return TestClient(create_app(own, Settings(name="mini", window=0.2), adapters=adapters))


def test_folders_are_given_or_found(folders, tmp_path):
    given = [f"{name}={folder}" for name, folder in folders.items()]
    assert find_folders(str(tmp_path), given) == folders
    assert find_folders(str(folders["IBM"].parents[1]), []) == {}


@pytest.mark.parametrize("given", ["AAPL", "=x", "AAPL=/no/such", "by_ticker=x"])
def test_folders_that_are_none(given, tmp_path):
    with pytest.raises(ValueError, match="--adapter"):
        find_folders(str(tmp_path), [given])


def test_an_adapter_of_other_weights(own, tmp_path):
    folder = adapter(own, tmp_path / "AAPL", "AAPL", 0, base_digest="other")
    with pytest.raises(ValueError, match="trained on other weights"):
        open_adapters(load_pipeline("mini"), {"AAPL": folder})


def test_adapters_answer_for_their_own(mixed_client, client, body):
    def asked(**more):
        return mixed_client.post("/v1/forecast", json={**body, **more}).json()

    base = asked()
    assert base["forecast"] == client.post("/v1/forecast", json=body).json()["forecast"]
    named, other, by_ticker = (asked(adapter=name) for name in ("AAPL", "IBM", "by_ticker"))
    assert named["forecast"] == by_ticker["forecast"] != base["forecast"]
    assert named["forecast"] != other["forecast"]
    unknown = asked(adapter="../AAPL")["error"]["message"]
    assert unknown == "adapter: this server has no such adapter; it knows: AAPL, IBM, by_ticker"


def test_adapters_mix_within_a_pass(mixed_client, body):
    requests = [{**body, "adapter": name} for name in ("AAPL", "IBM", "by_ticker")]
    alone = [mixed_client.post("/v1/forecast", json=one).json() for one in requests]
    assert mixed_client.post("/v1/forecast/batch", json={"requests": requests}).json()["answers"] == alone


def test_paths_of_an_adapter(mixed_client, body):
    asked = {**body, "horizon": 22, "samples": 4}
    base, named = (
        mixed_client.post("/v1/forecast", json={**asked, **more}).json()["forecast"]
        for more in ({}, {"adapter": "AAPL"})
    )
    assert base[21] != named[21]


def test_the_list(mixed_client, client):
    assert client.get("/v1/adapters").json() == {"adapters": []}
    listed = mixed_client.get("/v1/adapters").json()["adapters"]
    assert listed[1] == {"name": "IBM", "ticker": "IBM", "trained_through": "2012-01-31"}
