"""secrets.py: what is refused is named, with file, line and reason, and the secret itself is not."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tsf_llm.publishing.secrets import FORBIDDEN, FORBIDDEN_BESIDE_A_MODEL, refuse_files, refuse_secrets


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("hf_" + "aB3" * 12, "a Hugging Face token"),
        ("AKIA" + "A1" * 8, "an AWS key"),
        ("ghp_" + "aB3" * 12, "a GitHub token"),
        ("AIza" + "aB3_-" * 7, "a Google key"),
        ("xoxb-" + "12345-" * 3, "a Slack token"),
        ("sk-" + "aB3" * 8, "an API key"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "a private key"),
        ("api_key = " + "'c0ffee-c0ffee-c0ffee'", "a password"),
    ],
)
def test_secrets_are_found_in_texts(tmp_path, text, kind):
    (tmp_path / "a.py").write_text(f"# one line\n{text}\n")
    with pytest.raises(ValueError, match=f"refused, nothing was uploaded: a.py line 2 looks like {kind}") as found:
        refuse_secrets({"a.py": tmp_path / "a.py", "b.json": b"{}"})
    assert text not in str(found.value)
    refuse_secrets({"model.safetensors": b"\0" + text.encode()})  # numbers may look like anything


def test_forbidden_files_are_all_named_with_their_reasons(tmp_path):
    for name in (".env", "OPTIMIZER.PT", "prices.csv", "config.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(
        ValueError, match=r"\.env \(credentials\), OPTIMIZER\.PT \(a pickle.*, prices\.csv \(raw data\)"
    ):
        refuse_files([tmp_path], FORBIDDEN_BESIDE_A_MODEL)
    with pytest.raises(ValueError, match=r"\.env") as found:
        refuse_files([tmp_path], FORBIDDEN)
    assert "prices.csv" not in str(found.value)  # data are what a dataset is


TOKEN = "hf_" + "aB3" * 12


def write_weights(path):
    save_file({"a": np.zeros(2)}, path, metadata={"note": TOKEN})


def write_table(path):
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"note": TOKEN}), path)


def write_column(path):
    pq.write_table(
        pa.table([pa.array([1])], schema=pa.schema([pa.field("a", pa.int64(), metadata={"b": TOKEN})])), path
    )


def write_long(path):
    path.write_text("x " * 6_000_000 + TOKEN)


def write_wide(path):
    path.write_text(TOKEN, encoding="utf-16")


def write_picture(path):
    path.write_bytes(b"\x89PNG\r\n\0tEXt" + b"Comment\0" + TOKEN.encode() + b"\xff\0")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.safetensors", write_weights),
        ("data/A.parquet", write_table),
        ("data/B.parquet", write_column),
        ("tokenizer_config.json", write_long),
        ("report.json", write_wide),
        ("loss.png", write_picture),
    ],
)
def test_secrets_are_found_beside_numbers(tmp_path, name, write):
    path = tmp_path / "file"
    write(path)
    with pytest.raises(ValueError, match=f"{name} line .* looks like a Hugging Face token"):
        refuse_secrets({name: path})
