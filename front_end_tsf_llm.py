"""The front end of TSF-LLM: wavelets, multi-scale convolutions (MSCNN) and patch semantics (T2T) ahead of the decoder.

Design choices:
* The front end reads the scaled bars `[B,T,F]` and adds to their embedding: `embedding + gate * projection(features)`,
  where `features = MSCNN + T2T` have the shape of the bars. The gate starts at 0.1, so every part learns at once.
* Each part comes twice: as the bidirectional original (`causal=False`, `OriginalT2t`, kept to compare with), and in
  the causal form that the model uses, where a bar's feature is a function of that bar and of those before it.
* Causal filters take the bars before the first one to be equal to it. A row is shifted so that its first observed bar
  comes first, and a missing bar repeats the last observed one: padding and gaps change nothing for other bars.
* No statistic runs over batch or time: where the original has BatchNorm, the causal form normalises each bar.
* T2T may *reprogram* a frozen language model (Time-LLM, Jin et al. 2024, arXiv 2310.01728). That model stays outside
  the module tree: it is never trained and never saved with us; the config keeps its name.

Shapes: B batch, T bars, F features, D hidden, C channels, N patches, p bars per patch, E width of T2T,
M width of the language model, W its vocabulary, Q text prototypes, L prompt tokens, h heads, d part of a head.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers import initialization as init

from .configuration_tsf_llm import TsfLlmConfig

# Daubechies' low-pass filter with 4 vanishing moments for reconstruction; it sums to the square root of 2.
DB4 = (
    0.2303778133088965,
    0.7148465705529157,
    0.6308807679298589,
    -0.027983769416859854,
    -0.18703481171909309,
    0.030841381835560764,
    0.0328830116668852,
    -0.010597401785069032,
)
LEVELS = 2
GATE_START = 0.1
KERNELS = (3, 5, 7, 9)
TASK = "Market bars, oldest first; the next return is wanted."


# --- wavelets --------------------------------------------------------------------------------------------------------


class Wavelet(nn.Module):
    """The db4 transform along the last axis, forward and inverse, and two ways to split a series into long and short
    term. PyWavelets' arithmetic (`mode="symmetric"`), as convolutions through which gradients flow."""

    def __init__(self):
        super().__init__()
        self.low = nn.Buffer(torch.tensor(DB4), persistent=False)

    def filters(self, like: torch.Tensor) -> torch.Tensor:
        """Reconstruction filters `[2,1,8]`: low-pass and its quadrature mirror."""
        low = self.low.to(like.dtype)
        signs = low.new_tensor([1, -1] * (len(DB4) // 2))
        return torch.stack((low, low.flip(0) * signs))[:, None]

    def decompose(self, x: torch.Tensor, level: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`[...,T]` -> approximation and details, the coarsest first, as `pywt.wavedec` gives them."""
        details: list[torch.Tensor] = []
        for _ in range(level):  # `[...,T]` -> two of `[...,(T + 7) // 2]`
            T, overhang = x.shape[-1], len(DB4) - 1
            place = torch.arange(1 - overhang, T + overhang, device=x.device) % (2 * T)
            mirrored = x[..., torch.where(place < T, place, 2 * T - 1 - place)]
            bands = F.conv1d(mirrored.reshape(-1, 1, mirrored.shape[-1]), self.filters(x), stride=2)
            x, detail = bands.view(*x.shape[:-1], 2, -1).unbind(-2)
            details.insert(0, detail)
        return x, details

    def reconstruct(self, approximation: torch.Tensor, details: list[torch.Tensor]) -> torch.Tensor:
        """The inverse of `decompose`, as `pywt.waverec` does it; one number longer than an odd series."""
        overhang = len(DB4) - 2
        for detail in details:  # two of `[...,K]` -> `[...,2K - 6]`
            pair = torch.stack((approximation[..., : detail.shape[-1]], detail), dim=-2)
            wide = F.conv_transpose1d(pair.flatten(0, -3), self.filters(detail), stride=2)
            approximation = wide[..., overhang:-overhang].reshape(*detail.shape[:-1], -1)
        return approximation

    def split(self, x: torch.Tensor, level: int = LEVELS) -> tuple[torch.Tensor, torch.Tensor]:
        """`[...,T]` -> long term (from the approximation alone) and short term (the rest). Looks both ways.

        A level whose filter would be longer than its series is left out: 13 bars or fewer are all long term."""
        T = x.shape[-1]
        level = min(level, max(0, (T // (len(DB4) - 1)).bit_length() - 1))  # pywt.dwt_max_level
        approximation, details = self.decompose(x, level)
        long = self.reconstruct(approximation, [torch.zeros_like(detail) for detail in details])[..., :T]
        return long, x - long

    def causal_split(self, x: torch.Tensor, level: int = LEVELS) -> tuple[torch.Tensor, torch.Tensor]:
        """`[...,T]` -> long and short term, each a function of the past. The sum is the series.

        The undecimated transform (a trous): at level j the smoother is dilated by 2^j. Of the two time directions of
        the filter, this one has its weight on the latest bars: it lags one bar at level 1 and three at level 2."""
        long, weight = x.reshape(-1, 1, x.shape[-1]), self.filters(x)[:1].flip(-1) / math.sqrt(2)
        for j in range(level):
            past = F.pad(long, ((len(DB4) - 1) * 2**j, 0), mode="replicate")
            long = F.conv1d(past, weight, dilation=2**j)
        long = long.view_as(x)
        return long, x - long


# --- multi-scale convolutions ----------------------------------------------------------------------------------------


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each bar of `[B,C,T]`: no statistic over batch or time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def norm(channels: int, causal: bool) -> nn.Module:
    return ChannelNorm(channels) if causal else nn.BatchNorm1d(channels)


class ConvBlock(nn.Module):
    """Convolution, norm, ReLU on `[B,C,T]`; the causal form looks back only."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, causal: bool, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.bn = norm(outputs, causal)  # the original's name, whichever norm it is
        reach = (kernel - 1) * dilation
        self.padding = (reach, 0) if causal else (reach // 2, reach // 2)
        self.mode = "replicate" if causal else "constant"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(F.pad(x, self.padding, mode=self.mode))))


class MultiScaleBlock(nn.Module):
    """Four channel groups at kernels 3, 5, 7, 9, each split into long and short term. Short terms flow from the fine
    groups to the coarse, long terms back; the groups are then joined and added to the input."""

    def __init__(self, channels: int, *, causal: bool, dilation: int = 1):
        super().__init__()
        group = channels // len(KERNELS)
        self.initial_conv = nn.Conv1d(channels, channels, 1)
        self.branch_convs = nn.ModuleList(
            ConvBlock(group, group, kernel, causal=causal, dilation=dilation) for kernel in KERNELS
        )
        self.wavelet = Wavelet()
        self.pattern_fusion = nn.Conv1d(2 * group, group, 1)
        self.fusion_conv = nn.Conv1d(channels, channels, 1)
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = self.initial_conv(x).chunk(len(KERNELS), dim=1)
        split = self.wavelet.causal_split if self.causal else self.wavelet.split
        terms = [split(conv(group)) for conv, group in zip(self.branch_convs, groups, strict=True)]
        longs, shorts = [long for long, _ in terms], [short for _, short in terms]
        for b in range(1, len(KERNELS)):
            shorts[b] = shorts[b] + shorts[b - 1]
        for b in reversed(range(len(KERNELS) - 1)):
            longs[b] = longs[b] + longs[b + 1]
        fused = [self.pattern_fusion(torch.cat(both, dim=1)) for both in zip(shorts, longs, strict=True)]
        return self.fusion_conv(torch.cat(fused, dim=1)) + x


class CausalMaxPool(nn.Module):
    """Maximum of a bar and the one `dilation` before it: the original's pooling without dropping every second bar."""

    def __init__(self, dilation: int):
        super().__init__()
        self.dilation = dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(x, F.pad(x, (self.dilation, 0), mode="replicate")[..., : x.shape[-1]])


class Mscnn(nn.Module):
    """`[B,F,T]` -> `[B,T,C]` with `C = channels * 2^(blocks - 1)`; each further block sees time at half the pace.

    The original halves the series and stretches the result; the causal form keeps all bars and dilates instead."""

    def __init__(self, inputs: int, channels: int, blocks: int = 1, *, causal: bool = True):
        super().__init__()
        self.init_conv = ConvBlock(inputs, channels, 3, causal=causal)
        self.layers = nn.ModuleList([MultiScaleBlock(channels, causal=causal)])
        for block in range(1, blocks):
            pool = CausalMaxPool(2 ** (block - 1)) if causal else nn.MaxPool1d(2)
            widen = nn.Sequential(nn.Conv1d(channels, 2 * channels, 1), norm(2 * channels, causal), nn.ReLU())
            channels *= 2
            dilation = 2**block if causal else 1
            self.layers.extend((pool, widen, MultiScaleBlock(channels, causal=causal, dilation=dilation)))
        self.channels = channels

    def forward(self, x_BFT: torch.Tensor) -> torch.Tensor:
        x = self.init_conv(x_BFT)
        for layer in self.layers:
            x = layer(x)
        if x.shape[-1] != x_BFT.shape[-1]:
            x = F.interpolate(x, size=x_BFT.shape[-1], mode="linear", align_corners=False)
        return x.transpose(1, 2)


class MscnnWithAttention(nn.Module):
    """The original's variant: MSCNN, self-attention, LayerNorm, projection; `[B,F,T]` -> `[B,T,outputs]`. Looks both
    ways."""

    def __init__(self, inputs: int, channels: int, blocks: int, outputs: int, num_heads: int):
        super().__init__()
        self.mscnn = Mscnn(inputs, channels, blocks, causal=False)
        width = self.mscnn.channels
        self.self_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.layer_norm = nn.LayerNorm(width)
        self.final_projection = nn.Linear(width, outputs)

    def forward(self, x_BFT: torch.Tensor) -> torch.Tensor:
        x = self.mscnn(x_BFT)
        attended, _ = self.self_attention(x, x, x, need_weights=False)
        return self.final_projection(self.layer_norm(x + attended))


class TimeInstanceNorm(nn.Module):
    """The original's input norm of `[B,T,F]`: each feature of a row over time; running statistics in evaluation.

    Not causal, hence no part of the model, whose processor scales by the training dates instead."""

    def __init__(self, features: int):
        super().__init__()
        self.inst_norm = nn.InstanceNorm1d(features, affine=True, track_running_stats=True)

    def forward(self, x_BTF: torch.Tensor) -> torch.Tensor:
        return self.inst_norm(x_BTF.transpose(1, 2)).transpose(1, 2)


# --- patches to semantics --------------------------------------------------------------------------------------------


def sinusoids(like_BNE: torch.Tensor) -> torch.Tensor:
    """Position encodings `[N,E]`: sin and cos at even and odd places. Vaswani et al. 2017."""
    _, N, E = like_BNE.shape
    frequency = torch.exp(torch.arange(0, E, 2, device=like_BNE.device).float() * (-math.log(10000.0) / E))
    angle = torch.arange(N, device=like_BNE.device).float()[:, None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :E].to(like_BNE.dtype)


def hide_patches(patches_BNE: torch.Tensor, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Zeroes `int(ratio * N)` random patches of each row; also returns which, `[B,N]`."""
    B, N, _ = patches_BNE.shape
    hidden_BN = torch.zeros(B, N, dtype=torch.bool)
    for row in hidden_BN:
        row[torch.randperm(N)[: int(ratio * N)]] = True
    hidden_BN = hidden_BN.to(patches_BNE.device)
    return patches_BNE.masked_fill(hidden_BN[..., None], 0.0), hidden_BN


def to_features(width: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, features), nn.LayerNorm(features), nn.ReLU())


class OriginalT2t(nn.Module):
    """The original: `[B,F,T]` -> per-bar features `[B,T,outputs]` and its reconstruction of the same shape.

    Bidirectional; patches count from the first bar; a patch is copied to all of its bars, the later patch wins, and
    bars after the last patch get zeros. The original also hides patches in evaluation: `hide=True` asks for that.
    Its reconstruction decodes zeros without positions, so it is the same at every patch."""

    def __init__(
        self,
        inputs: int,
        patch_size: int,
        overlap: int,
        width: int,
        num_layers: int,
        decoder_layers: int,
        num_heads: int,
        inner: int,
        dropout: float,
        mask_ratio: float,
        outputs: int,
    ):
        super().__init__()
        self.patch_size, self.stride, self.mask_ratio = patch_size, patch_size - overlap, mask_ratio
        self.patch_embedding = nn.ModuleDict({"projection": nn.Linear(patch_size * inputs, width)})
        self.dropout = nn.Dropout(dropout)
        encoder = nn.TransformerEncoderLayer(width, num_heads, inner, dropout, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(encoder, num_layers, enable_nested_tensor=False)
        decoder = nn.TransformerDecoderLayer(width, num_heads, inner, dropout, batch_first=True)
        self.transformer_decoder = nn.TransformerDecoder(decoder, decoder_layers)
        self.feature_projection = to_features(width, outputs)

    def forward(self, x_BFT: torch.Tensor, hide: bool | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        T = x_BFT.shape[-1]
        whole = F.pad(x_BFT, (0, max(0, self.patch_size - T)))
        raw = whole.unfold(-1, self.patch_size, self.stride).transpose(1, 2).flatten(2)  # [B,N,F*p]
        patches = self.patch_embedding["projection"](raw)
        if self.training if hide is None else hide:
            patches, _ = hide_patches(patches, self.mask_ratio)
        encoded = self.transformer_encoder(self.dropout(patches + sinusoids(patches)))
        decoded = self.transformer_decoder(torch.zeros_like(encoded), encoded)
        return self.spread(encoded, T), self.spread(decoded, T)

    def spread(self, patches_BNE: torch.Tensor, T: int) -> torch.Tensor:
        """The features of the last patch that covers each bar, zero where none does."""
        features, N = self.feature_projection(patches_BNE), patches_BNE.shape[1]
        bar = torch.arange(T, device=features.device)
        covered = bar < (N - 1) * self.stride + self.patch_size
        return features[:, (bar // self.stride).clamp(max=N - 1)] * covered[:, None]


class PatchLayer(nn.Module):
    """Attention and a feed-forward part over patches `[B,N,E]`, each around a residual and behind a LayerNorm.

    Not `nn.TransformerEncoderLayer`: the conversion of original checkpoints would rename its `self_attn.out_proj`."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        E = config.t2t_hidden_size
        self.num_heads = config.t2t_num_heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(E), nn.LayerNorm(E)
        self.qkv, self.joined = nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.feed_forward = nn.Sequential(nn.Linear(E, 2 * E), nn.ReLU(), nn.Linear(2 * E, E))
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_BNE: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.attention_norm(x_BNE)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)  # [B,h,N,d]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x_BNE = x_BNE + self.dropout(self.joined(attended.transpose(1, 2).flatten(2)))
        return x_BNE + self.dropout(self.feed_forward(self.feed_forward_norm(x_BNE)))


class PatchEncoder(nn.Module):
    """A small transformer over patches `[B,N,E]`; causal, or over the whole window."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        self.width, self.causal = config.t2t_hidden_size, config.t2t_context == "causal"
        self.patch_layers = nn.ModuleList(PatchLayer(config) for _ in range(config.t2t_num_layers))
        self.final_layernorm = nn.LayerNorm(self.width)

    def forward(self, patches_BNE: torch.Tensor, *, known_BN: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        x, N = patches_BNE + sinusoids(patches_BNE), patches_BNE.shape[1]
        earlier_NN = torch.ones(N, N, dtype=torch.bool, device=x.device).tril()
        mask = earlier_NN if self.causal else known_BN[:, None, None]
        for layer in self.patch_layers:
            x = layer(x, mask)
        return self.final_layernorm(x)


class FrozenBackbone:
    """A pretrained language model by name or folder. No module: it is not trained, moved, counted or saved with us.

    Copies of a model share it. It is loaded on first use: a checkpoint opens (on the meta device) without it."""

    def __init__(self, name: str):
        self.name = name
        self.config = self._open(AutoConfig).get_text_config()
        self.model: Any = None
        self.tokenizer: Any = None

    def __deepcopy__(self, memo: dict) -> "FrozenBackbone":
        return self

    def load(self, device: torch.device, *, causal: bool, prompt: bool) -> Any:
        """The model on `device`.

        Raises:
            OSError: if it, or the tokenizer that a prompt needs, is not there.
            ValueError: if a later input changes an earlier output although `causal` forbids that.
        """
        if self.model is None:
            model = self._open(AutoModel, dtype=torch.float32).requires_grad_(False).eval()
            if causal and looks_ahead(model):
                raise ValueError(
                    f"t2t_backbone='{self.name}' is bidirectional: through it a bar would see later bars. Use a "
                    "decoder-only language model, or t2t_context='window' in a TsfLlmForPrediction, which is read at "
                    "the last bar alone"
                )
            self.model = model
        if prompt and self.tokenizer is None:
            self.tokenizer = self._open(AutoTokenizer)
        if self.model.device != device:
            self.model = self.model.to(device)
        return self.model

    def _open(self, auto: Any, **kwargs: Any) -> Any:
        try:
            return auto.from_pretrained(self.name, trust_remote_code=False, **kwargs)
        except (OSError, ValueError) as error:
            raise OSError(
                f"t2t_backbone='{self.name}': {auto.__name__} cannot open it. Its weights and tokenizer are not part "
                "of this checkpoint: give the name of a Hub model or a folder that holds them; t2t_prompt=False where "
                "only the tokenizer is missing"
            ) from error


@torch.no_grad()
def looks_ahead(model: Any) -> bool:
    """Whether an earlier output of a language model depends on a later input."""
    before = torch.arange(4.0 * model.get_input_embeddings().weight.shape[1]).sin().view(1, 4, -1)
    after = before.clone()
    after[:, -1] *= -1
    first, second = (model(inputs_embeds=x.to(model.device)).last_hidden_state[:, :-1] for x in (before, after))
    return not torch.allclose(first, second, rtol=1e-4, atol=1e-4 * first.abs().max().item())


def describe(values: np.ndarray) -> str:
    """The statistics of Time-LLM's prompt, in words: of a series `[n]`, oldest first. Its values are changes, so their
    sum tells the trend; lags are those of the highest autocorrelation.

    >>> describe(np.array([0.0, 1.0, 0.0, 1.0, 0.5]))
    'min 0.00 max 1.00 median 0.50 trend up lags 2 4 3'
    """
    n = len(values)
    power = np.abs(np.fft.rfft(values - values.mean(), n=2 * n)) ** 2
    correlation = np.round(np.fft.irfft(power)[1:n], 6)  # rounded: noise must not swap equal lags
    lags = " ".join(str(lag + 1) for lag in np.argsort(-correlation, kind="stable")[:3]) or "none"
    trend, middle = "up" if values.sum() > 0 else "down", np.median(values)
    return f"min {values.min():.2f} max {values.max():.2f} median {middle:.2f} trend {trend} lags {lags}"


class Reprogrammer(nn.Module):
    """Patches `[B,N,E]` in the language of a frozen language model, and its reading of them `[B,N,M]`.

    Patches attend to text prototypes, which a linear map distils from the model's own vocabulary. A prompt in words
    precedes them: the statistics of the first feature (the return over one bar, in the standard set). In a causal
    context each patch has its own, over the bars up to its end; over a window there is one, as in Time-LLM."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        self.backbone = FrozenBackbone(str(config.t2t_backbone))
        self.causal, self.prompt = config.t2t_context == "causal", config.t2t_prompt
        self.num_heads = config.t2t_num_heads
        E, M = config.t2t_hidden_size, self.backbone.config.hidden_size
        self.width = M
        self.prototypes = nn.Linear(self.backbone.config.vocab_size, config.t2t_num_prototypes)
        self.query = nn.Linear(E, E)
        self.key = nn.Linear(M, E, bias=False)  # a bias would add the same to all scores of a patch
        self.value = nn.Linear(M, E)
        self.output = nn.Linear(E, M)
        if torch.get_default_device().type != "meta":
            self.backbone.load(torch.device("cpu"), causal=self.causal, prompt=self.prompt)  # to fail early

    def forward(
        self, patches_BNE: torch.Tensor, *, known_BN: torch.Tensor, series_BT: torch.Tensor, stride: int
    ) -> torch.Tensor:
        model = self.backbone.load(patches_BNE.device, causal=self.causal, prompt=self.prompt)
        words_WM = model.get_input_embeddings().weight.to(patches_BNE.dtype)
        patches_BNM = self.translate(patches_BNE, words_WM).to(model.dtype)
        B, N, M = patches_BNM.shape
        if not self.prompt:
            return self.read(model, patches_BNM, known_BN).to(patches_BNE.dtype)
        series, lengths = series_BT.detach().float().cpu().numpy(), known_BN.sum(1).tolist()
        if not self.causal:
            spans = zip(series, lengths, strict=True)
            texts = [f"{TASK} {describe(row[: max(1, (n - 1) * stride)])}" for row, n in spans]
            prompt_BLM, said_BL = self.say(model, texts)
            whole = torch.cat((prompt_BLM, patches_BNM), dim=1)
            heard = torch.cat((said_BL, known_BN), dim=1)
            return self.read(model, whole, heard)[:, -N:].to(patches_BNE.dtype)
        opening = [f"{TASK} ", *[""] * (N - 1)]  # the task is told once
        texts = [opening[k] + describe(row[: max(1, k * stride)]) for row in series for k in range(N)]
        prompt, said = self.say(model, texts)  # [B*N,L,M]
        whole = torch.cat((prompt, patches_BNM.reshape(B * N, 1, M)), dim=1)
        heard = F.pad(said, (0, 1), value=True).view(B, -1)
        read = self.read(model, whole.view(B, -1, M), heard)
        return read.view(B, N, -1, M)[:, :, -1].to(patches_BNE.dtype)

    def translate(self, patches_BNE: torch.Tensor, words_WM: torch.Tensor) -> torch.Tensor:
        """Attention of patches to the text prototypes."""
        prototypes_QM = self.prototypes(words_WM.T).T
        query = self.query(patches_BNE).unflatten(-1, (self.num_heads, -1))  # [B,N,h,d]
        key, value = (part(prototypes_QM).unflatten(-1, (self.num_heads, -1)) for part in (self.key, self.value))
        scores = torch.einsum("bnhd,qhd->bnhq", query, key) * query.shape[-1] ** -0.5
        return self.output(torch.einsum("bnhq,qhd->bnhd", scores.softmax(-1), value).flatten(2))

    def say(self, model: Any, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts -> embeddings `[n,L,M]` of their tokens, and which of them count."""
        ids = self.backbone.tokenizer(texts, add_special_tokens=False)["input_ids"]
        L = max(map(len, ids))
        rows = torch.tensor([one + [0] * (L - len(one)) for one in ids], device=model.device)
        said = torch.arange(L)[None] < torch.tensor([len(one) for one in ids])[:, None]
        return model.get_input_embeddings()(rows), said.to(model.device)

    def read(self, model: Any, embeddings_BSM: torch.Tensor, heard_BS: torch.Tensor) -> torch.Tensor:
        S, limit = embeddings_BSM.shape[1], getattr(self.backbone.config, "max_position_embeddings", None)
        if limit is not None and limit < S:
            raise ValueError(
                f"patches and prompts take {S} places, t2t_backbone='{self.backbone.name}' has {limit}: lower "
                "t2t_patch_overlap, shorten the context or set t2t_prompt=False"
            )
        positions = (heard_BS.long().cumsum(-1) - 1).clamp(min=0)
        model.eval()
        return model(
            inputs_embeds=embeddings_BSM, attention_mask=heard_BS.long(), position_ids=positions
        ).last_hidden_state


class T2t(nn.Module):
    """Patches of bars -> their meaning in context -> features of every bar. `[B,T,F]` -> `[B,T,F]` and a loss.

    A patch ends before every `stride`-th bar, counted from the first, and its vector goes to the bars from its end up
    to the next one's: in a window of a multiple of `stride` bars, the last bar ends a patch. The very first patch is
    the first bar repeated. Hidden patches (in training only) are what `t2t_reconstruct` asks to restore, as mean
    squared error."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        inputs = config.t2t_patch_size * config.num_features
        self.patch_size, self.stride = config.t2t_patch_size, config.t2t_patch_size - config.t2t_patch_overlap
        self.mask_ratio = config.t2t_mask_ratio
        self.patch_embedding = nn.Linear(inputs, config.t2t_hidden_size)
        self.encoder = PatchEncoder(config) if config.t2t_backbone is None else Reprogrammer(config)
        self.feature_projection = to_features(self.encoder.width, config.num_features)
        self.reconstruction = nn.Linear(self.encoder.width, inputs) if config.t2t_reconstruct else None

    def forward(self, x_BTF: torch.Tensor, lengths_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        T, p = x_BTF.shape[1], self.patch_size
        past = F.pad(x_BTF.transpose(1, 2), (p, 0), mode="replicate")
        raw = past.unfold(-1, p, self.stride).transpose(1, 2).flatten(2)  # [B,N,F*p]
        known_BN = torch.arange(raw.shape[1], device=raw.device) * self.stride <= lengths_B[:, None]
        patches, hidden_BN = self.patch_embedding(raw), torch.zeros_like(known_BN)
        if self.training:
            patches, hidden_BN = hide_patches(patches, self.mask_ratio)
        encoded = self.encoder(patches, known_BN=known_BN, series_BT=x_BTF[..., 0], stride=self.stride)
        features = self.feature_projection(encoded)[:, torch.arange(1, T + 1, device=raw.device) // self.stride]
        if self.reconstruction is None:
            return features, features.new_zeros(())
        return features, masked_mean_square(self.reconstruction(encoded) - raw, hidden_BN & known_BN)


def masked_mean_square(error: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `error` `[B,n,c]` squared where `mask` `[B,n]` says so; 0 where it never does."""
    square = error.float().square().mean(-1)
    return (square * mask).sum() / mask.sum().clamp(min=1)


# --- together --------------------------------------------------------------------------------------------------------


class TsfLlmFrontEnd(nn.Module):
    """Bars `[B,T,F]` and which of them are observed `[B,T]` -> what to add to their embeddings `[B,T,D]`, and a loss.
    To a missing bar nothing is added.

    The loss is the original's: mean squared difference of bars and features; `t2t_reconstruct` adds its own."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        self.use_mscnn, self.use_t2t = config.use_mscnn, config.use_t2t
        if config.use_mscnn:
            self.mscnn = Mscnn(config.num_features, config.mscnn_channels, config.mscnn_blocks)
            self.mscnn_projection = nn.Linear(self.mscnn.channels, config.num_features)
        if config.use_t2t:
            self.t2t = T2t(config)
        self.projection = nn.Linear(config.num_features, config.hidden_size)
        self.gate = nn.Parameter(torch.full((config.hidden_size,), GATE_START))

    def forward(self, x_BTF: torch.Tensor, observed_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        source_BT, back_BT, lengths_B = first_bar_first(observed_BT)
        x = x_BTF.take_along_dim(source_BT[..., None], dim=1)
        features, loss = torch.zeros_like(x), x.new_zeros((), dtype=torch.float)
        if self.use_mscnn:
            features = features + self.mscnn_projection(self.mscnn(x.transpose(1, 2)))
        if self.use_t2t:
            semantics, loss = self.t2t(x, lengths_B)
            features = features + semantics
        features = features.take_along_dim(back_BT[..., None], dim=1)
        loss = loss + masked_mean_square(features - x_BTF.masked_fill(~observed_BT[..., None], 0.0), observed_BT)
        added_BTD = self.gate * self.projection(features)
        return added_BTD.masked_fill(~observed_BT[..., None], 0.0), loss


def first_bar_first(observed_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How to shift rows so that the first observed bar comes first, gaps and the end filled with the last observed.

    Returns, for each new place, the old one to read `[B,T]`; for each old place, the new one `[B,T]` (0 before the
    first bar); and how many places the row's own bars take `[B]`."""
    T = observed_BT.shape[1]
    place = torch.arange(T, device=observed_BT.device)
    first_B1 = observed_BT.int().argmax(dim=1, keepdim=True)
    latest_BT = torch.where(observed_BT, place, first_B1).cummax(dim=1).values
    source_BT = latest_BT.gather(1, (place + first_B1).clamp(max=T - 1))
    return source_BT, (place - first_B1).clamp(min=0), T - first_B1[:, 0]


def init_front_end(module: nn.Module) -> None:
    """What transformers' own initialisation does not know: the gate, and the filter, which no checkpoint holds."""
    if isinstance(module, TsfLlmFrontEnd):
        init.constant_(module.gate, GATE_START)
    elif isinstance(module, Wavelet):
        init.copy_(module.low, torch.tensor(DB4))
    elif isinstance(module, ChannelNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)


__all__ = [
    "Mscnn",
    "MscnnWithAttention",
    "OriginalT2t",
    "T2t",
    "TimeInstanceNorm",
    "TsfLlmFrontEnd",
    "Wavelet",
    "init_front_end",
]
