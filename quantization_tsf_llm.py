"""Int8 models for CPU serving: whole-number matrix products inside the decoder, about a quarter of the bytes.

`python -m tsf_llm.train_scripts.compress` writes such folders. They open as every folder does, from the Hub too and
without this package: the model imports this module, which registers the method with transformers, and the layers below
are in place ahead of loading. Nothing is pickled: whole numbers and scales are plain tensors in model.safetensors.

Design choices:
* Weights are symmetric int8 with one scale per output. Activations are made int8 as they come, one scale per position,
  so there is nothing to calibrate and a forecast does not depend on the rest of its batch.
* Covered are the Linear layers of the decoder and the routed experts, which are most of a model. The embeddings, the
  head, routers and norms stay float32; so does `kv_b_proj`, which decoding folds into its queries (MLA).
* Weights are stored `[in, out]`, as the product reads them. A loader that does not know this module stops at their
  shapes, instead of taking whole numbers for weights.
* One process may hold several copies of this code: the package, and what came with models. The first one's quantizer
  serves them all, because each model puts its own layers in place.
* torch's own int8 product (`torch._int_mm`, on which torchao builds too) does the work. torchao's classes would add a
  dependency and are slower: its stacked experts run in a loop alone (`benchmarks/int8.py` measures both).

Shapes: N positions, D in, O out, E experts, K experts per token, I inner width, P as in `experts_tsf_llm`.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

from .experts_tsf_llm import TsfLlmExperts, collected, sorted_places

METHOD = "tsf_llm_int8"
LARGEST = 127
SMALLEST_SCALE = 1e-12  # of a row of zeros
KEPT = ("kv_b_proj",)  # decoding reads the matrix itself


def quantize(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers in [-127, 127] and the scale that gives `x` back, one along each `dim`.

    >>> quantize(torch.tensor([[-1.0, 0.5]]), dim=1)[0].tolist()
    [[-127, 64]]
    """
    scale = x.abs().amax(dim, keepdim=True).clamp(min=SMALLEST_SCALE) / LARGEST
    return (x / scale).round_().to(torch.int8), scale


def product(rows: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor) -> torch.Tensor:
    """int8 `[N,D]` times int8 `[D,O]`, with scales `[N,1]` and `[O]` -> float32 `[N,O]`."""
    return (torch._int_mm(rows, weight) * scale).mul_(weight_scale)


def _constant(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape, dtype=dtype), requires_grad=False)


class Int8Linear(nn.Module):
    """`nn.Linear` in whole numbers."""

    def __init__(self, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.weight = _constant(in_features, out_features, dtype=torch.int8)
        self.weight_scale = _constant(out_features)
        self.bias = _constant(out_features) if bias else None

    @classmethod
    def like(cls, linear: nn.Linear) -> "Int8Linear":
        return cls(linear.in_features, linear.out_features, linear.bias is not None)

    @torch.no_grad()
    def take(self, linear: nn.Linear) -> None:
        weight, scale = quantize(linear.weight.float(), dim=1)
        self.weight.copy_(weight.T)
        self.weight_scale.copy_(scale.squeeze(1))
        if self.bias is not None:
            self.bias.copy_(linear.bias)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, scale = quantize(x.reshape(-1, x.shape[-1]).float(), dim=1)
        out = product(rows, scale, self.weight, self.weight_scale)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], -1).to(x.dtype)


