"""A model folder or Hub name -> a pipeline that forecasts.

This package's own classes load it: no code that the folder holds is run."""

import re
from pathlib import Path

import pandas as pd
from transformers.utils import logging

from ..configuration_tsf_llm import TsfLlmConfig
from ..data_prep.series import read_data
from ..modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import TsfLlmProcessor


def load_pipeline(model: str | Path) -> TsfLlmPipeline:
    """The model with the processor saved beside it, as a forecasting pipeline.

    Raises:
        FileNotFoundError: there is no such folder, or no model in it.
        ValueError: the folder holds a model of another kind.
    """
    name = find_model(model)
    logging.disable_progress_bar()  # of loading, which takes no time; forecasts and training show their own
    fields, _ = TsfLlmConfig.get_config_dict(name)
    if fields.get("model_type") != TsfLlmConfig.model_type:
        raise ValueError(f"{name} holds a {fields.get('model_type')!r} model, not a {TsfLlmConfig.model_type!r} one")
    is_head = fields.get("architectures") == [TsfLlmForPrediction.__name__]
    model_class = TsfLlmForPrediction if is_head else TsfLlmForCausalLM
    return TsfLlmPipeline(
        model=model_class.from_pretrained(name),
        processor=TsfLlmProcessor.from_pretrained(name),
        task="time-series-forecasting",
    )


def read_for(
    processor: TsfLlmProcessor, data: str, names: list[str] | None = None, **columns: str | None
) -> pd.DataFrame:
    """The data of the kind that the processor reads, with the covariates that it wants."""
    extractor = processor.feature_extractor
    return read_data(data, names, kind=extractor.series_kind, covariates=extractor.covariates, **columns)


def find_model(model: str | Path) -> str:
    """The name of a folder that holds a model, or of a model on the Hub (`organisation/name`).

    Raises:
        FileNotFoundError: it is neither.
    """
    path = Path(model)
    if path.is_dir() and (path / "config.json").is_file():
        return str(model)
    if path.exists():
        raise FileNotFoundError(f"{model} holds no model (no config.json): name a folder that training wrote")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(model)):
        raise FileNotFoundError(f"{model} is no folder; a model on the Hub is named organisation/name")
    return str(model)
