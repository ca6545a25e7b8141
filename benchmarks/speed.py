"""Speed of TSF-LLM beside transformers' own DeepSeek-V3 of equal shape, in one run: a forward pass, a training step
(forward, backward, AdamW) and greedy generation with a cache. A ratio below 1 means that ours is faster.

examples:
    python -m tsf_llm.benchmarks.speed --json speed.json
    python -m tsf_llm.benchmarks.speed --device cuda --dtype bf16 --repeats 20
    OMP_NUM_THREADS=1 python -m tsf_llm.benchmarks.speed     # steadier where other programs run too

Design choices:
* The peer computes what we compute: its shape is read from our config and it starts from our weights, so that both
  choose the same experts at first. Its shared expert is narrowed to our width, which its config cannot say.
* Each model runs as its users run it. Ours reads bars (`past_values`) and charges for unbalanced experts in training;
  the peer reads tokens and does neither. What that costs is part of our time.
* Contestants take turns, see `evaluation/cost.py`. A matrix product runs in the same repeats; its best speed says
  what the machine could do.
"""

import copy
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Literal

import torch
import yaml
from rich.console import Console
from rich.progress import track
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedModel

from ..common.errors import one_line_errors
from ..common.files import write_json
from ..common.parser import Parser
from ..common.tables import Table
from ..configuration_tsf_llm import TsfLlmConfig
from ..evaluation.cost import Task, ratio, turns
from ..modeling_tsf_llm import TsfLlmForCausalLM
from ..training.starting_model import CONFIGS
from ..versions_tsf_llm import CACHE
from .results import Output, circumstances

OURS, PEER, EXPANDED = "tsf-llm", "deepseek-v3", "tsf-llm, expanded decode"
PRODUCT = "matrix product"
MEASURES = ("forward", "train", "generate")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRESETS = {"27M": "27m.yaml", "5M": "5m.yaml"}
TINY = {
    "num_features": 16,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 48,
}
ATTENTION_TYPES: dict[str, dict[str, Any]] = {  # whose caches are weighed
    "mla": {},
    "gqa": {"attention_type": "gqa", "num_key_value_heads": 2},
    "mha": {"attention_type": "mha"},
}


@dataclass(frozen=True)
class Settings:
    """What one run measures; `batch` windows of `bars` bars, then `steps` generated tokens."""

    device: str = "cpu"
    dtype: str = "fp32"
    repeats: int = 10
    batch: int = 8
    bars: int = 128
    steps: int = 64
    matmul_size: int = 1024


