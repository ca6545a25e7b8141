"""The repository itself as a model of the Hub: its root is the model folder, its README the card.

Design choices:
- Uploaded is what git tracks, and the two models: who clones the Hub's repository has what a clone of this one has.
  What lies around untracked (environments, caches, outputs, notes) stays here.
- git keeps the weights as plain files, so that a clone needs no git-lfs. The Hub wants them in LFS: only the pushed
  `.gitattributes` says so. In a clone it would have git-lfs, where that is installed, rewrite what is no pointer.
- `mini/` holds no code: `from_pretrained(..., subfolder="mini")` takes that of the root.
"""

import subprocess
from pathlib import Path

from huggingface_hub import ModelCard
from yaml import YAMLError

from ..common.reading import plain_file
from .secrets import FORBIDDEN, refuse_names

MINI = "mini"
ATTRIBUTES = ".gitattributes"
LFS = b"".join(
    pattern + b" filter=lfs diff=lfs merge=lfs -text\n" for pattern in (b"*.safetensors", b"*.gz", b"*.zip", b"*.png")
)
CARD_NEEDS = ("library_name", "pipeline_tag", "license")


def is_checkout(folder: Path) -> bool:
    """Whether a model folder is the root of this repository, not one that training wrote."""
    return all((folder / name).is_file() for name in ("setup.py", "README.md", "modeling_tsf_llm.py"))


def tracked(folder: Path) -> dict[str, Path | bytes]:
    """The files of a checkout that git knows, by name, as they lie here; `.gitattributes` is that of the Hub.

    Raises:
        ValueError: it is no git checkout, a file is a link, a pickle or of credentials, or the README is no card.
    """
    command = ["git", "-C", str(folder), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise ValueError(
            f"{folder}: git does not say what belongs to it ({told}): push a clone, or a folder that training wrote"
        ) from error
    names = [name for name in listed.split("\0") if name and (folder / name).exists()]
    refuse_names(names, FORBIDDEN, folder)
    check_front_matter(folder / "README.md")
    return {**{name: plain_file(folder, name) for name in names}, ATTRIBUTES: LFS}


def check_front_matter(page: Path) -> None:
    """Raises ValueError for a README that is no card of the Hub: it lacks the YAML at its head, or fields of it."""
    try:
        data = ModelCard(page.read_text(encoding="utf-8"), ignore_metadata_errors=False).data.to_dict()
    except (ValueError, TypeError, YAMLError) as error:
        raise ValueError(f"{page}: its head is no metadata of a model ({' '.join(str(error).split())})") from error
    if missing := [name for name in CARD_NEEDS if not data.get(name)]:
        raise ValueError(
            f"{page} does not begin with {', '.join(missing)} in YAML: write it with tsf_llm.publishing.front_page"
        )
