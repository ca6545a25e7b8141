"""Speed of TSF-LLM beside transformers' own DeepSeek-V3 of equal shape, in one run.

    python -m tsf_llm.benchmarks.speed --json speed.json
    python -m tsf_llm.benchmarks.speed --device cuda --dtype bf16 --repeats 20
    OMP_NUM_THREADS=1 python -m tsf_llm.benchmarks.speed     # steadier where other programs run too

Design choices:
* The peer computes what we compute: its shape is read from our config and it starts from our weights, so that both
  choose the same experts at first. Its shared expert is narrowed to our width, which its config cannot say.
* Each model runs as its users run it. Ours reads bars (`past_values`) and charges for unbalanced experts in training;
  the peer reads tokens and does neither. What that costs is part of our time.
* Contestants take turns within each repeat, in alternating order, and a ratio is the median of the ratios of single
  repeats: a machine that slows down meanwhile slows both.
* A matrix product runs in the same repeats; its best speed says what the machine could do.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedModel

from ..configuration_tsf_llm import TsfLlmConfig
from ..modeling_tsf_llm import TsfLlmForCausalLM
from ..versions_tsf_llm import CACHE

OURS, PEER, EXPANDED = "tsf-llm", "deepseek-v3", "tsf-llm, expanded decode"
MEASURES = ("forward", "train", "generate")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CONFIGS = Path(__file__).parents[1] / "train_scripts" / "configs"
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


def contestants(
    shape: dict[str, Any], settings: Settings
) -> dict[str, tuple[PreTrainedModel, dict[str, torch.Tensor]]]:
    """Models of one shape by name, each with its inputs: bars for ours, return tokens for the peer."""
    torch.manual_seed(0)
    config = TsfLlmConfig(**{**shape, "max_position_embeddings": settings.bars + settings.steps})
    ours = TsfLlmForCausalLM(config)
    models = {OURS: ours, PEER: peer_of(ours), EXPANDED: expanded_copy(ours)}
    size = (settings.batch, settings.bars)
    tokens = torch.randint(0, min(config.pad_token_id, config.bar_token_id), size)
    mask = torch.ones_like(tokens)
    bars = {"input_ids": torch.full(size, config.bar_token_id), "past_values": torch.randn(*size, config.num_features)}
    inputs = {OURS: bars, PEER: {"input_ids": tokens}, EXPANDED: bars}
    to_device = partial(torch.Tensor.to, device=settings.device)
    return {
        name: (
            model.to(settings.device, DTYPES[settings.dtype]),
            {
                key: to_device(value)
                for key, value in {**inputs[name], "attention_mask": mask, "labels": tokens}.items()
            },
        )
        for name, model in models.items()
    }


def forward(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    model.eval()
    with torch.no_grad():
        model(**{key: value for key, value in inputs.items() if key != "labels"}, use_cache=False)


def train_step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, inputs: dict[str, torch.Tensor]) -> None:
    model.train()
    optimizer.zero_grad()
    model(**inputs, use_cache=False).loss.backward()
    optimizer.step()


def generate(model: PreTrainedModel, inputs: dict[str, torch.Tensor], steps: int) -> None:
    model.eval()
    prompt = {key: value for key, value in inputs.items() if key != "labels"}
    tokens = model.generate(**prompt, max_new_tokens=steps, do_sample=False)
    assert tokens.shape[1] == prompt["input_ids"].shape[1] + steps, "generation stopped early"


def seconds(task: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    task()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def tasks_of(models: dict[str, tuple[PreTrainedModel, dict]], settings: Settings) -> dict[tuple[str, str], Callable]:
    """What is timed, by measure and model, in the order in which one repeat runs it."""
    tasks: dict[tuple[str, str], Callable] = {}
    for name in (OURS, PEER):
        tasks["forward", name] = partial(forward, *models[name])
    for name in (OURS, PEER, EXPANDED):
        tasks["generate", name] = partial(generate, *models[name], settings.steps)
    for name in (OURS, PEER):
        model, inputs = models[name]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        tasks["train", name] = partial(train_step, model, optimizer, inputs)
    return tasks


def time_shape(
    models: dict[str, tuple[PreTrainedModel, dict]], settings: Settings, advance: Callable[[], None]
) -> tuple[dict[tuple[str, str], list[float]], float]:
    """Seconds of every repeat by measure and model, and the best seconds of the matrix product."""
    tasks = tasks_of(models, settings)
    left = torch.randn(
        settings.matmul_size, settings.matmul_size, device=settings.device, dtype=DTYPES[settings.dtype]
    )
    right = left.T.contiguous()
    for task in tasks.values():  # unmeasured: allocations, kernel choice
        task()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in tasks}
    gemm = []
    for repeat in range(settings.repeats):
        for measure in MEASURES:
            turn = [key for key in tasks if key[0] == measure]
            for key in turn if repeat % 2 == 0 else reversed(turn):
                times[key].append(seconds(tasks[key], settings.device))
        gemm += [seconds(partial(torch.mm, left, right), settings.device) for _ in range(5)]
        advance()
    return times, min(gemm)


def ratio(times: dict[tuple[str, str], list[float]], measure: str, name: str, reference: str) -> float:
    """Median over repeats of the time of `name` in units of the time of `reference`."""
    pairs = zip(times[measure, name], times[measure, reference], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


@torch.no_grad()
def cache_bytes_per_token(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> int:
    """Bytes that all layers of the cache hold for one token, weighed after a real forward pass."""
    prompt = {key: value for key, value in inputs.items() if key != "labels"}
    layers = model.eval()(**prompt, use_cache=True)[CACHE].layers
    held = sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values))
    return held // prompt["input_ids"].numel()


def weigh_caches(shape: dict[str, Any], inputs: dict[str, torch.Tensor], settings: Settings) -> dict[str, int]:
    """Cache bytes per token of our attention types at one shape."""
    weights = {}
    for kind, attention in ATTENTION_TYPES.items():
        model = TsfLlmForCausalLM(TsfLlmConfig(**{**shape, **attention})).to(settings.device, DTYPES[settings.dtype])
        weights[kind] = cache_bytes_per_token(model, inputs)
    return weights


def measure_shape(
    shape_name: str, shape: dict[str, Any], settings: Settings, advance: Callable[[], None]
) -> dict[str, Any]:
    """Rows, ratios, cache weights and the matrix product's speed of one shape."""
    models = contestants(shape, settings)
    times, gemm_seconds = time_shape(models, settings, advance)
    rows = []
    for name in (OURS, PEER):
        model, inputs = models[name]
        row = {"model": f"{name} {shape_name}", "shape": shape_name, "params": model.num_parameters()}
        for measure in MEASURES:
            row[f"{measure}_ms"] = 1e3 * statistics.median(times[measure, name])
            row[f"{measure}_ms_min"] = 1e3 * min(times[measure, name])
        rows.append({**row, "cache_bytes_per_token": cache_bytes_per_token(model, inputs)})
    return {
        "rows": rows,
        "ratios": {f"{measure}_{shape_name}": ratio(times, measure, OURS, PEER) for measure in MEASURES},
        "decode": {
            "shape": shape_name,
            "absorbed_generate_ms": 1e3 * statistics.median(times["generate", OURS]),
            "expanded_generate_ms": 1e3 * statistics.median(times["generate", EXPANDED]),
            "absorbed_over_expanded": ratio(times, "generate", OURS, EXPANDED),
        },
        "cache": {"shape": shape_name, **weigh_caches(shape, models[OURS][1], settings)},
        "gemm_gflops": 2 * settings.matmul_size**3 / gemm_seconds / 1e9,
    }


