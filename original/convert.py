"""A checkpoint of SpaceExploreAI -> a folder of this project that computes the same.

Design choices:
* Sizes come from the shapes of the weights: the original's files do not hold them, and its published config.json is
  wrong about the features. The shape that most layers have wins, so that a spoilt tensor is told by name.
* The file is taken as data: pickles are opened with `weights_only=True`, which refuses code.
* Every tensor must be there, finite and of its shape, before anything is written; the folder appears whole.
* The renaming itself is the model's own (`original_modeling_tsf_llm.py`), the same that lets
  `from_pretrained` read these names.
"""

import json
import pickle
import re
from collections import Counter
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..common.files import check_apart, replace_folder
from ..configuration_tsf_llm import TsfLlmConfig
from ..modeling_tsf_llm import TsfLlmForPrediction
from ..original_modeling_tsf_llm import NEVER_LOADED, RENAMED

Shapes = dict[str, tuple[int, ...]]
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
REMEDY = "take the checkpoint from its source again, or export it again"
HEADS = {1: "regression", 3: "classification"}
NORM_EPS = {"rmsnorm": 1e-6, "batch_norm": 1e-5, "dynamic_tanh": 1e-5}


def convert(
    source: str | Path,
    out: str | Path,
    *,
    layout: str | None = None,
    num_heads: int | None = None,
    num_experts_per_tok: int | None = None,
) -> TsfLlmForPrediction:
    """Reads `source`, checks it, writes `out` and returns the model.

    Args:
        source: a training `.pt`, `pytorch_model.bin`, `.safetensors`, or a folder with one of them.
        layout: whether attention's softmax runs over heads (`plain`) or keys (`mixed`); by default told by the names.
        num_heads: by default computed from the shapes, which it must agree with.
        num_experts_per_tok: by default what the checkpoint or its config.json says, else 2, as in the original.

    Raises:
        ValueError: what is wrong with which tensor or file, and what to do; nothing has been written then.
        OSError: `source` cannot be read, or `out` is taken.
    """
    source, out = Path(source), Path(out)
    if layout not in (None, "plain", "mixed"):
        raise ValueError(f"--layout {layout}: plain or mixed, or leave it out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder: name a new one")
    check_apart(out, source)
    path = weights_file(source)
    tensors, facts = read_checkpoint(path)
    sizes = Sizes(path, tensors)
    config = infer_config(sizes, facts, layout=layout, num_heads=num_heads, num_experts_per_tok=num_experts_per_tok)
    check(path, tensors, expected_shapes(config, inner=sizes.inner))
    model, info = TsfLlmForPrediction.from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "mismatched_keys")), info
    replace_folder(out, model.eval().save_pretrained, by="convert")
    return model


def weights_file(source: Path) -> Path:
    """`source` itself, or the one file in it that holds weights.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise FileNotFoundError(f"{source} does not exist: name a checkpoint file or a folder that holds one")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (source / name).is_file():
            return source / name
    found = sorted(path for path in source.iterdir() if path.suffix in (".safetensors", *PICKLES))
    if not found:
        raise FileNotFoundError(f"{source} holds no weights (.safetensors, {', '.join(PICKLES)}): name another folder")
    if len(found) > 1:
        raise ValueError(f"{source} holds {', '.join(path.name for path in found)}: name the one to convert")
    return found[0]


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All tensors but caches and the rotary table, and what the checkpoint or a config.json beside it says of itself.

    Raises:
        ValueError: the file is damaged, holds code, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix in PICKLES:
        content = _read_pickle(path)
    else:
        raise ValueError(f"{path} has an unknown extension: .safetensors or {', '.join(PICKLES)} can be converted")
    facts = {**_config_beside(path), **{key: value for key, value in content.items() if isinstance(value, int)}}
    state = content.get("model_state_dict", content)
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors: it is no checkpoint of SpaceExploreAI; name another file")
    facts |= _told_by_buffers(tensors)
    ignored = re.compile("|".join(NEVER_LOADED))
    return {name: tensor for name, tensor in tensors.items() if not ignored.search(name)}, facts


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}): {REMEDY}") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is no file of plain tensors (a pickle with code or objects in it, or no pickle at all): refused, "
            f"and nothing in it was run; {REMEDY} with tensors only"
        ) from error
    except Exception as error:  # torch has no one error for a damaged archive
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged or no checkpoint ({reason}): {REMEDY}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("model_state_dict", content), Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not named tensors: name a checkpoint of a model")
    return dict(content)


def _config_beside(path: Path) -> dict[str, Any]:
    """config.json of the checkpoint's folder. Of it only what shapes cannot tell is used later."""
    file = path.with_name("config.json")
    try:
        fields = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}): mend or remove it") from error
    return fields if isinstance(fields, dict) else {}


