"""What `speed` measures: our models, and public ones beside them, all with random weights but the shapes they have.

Design choices:
* A contestant is a model, what it reads, what it learns from, and its own way from a DataFrame of bars to one of
  forecasts. Where a library has such a way, that is taken; where not, the shortest one that gives the same columns.
* The language models have the shape of ours, or as many parameters. DeepSeek-V3 starts from our weights, so that both
  choose the same experts; its shared expert is narrowed to our width, which its config cannot say. Mixtral and Llama,
  which have none, get the width at which their parameters are as many as ours. They forecast as language models can:
  by sampled paths of return tokens.
* Models of series have the shape that is published: TimesFM 2.5 with 200 million parameters, Chronos-Bolt and
  Chronos-2 small; PatchTST that of its paper, over our context.
* Our network is timed without the laws, which the language models lack; our forecasts come from the whole model.
* Chronos is optional: `pip install chronos-forecasting`.
"""

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PatchTSTConfig,
    PatchTSTForPrediction,
    PreTrainedModel,
    T5Config,
    TimesFm2_5Config,
    TimesFm2_5ModelForPrediction,
)

from ..configuration_tsf_llm import TsfLlmConfig
from ..modeling_tsf_llm import TsfLlmForCausalLM
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import quantile_column
from ..quantization_tsf_llm import to_int8
from ..serving.loading import load_pipeline
from ..training.models import find_model