def run(shapes: dict[str, dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """Measures every shape, with a progress bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        results = []
        for name, shape in shapes.items():
            bar = progress.add_task(f"{name} repeats", total=settings.repeats)
            results.append(measure_shape(name, shape, settings, partial(progress.advance, bar)))
    return {
        "rows": [row for result in results for row in result["rows"]],
        "gemm_gflops": max(result["gemm_gflops"] for result in results),
        "ratios": {key: value for result in results for key, value in result["ratios"].items()},
        "decode": [result["decode"] for result in results],
        "cache_bytes_per_token": [result["cache"] for result in results],
        "settings": vars(settings),
        "machine": {
            "device": torch.cuda.get_device_name() if settings.device == "cuda" else "cpu",
            "cpu_count": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def show(results: dict[str, Any], console: Console) -> None:
    """The results as text."""
    settings, machine, versions = results["settings"], results["machine"], results["versions"]
    table = Table(
        title=f"median ms of {settings['repeats']} repeats, {settings['dtype']} on {machine['device']}, "
        f"batch {settings['batch']} x {settings['bars']}, {settings['steps']} steps generated"
    )
    for heading in ("model", "parameters", *MEASURES, "cache B/token"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in results["rows"]:
        times = [f"{row[f'{measure}_ms']:.1f}" for measure in MEASURES]
        table.add_row(row["model"], f"{row['params']:,}", *times, f"{row['cache_bytes_per_token']:,}")
        if row["model"].startswith(PEER):
            ratios = [f"{results['ratios'][measure + '_' + row['shape']]:.3f}" for measure in MEASURES]
            table.add_row("ours / peer", "", *ratios, "", end_section=True, style="bold")
    console.print(table)
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


def write_json(results: dict[str, Any], path: Path) -> None:
    """The file appears whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m tsf_llm.benchmarks.speed",
        description="Times TSF-LLM and transformers' DeepSeek-V3 of equal shape, taking turns in one run:\n"
        "a forward pass, a training step (forward, backward, AdamW) and greedy generation with a cache.\n"
        "A ratio below 1 means that ours is faster.",
        epilog="examples:\n"
        "  python -m tsf_llm.benchmarks.speed --json speed.json\n"
        "  python -m tsf_llm.benchmarks.speed --device cuda --dtype bf16 --repeats 20\n"
        "  OMP_NUM_THREADS=1 python -m tsf_llm.benchmarks.speed    # steadier on a busy machine\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Settings()
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write all results here (an existing file is replaced)"
    )
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=int,
        help=f"timed turns of each model (default {default.repeats}; 2 with --quick)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes, to see that it works; its times mean nothing"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default.device, help="default %(default)s")
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default=default.dtype, help="of all weights; default %(default)s"
    )
    parsed = parser.parse_args(arguments)
    if parsed.repeats is not None and parsed.repeats < 1:
        parser.error(f"--repeats {parsed.repeats}: give at least 1")
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; use --device cpu")
    if parsed.json is not None and (parsed.json.is_dir() or not parsed.json.absolute().parent.is_dir()):
        parser.error(f"--json {parsed.json}: give a file name in an existing folder")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    parsed = parse_arguments(arguments)
    if parsed.quick:
        settings = Settings(
            parsed.device, parsed.dtype, parsed.repeats or 2, batch=2, bars=16, steps=4, matmul_size=128
        )
    else:
        large = 8192 if parsed.device == "cuda" else Settings.matmul_size
        settings = Settings(parsed.device, parsed.dtype, parsed.repeats or Settings.repeats, matmul_size=large)
    results = run({"tiny": TINY} if parsed.quick else {name: preset(name) for name in PRESETS}, settings)
    show(results, Console())
    if parsed.json is not None:
        write_json(results, parsed.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
