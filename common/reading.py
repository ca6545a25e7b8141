"""JSON and weights, checked as they are read."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def weight_files(folder: Path) -> dict[str, Path]:
    """One file, or an index with all the files it names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return {single.name: single}
    if not index.is_file():
        raise ValueError(f"{folder} has no model.safetensors: save the model with save_pretrained")
    shards = sorted(set(read_json(index)["weight_map"].values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which {index.name} names: save the model again")
    return {name: folder / name for name in [index.name, *shards]}