OURS, MINI, BF16, INT8 = "tsf-llm", "tsf-llm mini", "tsf-llm bf16", "tsf-llm int8"
DEEPSEEK, MIXTRAL, LLAMA = "DeepSeek-V3", "Mixtral", "Llama"
PATCHTST, TIMESFM, BOLT, CHRONOS2 = "PatchTST", "TimesFM 2.5", "Chronos-Bolt", "Chronos-2"
HORIZON = 5  # bars ahead of a forecast
PATHS = 20  # that a language model samples for it, as many as Chronos does by default
PER = 100  # series that the time of a forecast is told for
WINDOW = 128  # bars that a model reads at once
HISTORY = 512  # bars of a series in a DataFrame
LEVELS = [0.1, 0.5, 0.9]
TINY: dict[str, dict[str, Any]] = {  # instead of the published shapes
    PATCHTST: {"d_model": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 16},
    TIMESFM: {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "head_dim": 16}
    | {"num_attention_heads": 2, "num_key_value_heads": 2},
    BOLT: {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    CHRONOS2: {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2},
}

Inputs = dict[str, Any]
Frames = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Contestant:
    """`read(windows, bars)` makes random inputs of a forward pass, `learn(inputs)` the labels beside them.

    `frame` forecasts `HORIZON` bars, timed on so many `series`. `generates` says whether it writes token after token;
    `pipe` is ours alone."""

    model: PreTrainedModel
    read: Callable[[int, int], Inputs]
    learn: Callable[[Inputs], Inputs]
    frame: Frames
    series: int = PER
    generates: bool = False
    pipe: TsfLlmPipeline | None = None


@dataclass(frozen=True)
class Field:
    """Who takes part: the folders of our models, where they run, and whether all of it is tiny."""

    model: str = "shipped"
    small: str = "mini"
    device: str = "cpu"
    longest: int = 1024  # tokens that a language model can hold
    quick: bool = False


def absent(name: str) -> str | None:
    """Why a contestant cannot take part here, if so."""
    if name in (BOLT, CHRONOS2) and importlib.util.find_spec("chronos") is None:
        return "pip install chronos-forecasting"
    if name == BF16 and not torch.cuda.is_available() and not bf16_flags():
        return "this CPU has no bf16 instructions"
    return None


def bf16_flags() -> list[str]:
    """The bf16 instructions that the CPU says it has; none where the system does not tell."""
    return [flag for flag in cpu_flags() if flag.endswith("_bf16")]


def cpu_flags() -> list[str]:
    """Of the first core, as Linux tells them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next((line for line in file if line.startswith(("flags", "Features"))), ":")
    except OSError:
        return []
    return line.partition(":")[2].split()


def contestant(name: str, field: Field) -> Contestant:
    """One of the names above; the same seed for all."""
    torch.manual_seed(0)
    made = MAKERS[name](field)
    nn.Module.to(made.model, field.device)
    return made


# --- ours ----------------------------------------------------------------------------------------------------------


def network(folder: str, field: Field) -> TsfLlmForCausalLM:
    """A new model of the shape of a folder's, without laws and bars, which the peers lack, and without dropout."""
    config = TsfLlmConfig.from_pretrained(
        find_model(folder), horizons=None, emits_bars=False, hidden_dropout=0.0, input_dropout=0.0, use_cache=True
    )
    config.max_position_embeddings, config.attention_dropout, config.eos_token_id = field.longest, 0.0, None
    return TsfLlmForCausalLM(config)


def ours(field: Field, *, folder: str = "", changed: Callable[[Any], Any] = lambda model: model) -> Contestant:
    """The network `changed`, and the pipeline of the folder, its model changed alike."""
    folder = folder or field.model
    model = changed(network(folder, field))
    config = model.config

    def read(windows: int, bars: int) -> Inputs:
        size = (windows, bars)
        values = torch.randn(*size, config.num_features, device=field.device, dtype=model.dtype)
        tokens = torch.full(size, config.bar_token_id, device=field.device)
        return {"input_ids": tokens, "past_values": values, "attention_mask": torch.ones_like(tokens)}

    def learn(inputs: Inputs) -> Inputs:
        return {"labels": torch.randint(0, config.pad_token_id, inputs["input_ids"].shape, device=field.device)}

    pipe = load_pipeline(folder)
    pipe.model = changed(pipe.model).to(field.device)
    return Contestant(model, read, learn, partial(pipe, horizon=HORIZON), generates=True, pipe=pipe)


def in_bf16(model: Any) -> Any:
    return model.to(torch.bfloat16)


# --- language models of our size -----------------------------------------------------------------------------------


def deepseek_of(model: TsfLlmForCausalLM) -> DeepseekV3ForCausalLM:
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
        eos_token_id=None,  # none may stop before the last step
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


def as_large(model: TsfLlmForCausalLM, kind: type[PreTrainedModel], config: type, **settings: Any) -> PreTrainedModel:
    """A model of that kind with our hidden size, layers and heads, and the width that makes it as large as ours."""
    ours = model.config
    names = "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings pad_token_id"
    settings |= {name: getattr(ours, name) for name in names.split()}
    settings |= {"num_key_value_heads": ours.num_attention_heads, "bos_token_id": None, "eos_token_id": None}
    with torch.device("meta"):
        one, other = (kind(config(**settings, intermediate_size=width)).num_parameters() for width in (64, 128))
    width = 64 + 8 * round(
        8 * (model.num_parameters() - one) / (other - one)
    )  # rows of 16 bytes, for grouped products
    return kind(config(**settings, intermediate_size=width))


def language(make: Callable[[TsfLlmForCausalLM], PreTrainedModel], field: Field) -> Contestant:
    model = make(network(field.model, field))
    returns = model.config.pad_token_id  # tokens below it

    def read(windows: int, bars: int) -> Inputs:
        tokens = torch.randint(0, returns, (windows, bars), device=field.device)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def learn(inputs: Inputs) -> Inputs:
        return {"labels": inputs["input_ids"]}

    def frame(bars: pd.DataFrame) -> pd.DataFrame:
        """Returns in units of their deviation are tokens, `PATHS` sampled continuations the law."""
        closes, names, last = closes_of(bars, WINDOW + 1)
        returns_BT = np.diff(np.log(closes), axis=1)
        scale = returns_BT.std(axis=1, keepdims=True)
        edges = np.linspace(-4, 4, returns - 1)
        tokens = torch.from_numpy(np.digitize(returns_BT / scale, edges)).to(field.device)
        mask = torch.ones_like(tokens)
        paths = model.eval().generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=HORIZON,
            do_sample=True,
            num_return_sequences=PATHS,
            suppress_tokens=list(range(returns, model.config.vocab_size)),
        )
        middle = np.concatenate((edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]))
        z = middle[paths[:, -HORIZON:].cpu().numpy()].reshape(len(names), PATHS, HORIZON)
        prices = closes[:, -1:, None] * np.exp(np.cumsum(z, axis=2) * scale[..., None])
        return frame_of(np.quantile(prices, LEVELS, axis=1).transpose(1, 2, 0), names, last)

    return Contestant(model, read, learn, frame, series=2, generates=True)


