"""What must not become public: files of these kinds, and texts in which something looks like a secret."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

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
TEXT_AT_MOST = 10_000_000  # bytes; larger files are data, not text


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def refuse_files(folders: Sequence[Path], forbidden: dict[str, tuple[str, ...]]) -> None:
    """Raises ValueError if a file of a forbidden kind lies in one of the folders, with all of them and the reasons."""
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    reasons = [
        f"{path.name} ({reason})"
        for path in files
        for reason, patterns in forbidden.items()
        if matches(path.name.lower(), patterns)
    ]
    if reasons:
        raise ValueError(f"refused, nothing was uploaded: {', '.join(reasons)}; move it out of {folders[0]}")


def refuse_secrets(files: dict[str, Path | bytes]) -> None:
    """Looks at every text that would be uploaded, and names file and line, not the secret.

    Raises:
        ValueError: something looks like a secret.
    """
    reasons = []
    for name, content in files.items():
        if isinstance(content, Path):
            if content.stat().st_size > TEXT_AT_MOST:
                continue
            content = content.read_bytes()
        text = content.decode("utf-8", "ignore") if b"\0" not in content else ""
        for kind, pattern in SECRETS.items():
            if match := re.search(pattern, text):
                reasons.append(f"{name} line {text.count(chr(10), 0, match.start()) + 1} looks like {kind}")
    if reasons:
        raise ValueError(
            f"refused, nothing was uploaded: {', '.join(reasons)}; remove it, and revoke it if it is real"
        )
