"""The speed comparison measures what it says; how long anything takes is never asserted."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tsf_llm.benchmarks import speed
from tsf_llm.versions_tsf_llm import CACHE

TINY = speed.TINY
SETTINGS = speed.Settings(batch=2, bars=6, steps=3)


@pytest.fixture(scope="module")
def models():
    return speed.contestants(TINY, SETTINGS)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Results of a quick run and the folder that it wrote them into."""
    folder = tmp_path_factory.mktemp("speed")
    assert speed.main(["--quick", "--json", str(folder / "speed.json")]) == 0
    return json.loads((folder / "speed.json").read_text(encoding="utf-8")), folder


def is_positive(number):
    return isinstance(number, int | float) and math.isfinite(number) and number > 0


def test_quick_run_writes_the_agreed_json_and_nothing_else(quick):
    results, folder = quick
    assert [path.name for path in folder.iterdir()] == ["speed.json"]
    assert [row["model"] for row in results["rows"]] == ["tsf-llm tiny", "deepseek-v3 tiny"]
    for row in results["rows"]:
        for key in ("params", "forward_ms", "train_ms", "generate_ms", "cache_bytes_per_token"):
            assert is_positive(row[key]), key
    assert set(results["ratios"]) == {"forward_tiny", "train_tiny", "generate_tiny"}
    assert all(map(is_positive, results["ratios"].values()))
    assert is_positive(results["gemm_gflops"])
    assert is_positive(results["decode"][0]["absorbed_over_expanded"])
    assert results["settings"]["repeats"] == 2
    assert results["machine"]["torch_threads"] == torch.get_num_threads()
    assert results["versions"]["torch"] == torch.__version__


def test_json_replaces_an_older_file(tmp_path):
    path = tmp_path / "speed.json"
    path.write_text("old", encoding="utf-8")
    speed.write_json({"rows": []}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"rows": []}


@pytest.mark.parametrize("name", [*speed.PRESETS, "tiny"])
def test_parameters_of_ours_and_the_peer_agree(name):
    models = speed.contestants(TINY if name == "tiny" else speed.preset(name), SETTINGS)
    ours, peer = (models[name][0] for name in (speed.OURS, speed.PEER))
    assert peer.num_parameters() == pytest.approx(ours.num_parameters(), rel=0.02)


@pytest.mark.parametrize("name", speed.PRESETS)
def test_presets_have_the_size_of_their_name(name):
    ours, _ = speed.contestants(speed.preset(name), SETTINGS)[speed.OURS]
    assert round(ours.num_parameters() / 1e6) == int(name.removesuffix("M"))


def test_peer_attends_as_we_do(models):
    """Same weights, same numbers: the two differ in nothing that would make one of them do more."""
    ours, peer = (models[name][0].eval() for name in (speed.OURS, speed.PEER))
    x_BSD = torch.randn(2, 6, TINY["hidden_size"])
    for mine, theirs in zip(ours.model.layers, peer.model.layers, strict=True):
        positions = torch.arange(6)[None]
        contexts = [
            layer.self_attn(x_BSD, position_embeddings=model.model.rotary_emb(x_BSD, positions), attention_mask=None)[
                0
            ]
            for layer, model in ((mine, ours), (theirs, peer))
        ]
        assert_close(contexts[0], contexts[1])


def test_peer_chooses_the_experts_that_we_choose(models):
    ours, peer = (models[name][0] for name in (speed.OURS, speed.PEER))
    x_ND = torch.randn(12, TINY["hidden_size"])
    for mine, theirs in zip(ours.model.layers, peer.model.layers, strict=True):
        assert_close(mine.mlp.gate(x_ND)[2].sort().values, theirs.mlp.gate(x_ND)[2].sort().values)


def test_expanded_decode_expands_and_agrees_with_absorbed():
    models = speed.contestants(TINY, SETTINGS)
    absorbed, inputs = models[speed.OURS]
    expanded, _ = models[speed.EXPANDED]
    calls = Counter()
    for name, model in ((speed.OURS, absorbed), (speed.EXPANDED, expanded)):
        projection = model.model.layers[0].self_attn.kv_b_proj
        projection.register_forward_hook(lambda *_, name=name: calls.update([name]))
    steps = []
    for model in (absorbed, expanded):
        with torch.no_grad():
            cache = model.eval()(**inputs, use_cache=True)[CACHE]
            steps.append(model(input_ids=torch.zeros(2, 1, dtype=torch.long), past_key_values=cache).logits)
    assert calls == {speed.OURS: 1, speed.EXPANDED: 2}  # ours expands only to read the prompt
    assert_close(steps[0], steps[1])


def test_cache_weighs_what_the_shape_says(quick):
    results, _ = quick
    config = speed.TsfLlmConfig(**TINY, horizons=None)
    layer_bytes = 4 * config.num_hidden_layers  # float32
    head = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    assert results["cache_bytes_per_token"] == [
        {
            "shape": "tiny",
            "mla": layer_bytes * (config.kv_lora_rank + config.qk_rope_head_dim),
            "gqa": layer_bytes * 2 * head,
            "mha": layer_bytes * config.num_attention_heads * head,
        }
    ]


def test_ratio_is_the_median_of_paired_repeats():
    assert speed.ratio([2.0, 30.0, 6.0], [1.0, 10.0, 4.0]) == 2.0


def test_bf16_runs():
    settings = replace(SETTINGS, dtype="bf16")
    models = speed.contestants(TINY, settings)
    for model, inputs in models.values():
        speed.forward(model, inputs)
        speed.generate(model, inputs, settings.steps)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--repeats", "0"],
        ["--repeats", "many"],
        ["--device", "abacus"],
        ["--dtype", "int3"],
        ["--json", "no/such/folder/speed.json"],
        ["--json", "."],
        ["--unknown"],
        pytest.param(
            ["--device", "cuda"], marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
        ),
    ],
)
def test_bad_arguments_exit_2_with_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        speed.main(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert arguments[0] in printed.err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert "below 1" in shown
