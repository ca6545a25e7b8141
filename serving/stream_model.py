"""What a stream keeps of the bars that a model has read, and the step that reads one more of each symbol.

Design choices:
* A state is a dict of tensors with a row per symbol, whichever reader made it: rows are added, taken and saved alike.
* `CachedReader` keeps what attention caches of the last `context_length` bars. A new bar is one token of a batch of
  symbols; it attends to itself and to those before it, so a bar may know of bars that have left the window, by way of
  those that saw them. docs/streaming.md says what that changes: nothing that a score can see.
* Positions are ages. The newest bar stands at 0, the one before at -1: rotary attention knows differences alone. Keys
  lie in the cache as at 0 and are turned back by their age when they are read. So a stream has no end of positions,
  and the rounding of a long one is that of a short one.
* The place of the oldest bar takes the newest: attention does not mind the order of keys.
* `WindowReader` keeps features and reads the whole window again, for models that cannot go on from a cache.
* A step changes nothing: it returns what is to be written, which its caller writes when all has gone well.

Shapes: n symbols of a step, C context, F features, KV key heads, r rotated part of a head, H far horizons.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from transformers.cache_utils import Cache, DynamicCache

from ..pipeline_tsf_llm import LAWS_AT_ONCE, TsfLlmPipeline
from ..versions_tsf_llm import CACHE

State: TypeAlias = dict[str, torch.Tensor]  # a row per symbol
Write: TypeAlias = tuple[str, tuple[Any, ...], torch.Tensor]  # which tensor, where in it, what
INPUTS = ("past_values", "attention_mask", "input_ids")
LOGITS = "logits"  # of a state: `pipe.bin_logits` at the newest bar, [n,1+H,bins]


def reader_of(pipe: TsfLlmPipeline) -> "CachedReader | WindowReader":
    """The reader that goes with a model.

    Raises:
        ValueError: the model names no law.
    """
    if not pipe.law_reach:
        raise ValueError(
            "this model names no law of a horizon: a stream needs a causal LM with horizons in its config"
        )
    config = pipe.model.config
    caches = (
        pipe.model.model.front_end is None
        and not config.original_arithmetic
        and config._attn_implementation in ("eager", "sdpa")
        and pipe.processor.feature_extractor.context_length <= config.max_position_embeddings
    )
    return (CachedReader if caches else WindowReader)(pipe)


@torch.inference_mode()
def write(state: State, writes: list[Write]) -> None:
    for name, place, value in writes:
        state[name][place] = value


class WindowReader:
    """Keeps the features of the last `context_length` bars, and reads all of them for each new one."""

    def __init__(self, pipe: TsfLlmPipeline):
        self.pipe, self.model = pipe, pipe.model
        self.context = pipe.processor.feature_extractor.context_length

    @torch.inference_mode()
    def begin(self, batch: Any) -> State:
        """The state after the windows of a processor's batch."""
        values, observed = (self._whole(batch[name]) for name in ("past_values", "attention_mask"))
        parts = [self._read(values[i], observed[i]) for i in _chunks(len(values))]
        return {"values": values, "observed": observed, LOGITS: torch.cat(parts)}

    @torch.inference_mode()
    def step(self, state: State, rows: torch.Tensor, features: torch.Tensor) -> list[Write]:
        """What one more bar of the symbols at `rows`, with these features `[n,F]`, writes into the state."""
        writes: list[Write] = []
        for i in _chunks(len(rows)):
            some = rows[i]
            values = torch.cat((state["values"][some, 1:], features[i, None].to(self.model.device)), dim=1)
            observed = torch.nn.functional.pad(state["observed"][some, 1:], (0, 1), value=1)
            new = {"values": values, "observed": observed, LOGITS: self._read(values, observed)}
            writes += [(name, (some,), value) for name, value in new.items()]
        return writes

    def _whole(self, window: torch.Tensor) -> torch.Tensor:
        """Of `C` bars, padded on the left."""
        padded = window.new_zeros(len(window), self.context, *window.shape[2:])
        padded[:, self.context - window.shape[1] :] = window
        return padded.to(self.model.device)

    def _read(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """As the pipeline does: no longer than the longest of them."""
        length = int(observed.any(dim=0).long().flip(0).nonzero().max()) + 1
        values, observed = values[:, -length:], observed[:, -length:]
        bars = torch.full_like(observed, self.pipe.processor.tokenizer.bar_token_id)
        out = self.model(
            past_values=values, attention_mask=observed, input_ids=bars, use_cache=False, logits_to_keep=1
        )
        return self.pipe.bin_logits(out)


class CachedReader:
    """Keeps what attention caches of the last `context_length` bars."""

    def __init__(self, pipe: TsfLlmPipeline):
        self.pipe, self.model = pipe, pipe.model
        self.context = pipe.processor.feature_extractor.context_length
        self.attention = [layer.self_attn for layer in self.model.model.layers]
        rotary = self.model.model.rotary_emb
        ages = torch.arange(self.context, device=self.model.device)[None]
        with torch.inference_mode():
            turns = rotary(torch.empty(0, dtype=torch.float32, device=self.model.device), -ages)
        self.turns = [one[0].float() / rotary.attention_scaling for one in turns]  # cosines, sines [C,r]

    @torch.inference_mode()
    def begin(self, batch: Any) -> State:
        """The state after the windows of a processor's batch."""
        parts = [self._begin(**{name: batch[name][i] for name in INPUTS}) for i in _chunks(len(batch["ticker"]))]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _begin(self, **inputs: torch.Tensor) -> State:
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        cache = DynamicCache(config=self.model.config)
        out = self.model(**inputs, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
        observed = inputs["attention_mask"].bool()
        position = (observed.long().cumsum(dim=1) - 1).clamp(min=0)
        n, T = observed.shape
        places = position.new_full((n, self.context), -1)
        places[:, :T] = position.where(observed, -1)
        state = {
            "position": places,  # of each place of the cache, counted over the observed bars; -1 of none
            "newest": position[:, -1],
            "next": position.new_full((n,), T % self.context),  # the place that the next bar takes
            LOGITS: self.pipe.bin_logits(out),
        }
        turns = self._turns(position)
        for i, layer in enumerate(cache.layers):
            for name, part in zip(_names(i), self._turned(i, layer.keys, layer.values, turns), strict=True):
                state[name] = part.new_zeros(*part.shape[:2], self.context, part.shape[-1])
                state[name][:, :, :T] = part
        return state

    @torch.inference_mode()
    def step(self, state: State, rows: torch.Tensor, features: torch.Tensor) -> list[Write]:
        """What one more bar of the symbols at `rows`, with these features `[n,F]`, writes into the state."""
        return [one for i in _chunks(len(rows)) for one in self._step(state, rows[i], features[i])]

    def _step(self, state: State, rows: torch.Tensor, features: torch.Tensor) -> list[Write]:
        n, place, now = len(rows), state["next"][rows], state["newest"][rows] + 1
        position = state["position"][rows]
        position[torch.arange(n, device=rows.device), place] = now
        cache = _OneMore(self, state, rows, place, self._turns((now[:, None] - position).clamp(max=self.context - 1)))
        hidden = position < 0
        dtype = self.model.dtype
        mask = torch.zeros(hidden.shape, dtype=dtype, device=rows.device).masked_fill(hidden, torch.finfo(dtype).min)
        out = self.model(
            past_values=features[:, None].to(rows.device),
            input_ids=place.new_full((n, 1), self.pipe.processor.tokenizer.bar_token_id),
            position_ids=place.new_zeros((n, 1)),
            attention_mask=mask[:, None, None],  # [n,1,1,C]
            logits_to_keep=1,
            **{CACHE: cache},
        )
        new = {"position": position, "newest": now, "next": (place + 1) % self.context}
        writes: list[Write] = [(name, (rows,), value) for name, value in new.items()]
        writes += [(name, (rows, slice(None), place), value[:, :, 0]) for name, value in cache.written.items()]
        return [*writes, (LOGITS, (rows,), self.pipe.bin_logits(out))]

    def _turns(self, ages: torch.Tensor) -> list[torch.Tensor]:
        """Cosines and sines `[n,S,r]` of turns back by `ages [n,S]`."""
        return [table[ages] for table in self.turns]

    def _turned(
        self, layer: int, first: torch.Tensor, second: torch.Tensor, turns: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer caches, `[n,KV,S,*]` twice, with its rotary keys turned."""
        attention, config = self.attention[layer], self.model.config
        cos, sin = (one.to(first.dtype) for one in turns)
        if config.attention_type == "mla":  # a latent and a rotary key
            return first, attention.rotate(second, cos, sin)
        return attention.rotate_part(first, (cos, sin)), second  # keys and values


class _OneMore(Cache):
    """The caches of some symbols with one more bar, as a layer attends to them; keeps what is new."""

    def __init__(
        self, reader: CachedReader, state: State, rows: torch.Tensor, place: torch.Tensor, turns: list[torch.Tensor]
    ):
        super().__init__(layers=[])
        self.reader, self.state, self.rows, self.place, self.turns = reader, state, rows, place, turns
        self.written: State = {}

    def update(  # type: ignore[override]
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        each, parts = torch.arange(len(self.rows), device=self.rows.device), []
        for name, new in zip(_names(layer_idx), (key_states, value_states), strict=True):
            self.written[name] = new
            part = self.state[name][self.rows]  # a copy
            part[each, :, self.place] = new[:, :, 0]
            parts.append(part)
        return self.reader._turned(layer_idx, parts[0], parts[1], self.turns)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.reader.context - 1


def _names(layer: int) -> tuple[str, str]:
    return f"cache.{layer}.first", f"cache.{layer}.second"


def _chunks(length: int) -> Iterator[slice]:
    """Few enough symbols to be read together: bounds memory, not results."""
    yield from (slice(i, i + LAWS_AT_ONCE) for i in range(0, length, LAWS_AT_ONCE))
