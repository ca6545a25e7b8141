"""What must not become public: files of these kinds, and texts in which something looks like a secret.

Read are texts of any encoding and length, pictures too, and the words that weights
and tables carry beside their numbers: metadata, names of tensors and columns."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib")
FORBIDDEN = {
    "credentials": (".env", ".env.*", ".netrc", ".pypirc", "*.pem", "*.key", "id_rsa", "id_ed25519"),
    "a pickle, which can run code": PICKLES,
}
RAW_DATA = ("*.csv", "*.csv.gz", "*.parquet", "*.npz", "*.npy", "*.feather", "*.arrow", "*.xlsx")
FORBIDDEN_BESIDE_A_MODEL = {**FORBIDDEN, "raw data": RAW_DATA}
SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,})",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password": r"(?i)(?:api_?key|secret|password|passwd|access_?token)[\"']?\s*[:=]\s*[\"'][^\"'\s]{12,}[\"']",
}
HEADER_AT_MOST = 100_000_000  # bytes of a safetensors header, as the format has it


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def refuse_files(folders: Sequence[Path], forbidden: dict[str, tuple[str, ...]]) -> None:
    """Raises ValueError if a file of a forbidden kind lies in one of the folders, with all of them and the reasons."""
    names = [path.name for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    refuse_names(names, forbidden, folders[0])


def refuse_names(names: Sequence[str], forbidden: dict[str, tuple[str, ...]], place: Path) -> None:
    """Raises ValueError if a file is called as one of a forbidden kind, with all of them and the reasons."""
    reasons = [
        f"{name} ({reason})"
        for name in names
        for reason, patterns in forbidden.items()
        if matches(name.lower().rpartition("/")[2], patterns)
    ]
    if reasons:
        raise ValueError(f"refused, nothing was uploaded: {', '.join(reasons)}; move it out of {place}")


def refuse_secrets(files: dict[str, Path | bytes]) -> None:
    """Looks at every text that would be uploaded, and names file and line, not the secret.

    Raises:
        ValueError: something looks like a secret.
    """
    reasons = []
    for name, content in files.items():
        text = words_of(content, Path(name).suffix)
        text = re.sub(r"\\u00([2-7][0-9A-Fa-f])", lambda code: chr(int(code[1], 16)), text)  # as JSON may write it
        for kind, pattern in SECRETS.items():
            if match := re.search(pattern, text):
                reasons.append(f"{name} line {text.count(chr(10), 0, match.start()) + 1} looks like {kind}")
    if reasons:
        raise ValueError(
            f"refused, nothing was uploaded: {', '.join(reasons)}; remove it, and revoke it if it is real"
        )


def words_of(content: Path | bytes, suffix: str) -> str:
    """The text of a file, or the words beside its numbers.

    Raises ValueError if it is no file of that kind."""
    if suffix == ".safetensors" and isinstance(content, Path):
        with content.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return file.read(min(size, HEADER_AT_MOST)).decode("utf-8", "ignore")
    if suffix == ".parquet" and isinstance(content, Path):
        try:
            schema = pq.read_schema(content)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{content} is no parquet file ({error}): write it again") from error
        fields = [schema.metadata, *(field.metadata for field in schema)]
        words = [word for metadata in fields for pair in (metadata or {}).items() for word in pair]
        return "\n".join([*schema.names, *(word.decode("utf-8", "ignore") for word in words)])
    raw = content.read_bytes() if isinstance(content, Path) else content
    if suffix == ".safetensors":
        return ""
    text = raw.decode("ascii", "replace")  # as secrets are
    return text if "\0" not in text else text.replace("\0", " ") + "\n" + text.replace("\0", "")  # or in UTF-16
