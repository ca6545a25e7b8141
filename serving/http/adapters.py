"""Adapters that a server knows: several on one copy of the base, mixed within a model pass.

Design choices:
* The base itself stays a model of its own: whoever asks for no adapter gets its answers to the bit.
* Adapters are named at the start, `NAME=FOLDER`, or lie in `adapters/` of the model's folder; never by a client.
* `by_ticker` gives each ticker its own adapter, where there is one, and the scalers that go with it.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...pipeline_tsf_llm import TsfLlmPipeline
from ...processing_tsf_llm import TsfLlmProcessor
from ...training.adapters import mixed, read_facts
from ...training.models import ADAPTER_CONFIG, digest

BY_TICKER, BASE = "by_ticker", "__base__"


@dataclass(frozen=True)
class Adapter:
    """One of them; `key` is what the mixed model calls it."""

    name: str
    key: str
    ticker: str | None
    trained_through: str | None
    pipe: TsfLlmPipeline  # the mixed model beside the adapter's processor


@dataclass(frozen=True)
class Adapters:
    """By name, and what `by_ticker` reads with; both empty where there are none."""

    by_name: dict[str, Adapter]
    pipe: TsfLlmPipeline | None = None

    @property
    def by_ticker(self) -> dict[str, Adapter]:
        return {one.ticker: one for one in self.by_name.values() if one.ticker is not None}

    def keys(self, name: str, tickers: Sequence[str]) -> list[str]:
        """Of each row, what the mixed model calls its adapter."""
        if name != BY_TICKER:
            return [self.by_name[name].key] * len(tickers)
        own = self.by_ticker
        return [own[ticker].key if ticker in own else BASE for ticker in tickers]

    def pipe_of(self, name: str) -> TsfLlmPipeline:
        """Raises ValueError for an adapter that is not here."""
        if name == BY_TICKER and self.pipe is not None:
            return self.pipe
        if name not in self.by_name:
            known = ", ".join([*self.by_name, BY_TICKER][:20]) if self.by_name else "it has none"
            raise ValueError(f"adapter: this server has no such adapter; it knows: {known}")
        return self.by_name[name].pipe

    def seen(self, name: str, tickers: Sequence[str]) -> list[str | None]:
        """The dates up to which the adapters of these rows have seen prices; None where nobody knows."""
        used = self.by_name.values() if name == BY_TICKER else [self.by_name[name]]
        return [one.trained_through for one in used if name != BY_TICKER or one.ticker in tickers]


def find_folders(model: str, given: Sequence[str]) -> dict[str, Path]:
    """Name -> folder, of those given as NAME=FOLDER and those in `adapters/` of the model's folder.

    Raises:
        ValueError: one is not written so, is given twice, or its folder holds no adapter.
    """
    below = Path(model) / "adapters"
    found = {path.parent.name: path.parent for path in sorted(below.glob(f"*/{ADAPTER_CONFIG}"))}
    named: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not (name and equals and folder) or name in (BY_TICKER, BASE) or name in named:
            raise ValueError(f"--adapter {one}: write it as NAME=FOLDER, each name once, and none {BY_TICKER}")
        if not (Path(folder) / ADAPTER_CONFIG).is_file():
            raise ValueError(f"--adapter {one}: {folder} holds no adapter (no {ADAPTER_CONFIG})")
        named[name] = Path(folder)
    return found | named


def open_adapters(pipe: TsfLlmPipeline, folders: dict[str, Path]) -> Adapters:
    """The adapters of these folders on a copy of the pipeline's model, which has its own weights still.

    Raises:
        ValueError: one belongs to other weights, knows no laws where the base does, or cannot be mixed.
    """
    if not folders:
        return Adapters({})
    facts = {name: read_facts(folder) for name, folder in folders.items()}
    base = digest(pipe.model)
    for name, about in facts.items():
        if about.get("base_digest") not in (None, base):
            raise ValueError(f"--adapter {name}: it was trained on other weights than this model's: adapt again")
        if not about.get("laws", True) and pipe.law_reach:
            raise ValueError(f"--adapter {name}: it was trained before this model had laws: adapt again")
    model: Any = mixed(copy.deepcopy(pipe.model), list(folders.values()))
    by_name = {}
    for name, folder in folders.items():
        own = (folder / "processor_config.json").is_file()
        processor = TsfLlmProcessor.from_pretrained(folder) if own else copy.deepcopy(pipe.processor)
        processor.calibration = None  # which was that of the base's weights
        about = facts[name]
        of_it = TsfLlmPipeline(model=model, processor=processor, task=pipe.task)
        by_name[name] = Adapter(name, folder.name, about.get("ticker"), about.get("trained_through"), of_it)
    return Adapters(by_name, TsfLlmPipeline(model=model, processor=_with_own_scalers(pipe, by_name), task=pipe.task))


def _with_own_scalers(pipe: TsfLlmPipeline, adapters: dict[str, Adapter]) -> TsfLlmProcessor:
    """The base's processor with the scalers that adapters have of their own tickers."""
    processor = copy.deepcopy(pipe.processor)
    processor.calibration = None
    fitted = processor.feature_extractor.fitted
    assert fitted is not None
    for one in adapters.values():
        for state in ("center", "scale"):
            own = getattr(one.pipe.processor.feature_extractor, state)
            if one.ticker in own:
                fitted[state] = {**fitted[state], one.ticker: own[one.ticker]}
    return processor
