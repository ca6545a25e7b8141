"""`tsf-llm convert`: every kind of source gives a folder that computes the same; a bad one gives one line and nothing.

That the numbers are the original's own is tested in `test_original_modeling_tsf_llm.py`; here they are compared once
more after the way through the files."""

import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForTimeSeriesPrediction
from typer.testing import CliRunner

from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.original.convert import convert, rope_theta
from tsf_llm.serving.cli import app

FIXTURES = Path(__file__).parents[1] / "fixtures" / "original"
PLAIN, MIXED = "tiny_standard_rmsnorm_q0_regression", "tiny_mixed_rmsnorm_q0_regression"
FULL_IO = FIXTURES / "full_27M_io.safetensors"
SMALL_Q = "layers.1.attention.q_proj.weight"


def read(name):
    """(state dict as torch.save would hold it, inputs and outputs) of a fixture."""
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    real, imaginary = (state.pop(f"rotary_emb.freqs_buffer.{part}") for part in ("real", "imag"))
    return {**state, "rotary_emb.freqs_buffer": torch.complex(real, imaginary)}, tensors


def training_pt(state, folder):
    extra = {"optimizer_state_dict": {"state": {}, "param_groups": []}, "train_losses": [0.1], "feature_dim": 16}
    torch.save({"model_state_dict": state, **extra, "prediction_type": "regression"}, folder / "best_model.pt")
    return folder / "best_model.pt"


def predictor_pt(state, folder):
    facts = {"max_seq_len": 32, "norm": "rmsnorm", "num_experts_per_token": 2, "num_experts": 4, "vocab_size": 16}
    torch.save({"model_state_dict": state, **facts}, folder / "predictor.pt")
    return folder / "predictor.pt"