# --- models of series ----------------------------------------------------------------------------------------------


def patchtst(field: Field) -> Contestant:
    shape = {"d_model": 128, "num_attention_heads": 16, "num_hidden_layers": 3, "ffn_dim": 256}
    shape |= {"patch_length": 16, "patch_stride": 8, "context_length": WINDOW, "prediction_length": 96}
    config = PatchTSTConfig(num_input_channels=1, **shape | (TINY[PATCHTST] if field.quick else {}))
    model = PatchTSTForPrediction(config)

    def read(windows: int, bars: int) -> Inputs:
        return {"past_values": random_closes(windows, bars, field)[..., None]}

    def learn(inputs: Inputs) -> Inputs:
        return {"future_values": random_closes(len(inputs["past_values"]), config.prediction_length, field)[..., None]}

    @torch.inference_mode()
    def frame(bars: pd.DataFrame) -> pd.DataFrame:
        closes, names, last = closes_of(bars, WINDOW)
        values = torch.from_numpy(closes).float().to(field.device)[..., None]
        forecast = model.eval()(past_values=values).prediction_outputs[:, :HORIZON]
        return frame_of(forecast.cpu().numpy(), names, last)

    return Contestant(model, read, learn, frame)


def timesfm(field: Field) -> Contestant:
    config = TimesFm2_5Config(**TINY[TIMESFM] if field.quick else {})
    model = TimesFm2_5ModelForPrediction(config)

    def read(windows: int, bars: int) -> Inputs:
        return {"past_values": list(random_closes(windows, bars, field)), "forecast_context_len": bars}

    def learn(inputs: Inputs) -> Inputs:
        return {"future_values": random_closes(len(inputs["past_values"]), config.horizon_length, field)}

    @torch.inference_mode()
    def frame(bars: pd.DataFrame) -> pd.DataFrame:
        closes, names, last = closes_of(bars, HISTORY)
        values = list(torch.from_numpy(closes).float().to(field.device))
        found = model.eval()(past_values=values, forecast_context_len=closes.shape[1]).full_predictions
        levels = [1 + list(config.quantiles).index(level) for level in LEVELS]  # after the mean
        return frame_of(found[:, :HORIZON, levels].cpu().numpy(), names, last)

    return Contestant(model, read, learn, frame, series=20)


def chronos_bolt(field: Field) -> Contestant:
    from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline

    shape = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
    own: dict[str, Any] = {
        "context_length": 2048,
        "prediction_length": 64,
        "input_patch_size": 16,
        "input_patch_stride": 16,
    }
    own |= {"quantiles": [level / 10 for level in range(1, 10)], "use_reg_token": True}
    settings: dict[str, Any] = {**shape, **(TINY[BOLT] if field.quick else {}), "chronos_config": own}
    settings |= {"feed_forward_proj": "relu", "decoder_start_token_id": 0, "pad_token_id": 0}
    model = ChronosBoltModelForForecasting(T5Config(**settings))

    def read(windows: int, bars: int) -> Inputs:
        return {"context": random_closes(windows, bars, field)}

    def learn(inputs: Inputs) -> Inputs:
        return {"target": random_closes(len(inputs["context"]), 64, field)}

    return Contestant(model, read, learn, chronos_frame(ChronosBoltPipeline(model)))