def _told_by_buffers(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the buffers that are never loaded tell: the longest sequence, the rotary base, and the kind of cache."""
    facts: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name.endswith("rotary_emb.freqs_buffer") and tensor.ndim == 2:
            facts |= {"max_seq_len": len(tensor), "rope_theta": rope_theta(tensor)}
        elif name.endswith(".k_cache") and tensor.ndim == 4:
            facts["cached_heads"] = tensor.shape[2]
    return facts


def rope_theta(table: torch.Tensor) -> float:
    """The base of a rotary table `[positions, r/2]`, complex or its cosines: the usual one if the table fits it."""
    width = 2 * table.shape[1]
    usual = 10000.0
    if len(table) < 2 or width < 4:
        return usual
    cosines = table.real if table.is_complex() else table
    angle = table[1, 1].angle() if table.is_complex() else table[1, 1].acos()
    if not 0 < angle < 1:
        return usual
    position = torch.arange(len(table))[:, None]
    for theta in (usual, float(f"{angle.double().item() ** (-width / 2):.4g}")):
        frequency = theta ** (-torch.arange(0, width, 2) / width)
        if torch.allclose(cosines.float(), (position * frequency).cos(), atol=1e-3):
            return theta
    return usual


class Sizes:
    """Shapes by name, numbers of layers and experts left out: `sizes("layers.N.moe.router.router.weight")`."""

    def __init__(self, path: Path, tensors: dict[str, torch.Tensor]):
        self.path, self.shapes = path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.inner = any(".attention.attention." in name for name in tensors)
        self.kinds: dict[str, list[tuple[int, ...]]] = {}
        for name, shape in self.shapes.items():
            kind = re.sub(r"\.\d+\.", ".N.", name).replace(".attention.attention.", ".attention.")
            self.kinds.setdefault(kind, []).append(shape)

    def __contains__(self, kind: str) -> bool:
        return kind in self.kinds

    def __call__(self, kind: str, *, dims: int = 2) -> tuple[int, ...]:
        """The shape that most tensors of this kind have.

        Raises:
            ValueError: there is no such tensor, or none with so many dimensions.
        """
        if kind not in self:
            name = self.original_name(kind)
            raise ValueError(f"{self.path}: tensor {name} is missing, so this is no SpaceExploreAI model; {REMEDY}")
        fitting = [shape for shape in self.kinds[kind] if len(shape) == dims]
        if not fitting:
            name, shape = self.original_name(kind), list(self.kinds[kind][0])
            raise ValueError(f"{self.path}: tensor {name} has shape {shape}, but needs {dims} dimensions; {REMEDY}")
        return Counter(fitting).most_common(1)[0][0]

    def original_name(self, kind: str) -> str:
        name = kind.replace(".N.", ".0.")
        return name.replace(".attention.", ".attention.attention.") if self.inner else name

    @property
    def num_layers(self) -> int:
        found = [re.match(r"layers\.(\d+)\.", name) for name in self.shapes]
        return len({match[1] for match in found if match})


def infer_config(
    sizes: Sizes, facts: dict[str, Any], *, layout: str | None, num_heads: int | None, num_experts_per_tok: int | None
) -> TsfLlmConfig:
    """The config whose model has these shapes.

    Raises:
        ValueError: shapes contradict each other or what the caller says.
    """
    attention = "layers.N.attention."
    (D,) = sizes("layers.N.pre_attn_norm.weight", dims=1)
    (latent,) = sizes(attention + "kv_norm.weight", dims=1)
    rope = sizes(attention + "kv_proj_a.weight")[0] - latent
    query = sizes(attention + ("q_proj_b.weight" if attention + "q_proj_b.weight" in sizes else "q_proj.weight"))[0]
    expanded, context = sizes(attention + "kv_proj_b.weight")[0], sizes(attention + "out_proj.weight")[1]
    heads, rest = divmod(query + context - expanded, rope) if rope > 0 else (0, 1)
    if rest or heads < 1 or query % heads or context % heads or query // heads <= rope:
        raise ValueError(
            f"{sizes.path}: in {sizes.original_name(attention)}* the sizes of q_proj ({query}), kv_proj_a "
            f"({rope + latent}), kv_proj_b ({expanded}) and out_proj ({context}) fit no number of heads; {REMEDY}"
        )
    if num_heads not in (None, heads):
        raise ValueError(f"--num-heads {num_heads}: the weights have {heads} heads; leave the option out")
    cached = facts.get("cached_heads", heads)
    if cached != heads:
        raise ValueError(
            f"{sizes.path}: caches of {cached} heads belong to grouped attention, which no published checkpoint has "
            f"and this cannot convert; {heads} are expected"
        )
    over_keys = sizes.inner and "cached_heads" not in facts  # caches of keys mean the other inner form, over heads
    outputs = sizes("head.weight")[0]
    if outputs not in HEADS:
        raise ValueError(
            f"{sizes.path}: tensor head.weight has {outputs} outputs, not 1 (regression) or 3 (classification); "
            + REMEDY
        )
    norm = "layers.N.pre_attn_norm."
    norm_type = "batch_norm" if norm + "running_mean" in sizes else "rmsnorm"
    norm_type = "dynamic_tanh" if norm + "alpha" in sizes else norm_type
    experts = sizes("layers.N.moe.router.router.weight")[0]
    told = (facts.get(key) for key in ("num_experts_per_token", "num_experts_per_tok"))
    chosen = num_experts_per_tok or next((count for count in told if isinstance(count, int)), 2)
    if not 1 <= chosen <= experts:
        raise ValueError(f"{chosen} experts per token: the weights have {experts}; set --num-experts-per-tok")
    length = facts.get("max_seq_len", facts.get("max_position_embeddings", 128))
    return TsfLlmConfig(
        num_features=sizes("input_projection.weight")[1],
        hidden_size=D,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=heads,
        q_lora_rank=sizes(attention + "q_norm.weight", dims=1)[0] if attention + "q_norm.weight" in sizes else None,
        kv_lora_rank=latent,
        qk_nope_head_dim=query // heads - rope,
        qk_rope_head_dim=rope,
        v_head_dim=context // heads,
        n_routed_experts=experts,
        num_experts_per_tok=chosen,
        moe_intermediate_size=sizes("layers.N.moe.experts.N.mlp.w1.weight")[0],
        shared_expert_intermediate_size=sizes("layers.N.moe.shared_expert.w1.weight")[0],
        router_aux_loss_coef=0.0,
        norm_type=norm_type,  # type: ignore[arg-type]
        norm_eps=NORM_EPS[norm_type],
        rope_parameters={"rope_type": "default", "rope_theta": facts.get("rope_theta", 10000.0)},
        max_position_embeddings=length if isinstance(length, int) else 128,
        is_causal=False,
        rope_interleaved=True,
        attention_softmax_axis="keys" if (layout == "mixed" if layout else over_keys) else "heads",
        router_weighting="raw_logits",
        original_arithmetic=True,
        prediction_length=1,
        prediction_type=HEADS[outputs],  # type: ignore[arg-type]
        trained_on="SpaceExploreAI checkpoint; 3 of its 64 inputs are future returns, so its scores show no skill",
    )


def expected_shapes(config: TsfLlmConfig, *, inner: bool) -> Shapes:
    """Every tensor that the original has for this config, by its own name: those of the model, renamed back."""
    originals = {ours: re.sub(r"[\\^]", "", source) for source, ours in RENAMED.items()}
    with torch.device("meta"):
        tensors = TsfLlmForPrediction(config).state_dict()
    shapes: Shapes = {}
    for name, tensor in tensors.items():
        name, shape = name.removeprefix("model."), tuple(tensor.shape)
        for ours, original in reversed(originals.items()):
            name = re.sub(rf"(^|(?=\.)){re.escape(ours)}", original, name)
        if inner:
            name = name.replace(".attention.", ".attention.attention.")
        layer, experts, part = name.partition(".mlp.experts.")
        if not experts:
            shapes[name] = shape
            continue
        E, wide, narrow = shape  # theirs are separate matrices, and so are gate (w1) and up (w3)
        names, rows = (("w1", "w3"), wide // 2) if part == "gate_up_proj" else (("w2",), wide)
        for expert, weight in product(range(E), names):
            shapes[f"{layer}.moe.experts.{expert}.mlp.{weight}.weight"] = (rows, narrow)
    return shapes


def check(path: Path, tensors: dict[str, torch.Tensor], expected: Shapes) -> None:
    """Names, shapes and values of all tensors.

    Raises:
        ValueError: the first tensor that is wrong, and how many more there are.
    """
    wrong = [f"tensor {name} is missing" for name in expected if name not in tensors]
    wrong += [
        f"tensor {name} belongs to no SpaceExploreAI model of this shape" for name in tensors if name not in expected
    ]
    for name, tensor in ((name, tensors[name]) for name in expected if name in tensors):
        if tuple(tensor.shape) != expected[name]:
            wrong.append(f"tensor {name} has shape {list(tensor.shape)}, the others ask for {list(expected[name])}")
        elif not tensor.is_floating_point():
            wrong.append(f"tensor {name} is of type {str(tensor.dtype).removeprefix('torch.')}, not floating point")
        elif not tensor.isfinite().all():
            wrong.append(f"tensor {name} holds NaN or infinite values")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(f"{path}: {wrong[0]}{more}; {REMEDY}")