def pytorch_bin(state, folder):
    torch.save(state, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def converter_safetensors(state, folder):
    """As the original's script writes it: of complex tensors only the real part, and no format in the metadata."""
    real = {key: (value.real if value.is_complex() else value).contiguous() for key, value in state.items()}
    save_file(real, folder / "model.safetensors", metadata={"vocab_size": "16", "hidden_size": "32"})
    return folder / "model.safetensors"


def published_folder(state, folder):
    """The config.json of the published folder is wrong about the features and silent about the rest."""
    config = {"model_type": "space_explore_ai_financial", "vocab_size": 68, "hidden_size": 256}
    config |= {"num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 128}
    config |= {"layer_norm_epsilon": 1e-12, "transformers_version": "4.36.0", "use_cache": True}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("vocab.txt", "Usage.md", "tokenizer.json"):
        (folder / name).write_text("{}")
    pytorch_bin(state, folder)
    return folder


SOURCES = [training_pt, predictor_pt, pytorch_bin, converter_safetensors, published_folder]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.mark.parametrize("name", [PLAIN, MIXED])
@pytest.mark.parametrize("kind", SOURCES)
@torch.no_grad()
def test_every_source_gives_the_original_numbers(name, kind, source, tmp_path, code_files):
    state, data = read(name)
    convert(kind(state, source), tmp_path / "out")
    for auto in (AutoModel, AutoModelForTimeSeriesPrediction):
        model = auto.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
        assert type(model).__name__ == "TsfLlmForPrediction"
        for run, x in [("", "in.x"), ("x1.", "in.x1"), ("long.", "in.x_long")]:
            if x in data:
                out = model(data[x])
                torch.testing.assert_close(out.prediction[:, 0], data[f"out.{run}prediction"], rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(
                    out.last_hidden_state, data[f"out.{run}last_hidden_state"], rtol=1e-5, atol=1e-5
                )
    config = model.config
    assert config.num_features == 16
    assert config.attention_softmax_axis == ("heads" if name == PLAIN else "keys")
    assert config.num_attention_heads == 2
    assert (config.max_position_embeddings, config.num_experts_per_tok) == (32, 2)
    assert {path.name for path in (tmp_path / "out").glob("*.py")} == code_files
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(model.state_dict())
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_options_say_what_shapes_cannot(source, tmp_path):
    state, _ = read(PLAIN)
    path = pytorch_bin(state, source)
    config = convert(path, tmp_path / "a", layout="mixed", num_heads=2, num_experts_per_tok=3).config
    assert (config.attention_softmax_axis, config.num_experts_per_tok) == ("keys", 3)
    torch.save({"model_state_dict": state, "num_experts_per_token": 1}, source / "one.pt")
    assert convert(source / "one.pt", tmp_path / "b").config.num_experts_per_tok == 1
    assert convert(source / "one.pt", tmp_path / "c", num_experts_per_tok=4).config.num_experts_per_tok == 4


def test_half_precision_is_read_as_single(source, tmp_path):
    state, _ = read(PLAIN)
    path = pytorch_bin({key: value if value.is_complex() else value.half() for key, value in state.items()}, source)
    model = convert(path, tmp_path / "out")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("theta", [10000.0, 500.0, 123456.0])
@pytest.mark.parametrize("cosines", [False, True])
def test_rotary_base_is_read_off_the_table(theta, cosines):
    angles = torch.arange(64)[:, None] * theta ** (-torch.arange(0, 16, 2) / 16)
    table = angles.cos() if cosines else torch.polar(torch.ones_like(angles), angles)
    assert math.isclose(rope_theta(table), theta, rel_tol=1e-3)


def test_a_strange_rotary_table_is_left_aside():
    assert (
        rope_theta(torch.full((8, 4), torch.nan))
        == rope_theta(torch.zeros(8, 4))
        == rope_theta(torch.ones(8, 1))
        == 1e4
    )


@pytest.mark.parametrize("name", ["state_dict_27M", "state_dict_27M_train_path", "state_dict_27M_safetensors"])
def test_full_size_listing_converts(name, source, tmp_path):
    """Names, shapes and types of the published size, with random numbers."""
    g = torch.Generator().manual_seed(0)
    types = {"float32": torch.float32, "float16": torch.float16, "complex64": torch.complex64}
    state = {
        entry["name"]: (0.02 * torch.randn(entry["shape"], generator=g)).to(types[entry["dtype"]])
        for entry in json.loads((FIXTURES / f"{name}.json").read_text())
    }
    model = convert(pytorch_bin(state, source), tmp_path / "out")
    assert model.num_parameters() == 38_415_361
    c = model.config
    assert (c.num_features, c.hidden_size, c.num_hidden_layers, c.num_attention_heads) == (64, 256, 4, 4)
    assert (c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, c.kv_lora_rank) == (32, 32, 64, 32)
    assert (c.n_routed_experts, c.moe_intermediate_size, c.shared_expert_intermediate_size) == (8, 1024, 4096)
    assert (c.attention_softmax_axis, c.max_position_embeddings) == (
        "keys" if name == "state_dict_27M" else "heads",
        128,
    )


def full_size_state():
    """The deterministic weights behind `full_27M_io`: parameters by name, one generator."""
    listing = json.loads((FIXTURES / "state_dict_27M_train_path.json").read_text())
    shapes = {entry["name"]: entry["shape"] for entry in listing if entry["kind"] == "param"}
    g, state = torch.Generator().manual_seed(20250413), {}
    for name in sorted(shapes):
        noise = torch.randn(shapes[name], generator=g)
        if len(shapes[name]) == 2:
            state[name] = noise / shapes[name][-1] ** 0.5
        else:
            state[name] = 1 + 0.1 * noise if name.endswith("norm.weight") else 0.1 * noise
    return state


@pytest.mark.slow
@torch.no_grad()
def test_full_size_outputs_equal_original(source, tmp_path):
    if not FULL_IO.is_file():
        pytest.skip("full_27M_io is not among the fixtures")
    data = load_file(FULL_IO)
    g = torch.Generator().manual_seed(20)
    inputs = {"x32": torch.randn(2, 32, 64, generator=g), "x128": torch.randn(1, 128, 64, generator=g)}
    state = full_size_state()
    mixed = {key.replace(".attention.", ".attention.attention."): value for key, value in state.items()}
    compared = 0
    for layout, weights in [("standard", state), ("mixed", mixed)]:
        convert(pytorch_bin(weights, source), tmp_path / layout)
        model = AutoModel.from_pretrained(tmp_path / layout, trust_remote_code=True).eval()
        for name, x in inputs.items():
            for key, wanted in data.items():
                if layout in key and name in key and key.startswith("out."):
                    out = model(x)
                    ours = out.last_hidden_state if "hidden" in key else out.prediction[:, 0]
                    assert (ours - wanted).abs().max() <= 1e-5 * wanted.abs().max(), key
                    compared += 1
    assert compared >= 4


LOAD = """
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsf_llm":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NotInstalled())
import numpy as np, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    out = model(torch.from_numpy(np.load(sys.argv[2])))
np.savez(sys.argv[3], prediction=out.prediction.numpy(), hidden=out.last_hidden_state.numpy())
"""


@torch.no_grad()
def test_converted_folder_loads_without_this_package(source, tmp_path):
    model = convert(pytorch_bin(full_size_state(), source), tmp_path / "out").eval()
    x = torch.randn(2, 32, 64)
    np.save(tmp_path / "x.npy", x.numpy())
    (tmp_path / "elsewhere").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HOME": str(tmp_path / "home")}
    files = [str(tmp_path / name) for name in ("out", "x.npy", "y.npz")]
    command = [sys.executable, "-I", "-c", LOAD, *files]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, wanted = np.load(tmp_path / "y.npz"), model(x)
    np.testing.assert_allclose(found["prediction"], wanted.prediction, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["hidden"], wanted.last_hidden_state, rtol=1e-5, atol=1e-5)


# Bad checkpoints.


def spoilt(change):
    """A source whose state dict `change` has edited in place."""

    def build(state, folder):
        change(state)
        return pytorch_bin(state, folder)

    return build


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


def code(state, folder):
    (folder / "evil.pt").write_bytes(pickle.dumps({"model_state_dict": state, "x": Code(folder / "ran")}, protocol=2))
    return folder / "evil.pt"


def text(state, folder):
    (folder / "notes.pt").write_text("no checkpoint\n")
    return folder / "notes.pt"


def two(state, folder):
    training_pt(state, folder)
    predictor_pt(state, folder)
    return folder


def saved(content):
    def build(state, folder):
        torch.save(content, folder / "x.pt")
        return folder / "x.pt"

    return build


def brackets(state, folder):
    pytorch_bin(state, folder)
    (folder / "config.json").write_text("{")
    return folder


EXPERT = "layers.0.moe.experts.3.mlp.w2.weight"
HEADLESS = "layers.0.attention.kv_proj_b.weight"
BAD = {
    "missing": (spoilt(lambda s: s.pop(SMALL_Q)), f"tensor {SMALL_Q} is missing;"),
    "missing expert": (spoilt(lambda s: s.pop(EXPERT)), f"tensor {EXPERT} is missing;"),
    "missing head": (spoilt(lambda s: s.pop("head.weight")), "tensor head.weight is missing"),
    "missing input": (spoilt(lambda s: s.pop("input_projection.weight")), "tensor input_projection.weight is missing"),
    "missing layer": (
        spoilt(lambda s: [s.pop(k) for k in list(s) if k.startswith("layers.0.")]),
        r"tensor layers.0.\S+ is missing \(and",
    ),
    "extra": (spoilt(lambda s: s.update({"mscnn.conv.weight": torch.ones(2)})), "tensor mscnn.conv.weight belongs to"),
    "misshaped": (spoilt(lambda s: s.update({SMALL_Q: torch.ones(16, 32)})), SMALL_Q + r" has shape \[16, 32\]"),
    "flat": (spoilt(lambda s: s.update({EXPERT: torch.ones(3)})), EXPERT + r" has shape \[3\], the others ask for"),
    "no heads fit": (
        spoilt(lambda s: [s.update({k: torch.ones(47, 8)}) for k in list(s) if "kv_proj_b" in k]),
        "no number",
    ),
    "head of five": (spoilt(lambda s: s.update({"head.weight": torch.ones(5, 32)})), "head.weight has 5 outputs"),
    "nan": (spoilt(lambda s: s["final_norm.weight"].fill_(math.nan)), "tensor final_norm.weight holds NaN"),
    "inf": (spoilt(lambda s: s[EXPERT][0].fill_(math.inf)), f"tensor {EXPERT} holds NaN or inf"),
    "integers": (spoilt(lambda s: s.update({"head.bias": torch.ones(1).long()})), "tensor head.bias is of type int64"),
    "grouped": (
        spoilt(lambda s: s.update({"layers.0.attention.k_cache": torch.ones(4, 32, 1, 16)})),
        "caches of 1 heads belong to grouped attention",
    ),
    "cut pt": (lambda s, f: cut(training_pt(s, f), 0.6), "best_model.pt is damaged"),
    "empty pt": (lambda s, f: cut(training_pt(s, f), 0), "best_model.pt is damaged"),
    "cut safetensors": (lambda s, f: cut(converter_safetensors(s, f), 0.9), "model.safetensors is damaged"),
    "empty safetensors": (lambda s, f: cut(converter_safetensors(s, f), 0), "model.safetensors is damaged"),
    "code": (code, "evil.pt is no file of plain tensors"),
    "text": (text, "notes.pt is no file of plain tensors"),
    "a tensor": (saved(torch.ones(2)), "x.pt holds a Tensor, not named tensors"),
    "a list": (saved([1, 2]), "x.pt holds a list, not named tensors"),
    "numbers": (saved({"a": 1, 2: torch.ones(1)}), "x.pt holds no tensors"),
    "odd state": (saved({"model_state_dict": 3}), "x.pt holds a dict, not named tensors"),
    "another model": (saved({"wte.weight": torch.ones(2, 2)}), "pre_attn_norm.weight is missing, so this is no"),
    "no file": (lambda s, f: f / "nothing.pt", "nothing.pt does not exist"),
    "no weights": (lambda s, f: f, "source holds no weights"),
    "two files": (two, "source holds best_model.pt, predictor.pt: name the one"),
    "another kind": (lambda s, f: f.joinpath("a.onnx").write_text("") or f / "a.onnx", "unknown extension"),
    "bad config": (brackets, "config.json is no JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_checkpoint_gives_one_line_and_writes_nothing(kind, source, tmp_path, capsys, monkeypatch):
    from tsf_llm.serving.cli import main

    build, message = BAD[kind]
    path = build(read(PLAIN)[0], source)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["tsf-llm", "convert", str(path), str(tmp_path / "new" / "out")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tsf-llm: error: ")
    assert printed.err.count("\n") == 1
    assert re.search(message, printed.err), printed.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [SMALL_Q, "layers.1.moe.router.router.weight", "layers.0.pre_moe_norm.weight"])
def test_names_of_the_mixed_layout_are_told_as_they_are(name, source, tmp_path):
    state, _ = read(MIXED)
    name = name.replace(".attention.", ".attention.attention.")
    del state[name]
    with pytest.raises(ValueError, match=f"tensor {name} is missing;"):
        convert(pytorch_bin(state, source), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4}, "--num-heads 4: the weights have 2 heads"),
        ({"num_experts_per_tok": 5}, "5 experts per token: the weights have 4"),
        ({"layout": "gqa"}, "--layout gqa: plain or mixed"),
    ],
)
def test_options_that_contradict_are_refused(options, message, source, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert(pytorch_bin(read(PLAIN)[0], source), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_exists_is_not_overwritten(source, tmp_path):
    path = pytorch_bin(read(PLAIN)[0], source)
    (tmp_path / "empty").mkdir()
    convert(path, tmp_path / "empty")
    digest = hashlib.sha256((tmp_path / "empty" / "model.safetensors").read_bytes()).hexdigest()
    for taken in ("empty", "source/pytorch_model.bin"):
        with pytest.raises(FileExistsError, match="not an empty folder"):
            convert(path, tmp_path / taken)
    assert hashlib.sha256((tmp_path / "empty" / "model.safetensors").read_bytes()).hexdigest() == digest


def test_a_failed_save_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(self, folder, *args, **kwargs):
        Path(folder).mkdir()
        (Path(folder) / "half").write_text("")
        raise OSError("disk full")

    path = pytorch_bin(read(PLAIN)[0], source)
    monkeypatch.setattr(TsfLlmForPrediction, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(path, tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"source"}


def test_command_says_what_it_made(source, tmp_path):
    path = training_pt(read(PLAIN)[0], source)
    done = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "out"), "--num-experts-per-tok", "2"])
    assert done.exit_code == 0, done.output
    assert (
        "regression, 2 layers, 2 heads, softmax over heads, rmsnorm, 2 of 4 experts per token, 16 features"
        in done.output
    )
    text = CliRunner().invoke(app, ["convert", "--help"], terminal_width=200).output
    assert "Example: tsf-llm convert" in text