def chronos_2(field: Field) -> Contestant:
    from chronos import Chronos2Model, Chronos2Pipeline
    from chronos.chronos2.config import Chronos2CoreConfig

    settings = {"context_length": 8192, "output_patch_size": 16, "input_patch_size": 16, "input_patch_stride": 16}
    settings |= {"use_reg_token": True, "use_arcsinh": True, "max_output_patches": 64}
    quantiles = [0.01, *(level / 20 for level in range(1, 20)), 0.99]
    config = Chronos2CoreConfig(  # whose defaults are the small one's
        **TINY[CHRONOS2] if field.quick else {}, chronos_config={**settings, "quantiles": quantiles}
    )
    model = Chronos2Model(config)

    def read(windows: int, bars: int) -> Inputs:
        return {"context": random_closes(windows, bars, field)}

    def learn(inputs: Inputs) -> Inputs:
        return {"future_target": random_closes(len(inputs["context"]), 64, field), "num_output_patches": 4}

    return Contestant(model, read, learn, chronos_frame(Chronos2Pipeline(model)))


def chronos_frame(pipe: Any) -> Frames:
    """The library's own DataFrame API, of which closes alone are read."""

    def frame(bars: pd.DataFrame) -> pd.DataFrame:
        pipe.model.eval()
        columns = {"id_column": "ticker", "timestamp_column": "timestamp", "target": "close"}
        series = bars[["ticker", "timestamp", "close"]]
        found = pipe.predict_df(series, **columns, prediction_length=HORIZON, quantile_levels=LEVELS)
        return found.rename(columns={str(level): quantile_column(level) for level in LEVELS})

    return frame


def random_closes(rows: int, length: int, field: Field) -> torch.Tensor:
    """Random walks around 100."""
    return 100 + torch.randn(rows, length, device=field.device).cumsum(1)


def closes_of(bars: pd.DataFrame, length: int) -> tuple[np.ndarray, list[str], pd.Timestamp]:
    """The last closes of every ticker, `[B,T]`, their names and the last date."""
    table = bars.pivot(index="timestamp", columns="ticker", values="close").tail(length)
    return table.to_numpy().T.copy(), list(table.columns), table.index[-1]


def frame_of(values: np.ndarray, names: list[str], last: pd.Timestamp) -> pd.DataFrame:
    """Quantiles `[B,P,Q]`, or one number `[B,P,1]`, as a table of one row per ticker and step."""
    steps = values.shape[1]
    dates = pd.bdate_range(last, periods=steps + 1)[1:]
    frame = pd.DataFrame({"ticker": np.repeat(names, steps), "timestamp": np.tile(dates, len(names))})
    columns = [quantile_column(level) for level in LEVELS] if values.shape[2] > 1 else ["mean"]
    return frame.assign(**dict(zip(columns, values.reshape(-1, values.shape[2]).T, strict=True)))


MAKERS: dict[str, Callable[[Field], Contestant]] = {
    OURS: ours,
    BF16: partial(ours, changed=in_bf16),
    INT8: partial(ours, changed=to_int8),
    MINI: lambda field: ours(field, folder=field.small),
    DEEPSEEK: partial(language, deepseek_of),
    MIXTRAL: lambda field: language(
        lambda model: as_large(
            model,
            MixtralForCausalLM,
            MixtralConfig,
            num_local_experts=model.config.n_routed_experts,
            num_experts_per_tok=model.config.num_experts_per_tok,
        ),
        field,
    ),
    LLAMA: lambda field: language(lambda model: as_large(model, LlamaForCausalLM, LlamaConfig), field),
    PATCHTST: patchtst,
    TIMESFM: timesfm,
    BOLT: chronos_bolt,
    CHRONOS2: chronos_2,
}
