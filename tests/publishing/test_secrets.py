"""secrets.py: what is refused is named, with file, line and reason, and the secret itself is not."""

import pytest

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
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("api_key = 'c0ffee-c0ffee-c0ffee'", "a password"),
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
