"""The original's arithmetic, against what the original itself gave (`fixtures/original`), and beyond that against a
plain re-statement of its formulas for other heads, ranks, experts and lengths.

The fixtures hold `state.<name>` under the original's names, `in.*`, `out.*`, and its arguments in their metadata."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from transformers.cache_utils import DynamicCache

from tsf_llm.configuration_tsf_llm import TsfLlmConfig
from tsf_llm.modeling_tsf_llm import (
    TsfLlmBatchNorm,
    TsfLlmForCausalLM,
    TsfLlmForPrediction,
    TsfLlmLatentAttention,
    TsfLlmModel,
    TsfLlmMoE,
    TsfLlmRotaryEmbedding,
)
from tsf_llm.original.convert import Sizes, infer_config
from tsf_llm.original_modeling_tsf_llm import attention_over_pooled_heads, rotate_pairs

FIXTURES = Path(__file__).parent / "fixtures" / "original"
EVAL = sorted(path.stem for path in FIXTURES.glob("tiny_*.safetensors"))
TRAIN = sorted(path.stem for path in FIXTURES.glob("train_*.safetensors"))
ATTENTION = {"num_features": 4, "hidden_size": 32, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}


def read(name):
    """(metadata, weights under the original's names, everything else) of a fixture."""
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    return metadata, state, {key: value for key, value in tensors.items() if not key.startswith("state.")}


def load(state, **overrides):
    """Our model with the original's weights, renamed by the model's own mapping."""
    tensors = {key: value for key, value in state.items() if "freqs_buffer" not in key}
    sizes = Sizes(Path("checkpoint.pt"), {key: value for key, value in tensors.items() if "_cache" not in key})
    config = infer_config(sizes, {"max_seq_len": 32}, layout=None, num_heads=None, num_experts_per_tok=None)
    config = TsfLlmConfig(**{**config.to_dict(), **overrides})
    return TsfLlmForPrediction.from_pretrained(None, config=config, state_dict=tensors, attn_implementation="eager")


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def as_original(prediction):
    """[B,1] and [B,1,3] -> [B] and [B,3]: the original has no axis for steps."""
    return prediction.squeeze(1)


def test_fixtures_are_there():
    assert len(EVAL) == 12
    assert len(TRAIN) == 3


@pytest.mark.parametrize("name", EVAL)
@torch.no_grad()
def test_evaluation_equals_original(name):
    _, state, data = read(name)
    model = load(state).eval()
    out = model(data["in.x"], output_hidden_states=True, output_attentions=True)
    assert relative_error(as_original(out.prediction), data["out.prediction"]) < 1e-5
    assert relative_error(out.last_hidden_state, data["out.last_hidden_state"]) < 1e-5
    assert len(out.hidden_states) == 3  # embedding, input of the second block, final norm: as in the original
    for i, hidden in enumerate(out.hidden_states):
        assert relative_error(hidden, data[f"out.hidden_states.{i}"]) < 1e-5
    axes = (0, 2, 3, 1) if "standard" in name else (0, 2, 1, 3)  # ours are [B,H,T,S] in both layouts
    for i, weights in enumerate(out.attentions):
        assert relative_error(weights.permute(axes), data[f"out.attentions.{i}"]) < 1e-5
    if "classification" in name:
        torch.testing.assert_close(out.logits.softmax(-1), out.prediction)
    else:
        assert out.prediction.shape == (3, 1)


@pytest.mark.parametrize("name", EVAL)
@torch.no_grad()
def test_other_lengths_and_positions_equal_original(name):
    _, state, data = read(name)
    model = load(state).eval()
    runs = {"pos": {"past_values": data["in.x"], "position_ids": data["in.position_ids"]}}
    runs |= {"x1": {"past_values": data["in.x1"]}}
    if "in.x_long" in data:
        runs |= {"long": {"past_values": data["in.x_long"]}}
    assert ("long" in runs) == ("standard" in name)
    for run, inputs in runs.items():
        out = model(**inputs)
        for ours, theirs in [
            (as_original(out.prediction), data[f"out.{run}.prediction"]),
            (out.last_hidden_state, data[f"out.{run}.last_hidden_state"]),
        ]:
            assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", EVAL)
@torch.no_grad()
def test_sdpa_equals_eager(name):
    _, state, data = read(name)
    model = load(state).eval()
    eager = model(data["in.x"]).last_hidden_state
    model.set_attn_implementation("sdpa")
    assert relative_error(model(data["in.x"]).last_hidden_state, eager) < 1e-5


def by_original_name(model):
    """Gradients and buffers of `model` under the original's names, `attention.` written once."""
    names = {
        "input_layernorm": "pre_attn_norm",
        "post_attention_layernorm": "pre_moe_norm",
        "self_attn.": "attention.",
        "q_a_proj": "q_proj_a",
        "q_b_proj": "q_proj_b",
        "q_a_layernorm": "q_norm",
        "kv_a_proj_with_mqa": "kv_proj_a",
        "kv_a_layernorm": "kv_norm",
        "kv_b_proj": "kv_proj_b",
        "o_proj": "out_proj",
        "mlp.gate.": "moe.router.router.",
        "mlp.shared_experts.gate_proj": "moe.shared_expert.w1",
        "mlp.shared_experts.up_proj": "moe.shared_expert.w3",
        "mlp.shared_experts.down_proj": "moe.shared_expert.w2",
    }
    found = {}
    for name, tensor in {**{n: p.grad for n, p in model.named_parameters()}, **dict(model.named_buffers())}.items():
        name = name.removeprefix("model.")
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        name = "final_" + name if name.startswith("norm.") else name
        stem = name.rsplit(".mlp.", 1)[0] + ".moe.experts"
        if name.endswith("experts.gate_up_proj"):
            for i, both in enumerate(tensor):
                found[f"{stem}.{i}.mlp.w1.weight"], found[f"{stem}.{i}.mlp.w3.weight"] = both.chunk(2)
        elif name.endswith("experts.down_proj"):
            found |= {f"{stem}.{i}.mlp.w2.weight": down for i, down in enumerate(tensor)}
        else:
            found[name] = tensor
    return found


@pytest.mark.parametrize("name", TRAIN)
def test_training_step_equals_original(name):
    metadata, state, data = read(name)
    model = load(state).train()
    out = model(data["in.x"], labels=data["in.y"][:, None])
    out.loss.backward()
    assert relative_error(out.loss.detach(), data["out.loss"][0]) < 1e-5
    assert relative_error(as_original(out.prediction.detach()), data["out.prediction"]) < 1e-5
    ours = by_original_name(model)
    compared = 0
    for key, theirs in data.items():
        kind, _, tensor = key.partition(".")
        if kind in (
            "grad",
            "after",
        ):  # BatchNorm takes any shift out again: some of its gradients are nothing but noise
            found = ours[tensor.replace("attention.attention.", "attention.")]
            torch.testing.assert_close(
                found, theirs, rtol=1e-5, atol=max(1e-5 * theirs.abs().max().item(), 1e-5), msg=key
            )
            compared += 1
    without = json.loads(metadata["params_without_grad"])
    assert compared >= 50
    for tensor in without:
        gradient = ours[tensor.replace("attention.attention.", "attention.")]
        assert gradient is None if "router" in tensor else not gradient.any()


@pytest.mark.parametrize("labels", [1, 2])
def test_labels_of_one_step_may_lack_its_axis(labels):
    _, state, data = read("train_standard_rmsnorm")
    y = data["in.y"] if labels == 1 else data["in.y"][:, None]
    assert relative_error(load(state)(data["in.x"], labels=y).loss.detach(), data["out.loss"][0]) < 1e-5


@pytest.mark.parametrize(("setting", "theta"), [("d8_t10000_s1", 1e4), ("d32_t10000_s1", 1e4), ("d8_t1000_s2", None)])
def test_rope_equals_original(setting, theta):
    data = load_file(FIXTURES / "module_rope.safetensors")
    x, positions = data[f"{setting}.x"], data[f"{setting}.pos"]
    width = x.shape[-1]
    theta = theta or 1000 * (1 / 2) ** (width / (width - 2))
    rotary = TsfLlmRotaryEmbedding(
        TsfLlmConfig(qk_rope_head_dim=width, rope_parameters={"rope_type": "default", "rope_theta": theta})
    )
    everywhere = torch.arange(x.shape[1])[None].expand_as(positions)
    for name, given in [("out_pos", positions), ("out_default", everywhere)]:
        tables = rotary(x, given)
        ours = rotate_pairs(x.transpose(1, 2), *tables).transpose(1, 2)
        assert relative_error(ours, data[f"{setting}.{name}"]) < 1e-5


def test_experts_equal_original():
    _, state, data = read("module_moe_softmax")
    moe = TsfLlmMoE(
        TsfLlmConfig(
            hidden_size=32,
            n_routed_experts=4,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=96,
            router_weighting="raw_logits",
        )
    )
    fill_moe(moe, state)
    _, weights, index = moe.gate(data["in.x"].flatten(0, 1))
    assert torch.equal(index, data["out.router_indices"])
    scale = 1.5  # of this fixture's mixing weights; published models have 1
    assert relative_error(weights * scale, data["out.router_weights"]) < 1e-5
    shared = moe.shared_experts(data["in.x"])
    routed = (moe(data["in.x"]) - shared) * scale
    assert relative_error((routed + shared).detach(), data["out.y"]) < 1e-5


def fill_moe(moe, state):
    gate_up = [torch.cat((state[f"experts.{e}.mlp.w1.weight"], state[f"experts.{e}.mlp.w3.weight"])) for e in range(4)]
    moe.load_state_dict(
        {
            "gate.weight": state["router.router.weight"],
            "experts.gate_up_proj": torch.stack(gate_up),
            "experts.down_proj": torch.stack([state[f"experts.{e}.mlp.w2.weight"] for e in range(4)]),
            "shared_experts.gate_proj.weight": state["shared_expert.w1.weight"],
            "shared_experts.up_proj.weight": state["shared_expert.w3.weight"],
            "shared_experts.down_proj.weight": state["shared_expert.w2.weight"],
        }
    )


@pytest.mark.parametrize(("inner", "axis"), [("absorb", "keys"), ("standard", "heads"), ("gqa", "pooled_heads")])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_attention_and_its_cached_steps_equal_original(inner, axis, implementation):
    _, state, data = read(f"module_attn_{inner}_h4_q0")
    config = TsfLlmConfig(
        **ATTENTION,
        v_head_dim=16,
        attention_softmax_axis=axis,
        is_causal=False,
        rope_interleaved=True,
        original_arithmetic=True,
    )
    config._attn_implementation = implementation
    attention = TsfLlmLatentAttention(config, 0).eval()
    attention.scaling *= 1.3  # of these fixtures; published models have 1
    weights = {key.removeprefix("attention."): value for key, value in state.items() if "cache" not in key}
    names = {"kv_proj_a": "kv_a_proj_with_mqa", "kv_proj_b": "kv_b_proj", "out_proj": "o_proj"}
    names |= {"kv_norm": "kv_a_layernorm", "q_proj": "q_proj"}
    attention.load_state_dict({names[k.split(".")[0]] + "." + k.split(".")[1]: v for k, v in weights.items()})
    rotary, x = TsfLlmRotaryEmbedding(config), data["in.x"]

    def run(start, stop, cache):
        part = x[:, start:stop]
        return attention(part, rotary(part, torch.arange(start, stop)[None]), None, cache=cache, is_causal=False)

    whole, seen = run(0, 11, None)
    assert relative_error(whole, data["out.y"]) < 1e-5
    if axis == "pooled_heads":  # the original views heads as groups of means
        assert torch.equal(seen.transpose(1, 2), data["out.attn"].flatten(2, 3))
    elif implementation == "eager" or axis == "heads":
        assert relative_error(seen.permute((0, 2, 3, 1) if axis == "heads" else (0, 2, 1, 3)), data["out.attn"]) < 1e-5
    cache = DynamicCache(config=config)
    steps = [run(0, 8, cache)[0], *(run(i, i + 1, cache)[0] for i in range(8, 11))]
    assert relative_error(torch.cat(steps, dim=1), data["out.incremental"]) < 1e-5


@torch.no_grad()
def test_pooled_heads_average_groups_and_weigh_the_means():
    """Eight heads, hence two means: written out head by head."""
    query, key, value = torch.randn(3, 2, 8, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    module = torch.nn.Module().eval()
    out, weights = attention_over_pooled_heads(module, query, key, value, None, scaling=0.5)
    for mean in range(2):
        pooled = [part[:, mean::2].mean(dim=1) for part in (key, value)]
        scores = torch.einsum("bhsn,btn->bhst", query, pooled[0]) * 0.5
        torch.testing.assert_close(
            weights[..., mean].log() - weights[..., 0].log(),
            scores - (torch.einsum("bhsn,btn->bhst", query, key[:, 0::2].mean(dim=1)) * 0.5),
        )
    expected = sum(torch.einsum("bhst,btv->bshv", weights[..., m], value[:, m::2].mean(dim=1)) for m in range(2))
    torch.testing.assert_close(out, expected)


# The formulas of the original once more, apart from the code under test.


def random_state(*, D, H, N, r, v, R, rq, F_, inner, E, layers, norm, outputs, mixed, seed):
    g = torch.Generator().manual_seed(seed)

    def matrix(rows, columns):
        return torch.randn(rows, columns, generator=g) / columns**0.5

    def vector(size, base=0.0):
        return base + 0.1 * torch.randn(size, generator=g)

    def norm_of(name):
        parts = {f"{name}.weight": vector(D, 1.0)}
        if norm != "rmsnorm":
            parts[f"{name}.bias"] = vector(D)
        if norm == "batch_norm":
            parts |= {f"{name}.running_mean": vector(D), f"{name}.running_var": vector(D, 1.0)}
        if norm == "dynamic_tanh":
            parts[f"{name}.alpha"] = vector(1, 0.5)
        return parts

    def mlp(name, width):
        return {f"{name}.w1.weight": matrix(width, D), f"{name}.w3.weight": matrix(width, D)} | {
            f"{name}.w2.weight": matrix(D, width)
        }

    state = {"input_projection.weight": matrix(D, F_), "input_projection.bias": vector(D)}
    for i in range(layers):
        a = f"layers.{i}.attention." + ("attention." if mixed else "")
        state |= norm_of(f"layers.{i}.pre_attn_norm") | norm_of(f"layers.{i}.pre_moe_norm")
        if rq:
            state |= {a + "q_proj_a.weight": matrix(rq, D), a + "q_proj_b.weight": matrix(H * (N + r), rq)}
            state |= {a + "q_norm.weight": vector(rq, 1.0), a + "q_norm.bias": vector(rq)}
        else:
            state[a + "q_proj.weight"] = matrix(H * (N + r), D)
        state |= {a + "kv_proj_a.weight": matrix(R + r, D), a + "kv_proj_b.weight": matrix(H * (N + v), R)}
        state |= {a + "kv_norm.weight": vector(R, 1.0), a + "kv_norm.bias": vector(R)}
        state |= {a + "out_proj.weight": matrix(D, H * v), f"layers.{i}.moe.router.router.weight": matrix(E, D)}
        state |= mlp(f"layers.{i}.moe.shared_expert", 4 * inner)
        for e in range(E):
            state |= mlp(f"layers.{i}.moe.experts.{e}.mlp", inner)
    return state | norm_of("final_norm") | {"head.weight": matrix(outputs, D), "head.bias": vector(outputs)}


def original(state, x, *, H, r, R, mixed, K=2, limit=32, positions=None):
    """(prediction, hidden states after the final norm) by the original's formulas."""
    B, S, _ = x.shape
    positions = torch.arange(S)[None].expand(B, S) if positions is None else positions
    angles = (positions % min(S, limit)).double()[..., None] * 10000.0 ** (-torch.arange(0, r, 2).double() / r)
    turn = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)  # [B,S,r/2]

    def norm(name, y):
        p = {key.rsplit(".", 1)[1]: value for key, value in state.items() if key.startswith(name + ".")}
        if "alpha" in p:
            return torch.tanh(p["alpha"] * y) * p["weight"] + p["bias"]
        if "running_var" in p:
            return (y - p["running_mean"]) / (p["running_var"] + 1e-5).sqrt() * p["weight"] + p["bias"]
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * p["weight"]

    def layer_norm(name, y):
        return F.layer_norm(y, y.shape[-1:], state[name + ".weight"], state[name + ".bias"])

    def rotate(y):
        pairs = torch.view_as_complex(y.reshape(B, S, -1, r // 2, 2)) * turn[:, :, None]
        return torch.view_as_real(pairs).flatten(-2)

    def mlp(name, y):
        gate, up = y @ state[name + ".w1.weight"].T, y @ state[name + ".w3.weight"].T
        return (F.silu(gate) * up) @ state[name + ".w2.weight"].T

    h = x @ state["input_projection.weight"].T + state["input_projection.bias"]
    layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    for i in range(layers):
        a, y = f"layers.{i}.attention." + ("attention." if mixed else ""), norm(f"layers.{i}.pre_attn_norm", h)
        if a + "q_proj.weight" in state:
            q = y @ state[a + "q_proj.weight"].T
        else:
            q = layer_norm(a + "q_norm", y @ state[a + "q_proj_a.weight"].T) @ state[a + "q_proj_b.weight"].T
        q = q.view(B, S, H, -1)
        N = q.shape[-1] - r
        compressed = y @ state[a + "kv_proj_a.weight"].T
        kv = (layer_norm(a + "kv_norm", compressed[..., :R]) @ state[a + "kv_proj_b.weight"].T).view(B, S, H, -1)
        k_rope = rotate(compressed[..., R:]).expand(-1, -1, H, -1)
        scores = torch.einsum("bthn,bshn->btsh", q[..., :N], kv[..., :N])
        scores = (scores + torch.einsum("bthr,bshr->btsh", rotate(q[..., N:]), k_rope)) / (N + r) ** 0.5
        weights = scores.softmax(2 if mixed else 3)
        context = torch.einsum("btsh,bshv->bthv", weights, kv[..., N:]).reshape(B, S, -1)
        h = h + context @ state[a + "out_proj.weight"].T
        y = norm(f"layers.{i}.pre_moe_norm", h).reshape(B * S, -1)
        logits = y @ state[f"layers.{i}.moe.router.router.weight"].T
        mixed_in = mlp(f"layers.{i}.moe.shared_expert", y)
        for token in range(B * S):
            chosen = logits[token].softmax(-1).topk(K).indices
            for e, w in zip(chosen.tolist(), logits[token, chosen], strict=True):
                mixed_in[token] += w * mlp(f"layers.{i}.moe.experts.{e}.mlp", y[token])
        h = h + mixed_in.view(B, S, -1)
    h = norm("final_norm", h)
    logits = h[:, -1] @ state["head.weight"].T + state["head.bias"]
    return (logits.squeeze(-1) if logits.shape[-1] == 1 else logits.softmax(-1)), h


SHAPE = {"D": 32, "H": 4, "N": 6, "r": 4, "v": 10, "R": 12, "rq": 0, "F_": 9, "inner": 20, "E": 5, "layers": 3}
OTHERS = {
    "8 heads": {"H": 8},
    "query rank": {"rq": 8},
    "8 heads, query rank": {"H": 8, "rq": 8},
    "one head": {"H": 1},
    "12 experts": {"E": 12},
    "one layer": {"layers": 1},
}


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("norm", ["rmsnorm", "batch_norm", "dynamic_tanh"])
@pytest.mark.parametrize("other", OTHERS)
@torch.no_grad()
def test_other_shapes_equal_the_formulas(mixed, norm, other):
    shape = {**SHAPE, **OTHERS[other]}
    outputs = 3 if "heads" in other else 1
    state = random_state(**shape, norm=norm, outputs=outputs, mixed=mixed, seed=len(other))
    model = load(state).eval()
    tolerance = 1e-4 if norm == "batch_norm" else 1e-5  # it lets activations grow
    facts = {"H": shape["H"], "r": shape["r"], "R": shape["R"], "mixed": mixed}
    g = torch.Generator().manual_seed(1)
    for S in (1, 2, 7, 32, 45):
        x = torch.randn(2, S, 9, generator=g)
        prediction, hidden = original(state, x, **facts)
        out = model(x)
        assert relative_error(out.last_hidden_state, hidden) < tolerance
        assert relative_error(as_original(out.prediction), prediction) < tolerance
    positions = torch.randint(0, 100, (2, 45), generator=g)
    hidden = original(state, x, positions=positions, **facts)[1]
    assert relative_error(model(x, position_ids=positions).last_hidden_state, hidden) < tolerance


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("K", [1, 3])
@torch.no_grad()
def test_other_numbers_of_experts_per_token_equal_the_formulas(mixed, K):
    state = random_state(**SHAPE, norm="rmsnorm", outputs=1, mixed=mixed, seed=3)
    x = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(5))
    hidden = original(state, x, H=4, r=4, R=12, mixed=mixed, K=K)[1]
    assert relative_error(load(state, num_experts_per_tok=K).eval()(x).last_hidden_state, hidden) < 1e-5


# What the original lacks and a model of ours has.


@pytest.fixture(params=["plain", "mixed"])
def state(request):
    return random_state(**SHAPE, norm="rmsnorm", outputs=1, mixed=request.param == "mixed", seed=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_padding_changes_nothing(state, implementation):
    model = load(state).eval()
    model.set_attn_implementation(implementation)
    x = torch.randn(1, 9, 9)
    padded, mask = torch.cat((torch.full((1, 4, 9), 7.0), x), dim=1), torch.tensor([[0] * 4 + [1] * 9])
    alone = model(x).prediction
    assert relative_error(model(padded, attention_mask=mask).prediction, alone) < 1e-5
    assert relative_error(model(torch.cat((x, x + 1))).prediction[:1], alone) < 1e-5


def assert_same(again, model, x):
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert relative_error(again.eval()(x).prediction, model(x).prediction) < 1e-5


@torch.no_grad()
def test_original_names_load_from_a_folder_and_are_saved_as_ours(state, tmp_path):
    model, x = load(state).eval(), torch.randn(2, 7, 9)
    model.save_pretrained(tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(ours) == set(model.state_dict())
    theirs = tmp_path / "theirs"
    model.save_pretrained(theirs)  # config and code; the weights are replaced
    caches = [f"layers.{i}.attention.{kind}_cache" for i in range(3) for kind in ("kv", "pe", "k", "v")]
    buffers = {"rotary_emb.freqs_buffer": torch.zeros(32, 2), **{name: torch.zeros(2, 32, 4) for name in caches}}
    save_file({**state, **buffers}, theirs / "model.safetensors", metadata={"format": "pt"})
    for cls in (AutoModel, TsfLlmForPrediction):
        loaded, info = cls.from_pretrained(theirs, trust_remote_code=True, output_loading_info=True)
        assert not any(info.values()), info
        assert_same(loaded, model, x)
        loaded.save_pretrained(tmp_path / "again")
        assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(ours)
        assert_same(cls.from_pretrained(tmp_path / "again", trust_remote_code=True), model, x)
    base, info = TsfLlmModel.from_pretrained(theirs, output_loading_info=True)
    assert info["missing_keys"] == {"embed_tokens.weight"}
    assert relative_error(base.eval()(x).last_hidden_state, model(x).last_hidden_state) < 1e-5


@torch.no_grad()
def test_names_of_the_original_survive_a_save_on_request(state, tmp_path):
    model, x = load(state).eval(), torch.randn(2, 7, 9)
    model.save_pretrained(tmp_path, save_original_format=True)
    saved = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith("experts.4.mlp.w2.weight") for name in saved)
    assert any(name.endswith("shared_expert.w2.weight") for name in saved)
    again, info = TsfLlmForPrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_same(again, model, x)


def test_adapters_still_save_and_load(state, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    lora = LoraConfig(target_modules=["q_proj", "kv_b_proj", "o_proj"], init_lora_weights=False)
    adapted = get_peft_model(load(state).eval(), lora)
    x = torch.randn(2, 7, 9)
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(state).eval(), tmp_path).eval()
    wanted = adapted.eval()(past_values=x).prediction
    assert torch.equal(again(past_values=x).prediction, wanted)
    assert not torch.equal(load(state).eval()(x).prediction, wanted)


def test_running_variance_is_biased():
    norm, x = TsfLlmBatchNorm(3, 1e-5, correction=0).train(), torch.randn(4, 5, 3)
    mask = torch.ones(4, 5, dtype=torch.long)
    mask[0, :3] = 0
    norm(x, mask)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x[mask.bool()].var(0, correction=0))
    torch.testing.assert_close(norm.running_mean, 0.1 * x[mask.bool()].mean(0))


@pytest.mark.parametrize("attention_type", ["mla", "gqa", "mha"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_a_new_model_can_look_both_ways(tiny_model, attention_type, implementation):
    """Against the causal model: the same at the last of one layer's positions, another elsewhere."""
    options = {"attention_type": attention_type, "num_hidden_layers": 1, "attn_implementation": implementation}
    both, causal = (tiny_model(TsfLlmForPrediction, is_causal=flag, **options) for flag in (False, True))
    x = torch.randn(2, 6, 5)
    ahead = x.clone()
    ahead[:, -1] += 1
    torch.testing.assert_close(both(x).prediction, causal(x).prediction)
    assert not torch.allclose(both(x).last_hidden_state[:, 0], both(ahead).last_hidden_state[:, 0])
    assert torch.equal(causal(x).last_hidden_state[:, 0], causal(ahead).last_hidden_state[:, 0])


@torch.no_grad()
def test_interleaving_is_a_question_of_layout(tiny_model):
    """Rows of the projections put in the other order give the same model."""
    half = tiny_model(TsfLlmForPrediction)
    pairs = tiny_model(TsfLlmForPrediction, rope_interleaved=True)
    order, x = torch.tensor([0, 2, 1, 3]), torch.randn(2, 6, 5)
    for layer in pairs.model.layers:
        q, k = layer.self_attn.q_proj.weight.view(4, 12, 32)[:, 8:], layer.self_attn.kv_a_proj_with_mqa.weight[12:]
        q.copy_(q[:, order].clone())
        k.copy_(k[order].clone())
    torch.testing.assert_close(pairs(x).prediction, half(x).prediction)


def test_a_language_model_must_be_causal(tiny_config):
    with pytest.raises(ValueError, match="must not see ahead"):
        TsfLlmForCausalLM(tiny_config(is_causal=False))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"original_arithmetic": True}, "set is_causal=False"),
        ({"original_arithmetic": True, "is_causal": False, "attention_type": "gqa"}, "attention_type='mla'"),
        ({"attention_softmax_axis": "heads"}, "needs original_arithmetic=True"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(StrictDataclassError) as raised:
        TsfLlmConfig(**fields)
    assert message in str(raised.value.__cause__)


@pytest.mark.parametrize(
    "fields", [{"attention_softmax_axis": "rows"}, {"router_weighting": "x"}, {"original_arithmetic": "yes"}]
)
def test_unknown_values_are_refused(fields):
    with pytest.raises(StrictDataclassError):
        TsfLlmConfig(**fields)