@dataclass
class Arguments(Output):
    """What to measure, and where."""

    repeats: int | None = field(
        default=None, metadata={"help": f"timed turns of each model (default {Settings.repeats}; 2 with --quick)"}
    )
    device: Literal["cpu", "cuda"] = field(default=Settings.device, metadata={"help": "where"})
    dtype: Literal["fp32", "bf16"] = field(default=Settings.dtype, metadata={"help": "of all weights"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats is not None and self.repeats < 1:
            raise ValueError(f"--repeats {self.repeats}: give at least 1")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no CUDA device here; use --device cpu")

    def settings(self) -> Settings:
        if self.quick:
            return Settings(self.device, self.dtype, self.repeats or 2, batch=2, bars=16, steps=4, matmul_size=128)
        large = 8192 if self.device == "cuda" else Settings.matmul_size
        return Settings(self.device, self.dtype, self.repeats or Settings.repeats, matmul_size=large)


Inputs = dict[str, torch.Tensor]
Contestants = dict[str, tuple[PreTrainedModel, Inputs]]


class ExpandedLinear(nn.Linear):
    """A linear layer that latent attention takes for an adapter's: it is not absorbed, decoding expands the cache."""


def preset(name: str) -> dict[str, Any]:
    """Shape of a training preset. Without its dropout, which the peer does not have."""
    settings = yaml.safe_load((CONFIGS / PRESETS[name]).read_text(encoding="utf-8"))
    return {**settings["model_config"], "hidden_dropout": 0.0, "attention_dropout": 0.0}


def peer_of(model: TsfLlmForCausalLM) -> DeepseekV3ForCausalLM:
    """transformers' DeepSeek-V3 with the shape and the weights of `model`."""
    ours = model.config
    same = (
        "vocab_size hidden_size moe_intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
        "n_shared_experts n_routed_experts num_experts_per_tok norm_topk_prob kv_lora_rank q_lora_rank "
        "qk_nope_head_dim qk_rope_head_dim v_head_dim hidden_act max_position_embeddings rope_parameters "
        "initializer_range pad_token_id tie_word_embeddings"
    )
    config = DeepseekV3Config(
        **{name: copy.deepcopy(getattr(ours, name)) for name in same.split()},
        rms_norm_eps=ours.norm_eps,
        first_k_dense_replace=0,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
        rope_interleave=False,
        bos_token_id=None,
        eos_token_id=None,  # neither model may stop before the last step
        num_mtp_layers=0,
    )
    peer = DeepseekV3ForCausalLM(config)
    for layer in peer.model.layers:
        narrow = type(layer.mlp.shared_experts)
        layer.mlp.shared_experts = narrow(config, intermediate_size=ours.shared_expert_intermediate_size)
    missing, unexpected = peer.load_state_dict(model.state_dict(), strict=False)
    assert all(name.endswith("e_score_correction_bias") for name in missing), missing
    assert all("input_projection" in name for name in unexpected), unexpected
    return peer


def expanded_copy(model: TsfLlmForCausalLM) -> TsfLlmForCausalLM:
    """`model` again, decoding with expanded keys and values."""
    model = copy.deepcopy(model)
    for layer in model.model.layers:
        layer.self_attn.kv_b_proj.__class__ = ExpandedLinear
    return model


def contestants(shape: dict[str, Any], settings: Settings) -> Contestants:
    """Models of one shape by name, each with its inputs: bars for ours, return tokens for the peer."""
    torch.manual_seed(0)
    size = (settings.batch, settings.bars)
    with torch.device(settings.device):
        config = TsfLlmConfig(
            **{**shape, "horizons": None, "max_position_embeddings": settings.bars + settings.steps}
        )  # without the laws, which the peer lacks
        ours = TsfLlmForCausalLM(config)
        models = {OURS: ours, PEER: peer_of(ours), EXPANDED: expanded_copy(ours)}
        tokens = {"input_ids": torch.randint(0, min(config.pad_token_id, config.bar_token_id), size)}
        bars = {"input_ids": torch.full(size, config.bar_token_id)}
        bars |= {"past_values": torch.randn(*size, config.num_features)}
        mask = {"attention_mask": torch.ones(size, dtype=torch.long)}
    return {
        name: (model.to(DTYPES[settings.dtype]), {**(tokens if name == PEER else bars), **mask})
        for name, model in models.items()
    }


@torch.no_grad()
def forward(model: PreTrainedModel, inputs: Inputs) -> None:
    model.eval()(**inputs, use_cache=False)


def train_step(model: PreTrainedModel, inputs: Inputs, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    optimizer.zero_grad()
    model(**inputs, labels=labels, use_cache=False).loss.backward()
    optimizer.step()


def generate(model: PreTrainedModel, inputs: Inputs, steps: int) -> None:
    tokens = model.eval().generate(**inputs, max_new_tokens=steps, do_sample=False)
    assert tokens.shape[1] == inputs["input_ids"].shape[1] + steps, "generation stopped early"


def tasks_of(models: Contestants, settings: Settings) -> dict[tuple[str, str], Task]:
    """What is timed, by measure and model; and the matrix product."""
    tasks: dict[tuple[str, str], Task] = {}
    for name in (OURS, PEER):
        tasks["forward", name] = partial(forward, *models[name])
    labels = models[PEER][1]["input_ids"]
    for name in (OURS, PEER):
        optimizer = torch.optim.AdamW(models[name][0].parameters(), lr=1e-5, fused=True)
        tasks["train", name] = partial(train_step, *models[name], labels, optimizer)
    for name in (OURS, PEER, EXPANDED):
        tasks["generate", name] = partial(generate, *models[name], settings.steps)
    size = (settings.matmul_size, settings.matmul_size)
    left = torch.randn(size, device=settings.device, dtype=DTYPES[settings.dtype])
    product = partial(torch.mm, left, left.T.contiguous())
    return tasks | {(PRODUCT, str(i)): product for i in range(5)}


@torch.no_grad()
def cache_bytes_per_token(model: PreTrainedModel, inputs: Inputs) -> int:
    """Bytes that all layers of the cache hold for one token, weighed after a real forward pass."""
    layers = model.eval()(**inputs, use_cache=True)[CACHE].layers
    held = sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values))
    return held // inputs["input_ids"].numel()


def weigh_caches(shape: dict[str, Any], inputs: Inputs, settings: Settings) -> dict[str, int]:
    """Cache bytes per token of our attention types at one shape."""
    weights = {}
    for kind, attention in ATTENTION_TYPES.items():
        model = TsfLlmForCausalLM(TsfLlmConfig(**{**shape, **attention, "horizons": None})).to(
            settings.device, DTYPES[settings.dtype]
        )
        weights[kind] = cache_bytes_per_token(model, inputs)
    return weights


def measure_shape(shape_name: str, shape: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Rows, ratios, cache weights and the matrix product's speed of one shape, with a progress bar on stderr."""
    models = contestants(shape, settings)
    repeats = track(range(settings.repeats), f"{shape_name} repeats", console=Console(stderr=True))
    times = turns(tasks_of(models, settings), repeats)
    rows = []
    for name in (OURS, PEER):
        row = {"model": f"{name} {shape_name}", "shape": shape_name, "params": models[name][0].num_parameters()}
        for measure in MEASURES:
            row[f"{measure}_ms"] = 1e3 * median(times[measure, name])
            row[f"{measure}_ms_min"] = 1e3 * min(times[measure, name])
        rows.append({**row, "cache_bytes_per_token": cache_bytes_per_token(*models[name])})
    absorbed, expanded = times["generate", OURS], times["generate", EXPANDED]
    gemm_seconds = min(seconds for (measure, _), taken in times.items() if measure == PRODUCT for seconds in taken)
    return {
        "rows": rows,
        "ratios": {f"{name}_{shape_name}": ratio(times[name, OURS], times[name, PEER]) for name in MEASURES},
        "decode": {
            "shape": shape_name,
            "absorbed_generate_ms": 1e3 * median(absorbed),
            "expanded_generate_ms": 1e3 * median(expanded),
            "absorbed_over_expanded": ratio(absorbed, expanded),
        },
        "cache": {"shape": shape_name, **weigh_caches(shape, models[OURS][1], settings)},
        "gemm_gflops": 2 * settings.matmul_size**3 / gemm_seconds / 1e9,
    }


def run(shapes: dict[str, dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """Measures every shape."""
    results = [measure_shape(name, shape, settings) for name, shape in shapes.items()]
    device = torch.cuda.get_device_name() if settings.device == "cuda" else "cpu"
    return {
        "rows": [row for result in results for row in result["rows"]],
        "gemm_gflops": max(result["gemm_gflops"] for result in results),
        "ratios": {key: value for result in results for key, value in result["ratios"].items()},
        "decode": [result["decode"] for result in results],
        "cache_bytes_per_token": [result["cache"] for result in results],
        "settings": vars(settings),
        **circumstances("torch", "transformers", device=device, torch_threads=torch.get_num_threads()),
    }


def show(results: dict[str, Any], console: Console) -> None:
    """The results as text."""
    settings, machine, versions = results["settings"], results["machine"], results["versions"]
    lines = []
    for row in results["rows"]:
        times = [f"{row[f'{measure}_ms']:.1f}" for measure in MEASURES]
        lines.append((row["model"], f"{row['params']:,}", *times, f"{row['cache_bytes_per_token']:,}"))
        if row["model"].startswith(PEER):
            ratios = [f"{results['ratios'][measure + '_' + row['shape']]:.3f}" for measure in MEASURES]
            lines.append(("ours / peer", "", *ratios, ""))
    table = Table(("model", "parameters", *MEASURES, "cache B/token"), lines)
    title = (
        f"median ms of {settings['repeats']} repeats, {settings['dtype']} on {machine['device']}, "
        f"batch {settings['batch']} x {settings['bars']}, {settings['steps']} steps generated"
    )
    console.print(table.terminal(title=title))
    for decode, cache in zip(results["decode"], results["cache_bytes_per_token"], strict=True):
        console.print(
            f"{decode['shape']}: decoding absorbed / expanded {decode['absorbed_over_expanded']:.3f}; "
            f"cache bytes per token mla {cache['mla']:,}, gqa {cache['gqa']:,}, mha {cache['mha']:,}",
            soft_wrap=True,
        )
    console.print(
        f"matrix product {results['gemm_gflops']:.0f} GFLOP/s; {machine['torch_threads']} torch threads on "
        f"{machine['cpu_count']} cores; torch {versions['torch']}, transformers {versions['transformers']}",
        soft_wrap=True,
    )


@one_line_errors("speed")
def main(arguments: list[str] | None = None) -> int:
    (parsed,) = Parser(Arguments, prog="speed", description=__doc__).parse_args_and_config(arguments)
    shapes = {"tiny": TINY} if parsed.quick else {name: preset(name) for name in PRESETS}
    results = run(shapes, parsed.settings())
    show(results, Console())
    if parsed.json is not None:
        write_json(results, parsed.json)
    return 0


if __name__ == "__main__":
    main()