class Int8Experts(nn.Module):
    """`TsfLlmExperts` in whole numbers. One product per expert that is asked, over the positions that ask it."""

    def __init__(self, num_experts: int, hidden_dim: int, intermediate_dim: int, act_fn: nn.Module):
        super().__init__()
        E, D, inner = num_experts, hidden_dim, intermediate_dim
        self.gate_up_proj = _constant(E, D, 2 * inner, dtype=torch.int8)
        self.gate_up_proj_scale = _constant(E, 2 * inner)
        self.down_proj = _constant(E, inner, D, dtype=torch.int8)
        self.down_proj_scale = _constant(E, D)
        self.act_fn = act_fn

    @classmethod
    def like(cls, experts: Any) -> "Int8Experts":
        return cls(experts.num_experts, experts.hidden_dim, experts.intermediate_dim, experts.act_fn)

    @torch.no_grad()
    def take(self, experts: nn.Module) -> None:
        for name in ("gate_up_proj", "down_proj"):
            weight, scale = quantize(getattr(experts, name).float(), dim=2)
            getattr(self, name).copy_(weight.transpose(1, 2))
            getattr(self, f"{name}_scale").copy_(scale.squeeze(2))

    @torch.no_grad()
    def forward(self, x_ND: torch.Tensor, index_NK: torch.Tensor, weights_NK: torch.Tensor) -> torch.Tensor:
        token_P, row_NK, sizes = sorted_places(index_NK, len(self.gate_up_proj))
        rows_PD, scale_P1 = (one[token_P] for one in quantize(x_ND.float(), dim=1))
        outs = []
        for e, (rows, scale) in enumerate(zip(rows_PD.split(sizes), scale_P1.split(sizes), strict=True)):
            if len(rows):
                gate_up = product(rows, scale, self.gate_up_proj[e], self.gate_up_proj_scale[e])
                gate, up = gate_up.chunk(2, dim=-1)
                inner = quantize(self.act_fn(gate).mul_(up), dim=1)
                outs.append(product(*inner, self.down_proj[e], self.down_proj_scale[e]))
        return collected(row_NK, torch.cat(outs), weights_NK.float()).to(x_ND.dtype)


def use_int8_layers(model: PreTrainedModel) -> list[tuple[Any, Int8Linear | Int8Experts]]:
    """Puts empty int8 layers in place, and returns what was there with what is there now."""
    decoder: Any = getattr(model, "model", model)
    replaced: list[tuple[Any, Int8Linear | Int8Experts]] = []
    for layer in decoder.layers:
        for parent in list(layer.modules()):
            for name, module in list(parent.named_children()):
                is_experts = isinstance(module, TsfLlmExperts)
                if is_experts or (isinstance(module, nn.Linear) and name not in KEPT):
                    quantized = (Int8Experts if is_experts else Int8Linear).like(module)
                    setattr(parent, name, quantized)
                    replaced.append((module, quantized))
    return replaced


def to_int8(model: PreTrainedModel) -> PreTrainedModel:
    """A copy for serving, which `save_pretrained` saves.

    Raises:
        ValueError: if it is int8 already.
    """
    if is_int8(model):
        raise ValueError("this model is int8 already: start from its float32 weights")
    model = copy.deepcopy(model).eval()
    for module, quantized in use_int8_layers(model):
        quantized.take(module)
    model.config.quantization_config = Int8Config()
    return model


def is_int8(model: PreTrainedModel) -> bool:
    return getattr(getattr(model.config, "quantization_config", None), "quant_method", None) == METHOD


def int8_share(model: PreTrainedModel) -> float:
    """Share of the weights that are whole numbers."""
    sizes = [(tensor.numel(), tensor.dtype == torch.int8) for tensor in model.parameters()]
    return sum(count for count, whole in sizes if whole) / sum(count for count, _ in sizes)


class Int8Config(QuantizationConfigMixin):
    """What config.json says: the method, which has no options."""

    def __init__(self, quant_method: str = METHOD):
        self.quant_method = quant_method  # type: ignore[assignment]


class Int8Quantizer(HfQuantizer):
    """Puts int8 layers in place before transformers loads an int8 folder."""

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if not self.pre_quantized:
            raise ValueError(
                "a float32 folder is made int8 by python -m tsf_llm.train_scripts.compress --methods int8"
            )

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        model.use_int8_layers()  # type: ignore[operator]
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(METHOD, Int8Config)
AUTO_QUANTIZER_MAPPING.setdefault(METHOD, Int8Quantizer)
