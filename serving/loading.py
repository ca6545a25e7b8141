"""A folder or Hub name of a model, or of an adapter, -> a pipeline that forecasts.

This package's own classes load it: no code that the folder holds is run. An adapter is merged into its base, which
then forecasts as fast as ever, and warns of dates that either of them has seen."""

from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file, logging

from ..bars_tsf_llm import day_end
from ..common.reading import read_json, shapes_of
from ..modeling_tsf_llm import TsfLlmForCausalLM
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import TsfLlmProcessor
from ..training.models import (
    ADAPTER_CONFIG,
    ADAPTER_FACTS,
    Model,
    digest,
    find_model,
    is_hub_name,
    load_model,
    load_processor,
)


def load_pipeline(model: str | Path) -> TsfLlmPipeline:
    """The model, or base and adapter, with the processor saved beside it, as a forecasting pipeline.

    Raises:
        FileNotFoundError: there is no such folder, no model in it, or no base for the adapter in it.
        ValueError: the folder holds a model of another kind, or an adapter of another base.
    """
    name = find_model(model)
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of loading, which takes no time; forecasts and training show their own
    try:
        if is_adapter(name):
            with shapes_of(name):
                loaded, processor = load_with_adapter(name)
        else:
            loaded, processor = load_model(name), load_processor(name)
    finally:
        if had_bar:
            logging.enable_progress_bar()
    return TsfLlmPipeline(model=loaded, processor=processor, task="time-series-forecasting")


def load_with_adapter(name: str) -> tuple[Model, TsfLlmProcessor]:
    """The base with the adapter merged, and the adapter's processor, or the base's if it has none.

    Raises:
        FileNotFoundError: the base is not there.
        ValueError: the adapter was trained on other weights, or does not fit.
    """
    from ..training.adapters import attach  # and all that trains: a forecast needs it for adapters alone

    base_name = find_base(name)
    base = load_model(base_name)
    file = cached_file(name, ADAPTER_FACTS, _raise_exceptions_for_missing_entries=False)
    facts = read_json(Path(file)) if file else {}
    if facts.get("base_digest") not in (None, digest(base)):
        raise ValueError(
            f"{name} was trained on other weights than those of {base_name}: restore its base, name it as "
            f"base_model_name_or_path in {ADAPTER_CONFIG}, or adapt again"
        )
    if isinstance(base, TsfLlmForCausalLM) and not facts.get("laws", True):
        base.tokens_only()
    model = attach(base, name).merge_and_unload()
    seen = base.config.trained_through, facts.get("trained_through")  # what either does not tell is unknown of both
    model.config.trained_through = max(seen, key=day_end) if all(seen) else None
    own = cached_file(name, "processor_config.json", _raise_exceptions_for_missing_entries=False)
    processor = TsfLlmProcessor.from_pretrained(name if own else base_name)
    processor.calibration = None  # which was that of the base's weights
    return model, processor


def is_adapter(name: str) -> bool:
    """Whether a folder or Hub repository holds an adapter and no model of its own."""
    folder = Path(name)
    if folder.is_dir():
        return (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG_NAME).is_file()
    return find_adapter_config_file(name) is not None


def find_base(adapter: str) -> str:
    """The model that an adapter names: a path, from its own folder or from here, or a Hub name.

    After a move the path is stale: then the nearest folder above the adapter that holds a model is taken.

    Raises:
        FileNotFoundError: there is none of them.
    """
    from peft import PeftConfig

    named, folder = PeftConfig.from_pretrained(adapter).base_model_name_or_path or "..", Path(adapter).resolve()
    for path in (folder / named, Path(named), folder.parent, folder.parent.parent):
        if (path / CONFIG_NAME).is_file():
            return str(path)
    if not is_hub_name(named):
        raise FileNotFoundError(
            f"{adapter} is an adapter of {named}, which is not there: put it there, or name the base "
            f"as base_model_name_or_path in {ADAPTER_CONFIG}"
        )
    return named
