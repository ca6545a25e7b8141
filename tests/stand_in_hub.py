"""A stand-in for the Hugging Face Hub on this machine: the protocol of its client libraries over HTTP, in memory.

Design choices:
* It answers what `huggingface_hub`, `transformers` and `datasets` really ask when they publish and load: creation of
  repositories, checks of a card, LFS, commits, branches, tags, listings and files. Anything else is a 404.
* A commit is all or nothing: it is refused if an object of it was never uploaded, as on the Hub.
* It is as strict as the Hub where a mistake would show only there: tokens, private repositories, `.gitignore`, cards.
* Every request is in `log`, and `fail` makes requests go wrong, so that tests can look at both.

    with StandInHub() as hub:
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITE_TOKEN, "HF_HUB_DISABLE_XET": "1"}
"""

import base64
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import constants

WRITE_TOKEN, READ_TOKEN = "hf_" + "w" * 34, "hf_" + "r" * 34
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npy", ".npz", ".parquet", ".png")
LARGE = 10_000_000  # bytes; above, any file is an LFS object
TASKS = {"time-series-forecasting", "text-classification"}
LICENSES = {"mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "other"}


@dataclass(frozen=True)
class Blob:
    content: bytes
    is_lfs: bool

    @property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_id

    def entry(self, path: str) -> dict[str, Any]:
        found = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_id}
        lfs = {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}}
        return found | lfs if self.is_lfs else found


@dataclass(frozen=True)
class Commit:
    id: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    kind: str
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        contents = {path: blob.git_id for path, blob in files.items()}  # clients keep code by the name of its commit
        name = hashlib.sha1(f"{self.kind}{self.name}{len(self.commits)}{title}{contents}".encode()).hexdigest()
        self.commits[name] = Commit(name, title, files)
        self.branches[branch] = name
        return self.commits[name]

    def at(self, revision: str) -> Commit | None:
        """A branch, a tag or the whole name of a commit."""
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    @property
    def files(self) -> dict[str, bytes]:
        """What lies on main."""
        return {path: blob.content for path, blob in self.commits[self.branches["main"]].files.items()}


@dataclass
class Failure:
    pattern: str
    status: int
    times: int


class Refusal(Exception):
    """An answer other than 200, as the Hub words it."""

    def __init__(self, status: int, code: str = "", message: str = "", commit: str = ""):
        super().__init__(message)
        self.status, self.code, self.message, self.commit = status, code, message or code, commit


class StandInHub:
    """The Hub itself; `with` starts and stops its server."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS objects, by their SHA-256
        self.log: list[str] = []
        self.failures: list[Failure] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "StandInHub":
        hub = self
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def repo(self, name: str, kind: str = "model") -> Repo:
        return self.repos[kind, name]

    def fail(self, pattern: str, status: int, *, times: int = 10**9) -> None:
        """The next `times` requests that match, as in `PUT /objects/`, are answered with `status`."""
        self.failures.append(Failure(pattern, status, times))

    def requests(self, pattern: str) -> list[str]:
        return [line for line in self.log if re.search(pattern, line)]

    def create(self, name: str, *, kind: str = "model", private: bool = True) -> Repo:
        repo = self.repos[kind, name] = Repo(kind, name, private)
        repo.commit("main", "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)})
        return repo


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        self.split = urlsplit(self.path)
        self.body = self._read_body()
        line = f"{self.command} {self.split.path}"
        with self.hub.lock:
            self.hub.log.append(line)
            try:
                self._fail_if_told(line)
                for pattern, answer in ROUTES:
                    if match := re.fullmatch(pattern, line):
                        groups = match.groupdict()
                        return answer(self, **{name: text and unquote(text) for name, text in groups.items()})
                raise Refusal(404, message="not found")
            except Refusal as refusal:
                self._refuse(refusal)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _fail_if_told(self, line: str) -> None:
        for failure in self.hub.failures:
            if failure.times > 0 and re.search(failure.pattern, line):
                failure.times -= 1
                raise Refusal(failure.status, message="told to fail")

    def _refuse(self, refusal: Refusal) -> None:
        headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message, "X-Repo-Commit": refusal.commit}
        body = json.dumps({"error": refusal.message}).encode()
        self._send(body, status=refusal.status, headers={name: text for name, text in headers.items() if text})

    def _send(
        self, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        for name, text in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any) -> None:
        self._send(json.dumps(content).encode())

    # --- who may do what

    def _token(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (WRITE_TOKEN, READ_TOKEN):
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return token

    def _check_may_write(self) -> None:
        token = self._token()
        if token != WRITE_TOKEN:
            raise Refusal(403 if token else 401, message="You don't have the rights to write here")

    def _find(self, kind: str | None, name: str) -> Repo:
        repo = self.hub.repos.get(((kind or "model").removesuffix("s"), name))
        if repo is None or (repo.private and not self._token()):
            raise Refusal(404 if self._token() else 401, "RepoNotFound", "Repository not found")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> Commit:
        if (commit := repo.at(revision)) is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # --- repositories

    def whoami(self) -> None:
        if not self._token():
            raise Refusal(401, message="Invalid username or password.")
        self._json({"name": "tester", "type": "user", "orgs": [{"name": "org"}]})

    def create_repo(self) -> None:
        self._check_may_write()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        kind = asked.get("type", "model")
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repos:
            return self._send(json.dumps({"error": "You already created this repo", "url": url}).encode(), status=409)
        self.hub.create(name, kind=kind, private=asked.get("visibility") == "private" or asked.get("private", False))
        return self._json({"url": url, "name": name, "id": "1"})

    def validate_card(self) -> None:
        """What the Hub checks of a card's metadata, as far as ours have it."""
        asked = json.loads(self.body)
        errors = card_errors(asked["content"], asked["repoType"])
        body = json.dumps({"errors": [{"message": error} for error in errors], "warnings": []}).encode()
        self._send(body, status=400 if errors else 200)

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self._find(kind, name)
        commit = self._commit_of(repo, revision)
        files = [{"rfilename": path} for path in commit.files]
        fixed = {"_id": "1", "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": []}
        dates = {"createdAt": "2026-01-01T00:00:00.000Z", "lastModified": "2026-01-01T00:00:00.000Z"}
        self._json({"id": name, "sha": commit.id, "private": repo.private, "siblings": files, **fixed, **dates})

    def refs(self, kind: str, name: str) -> None:
        repo = self._find(kind, name)

        def listed(refs: dict[str, str], folder: str) -> list[dict[str, str]]:
            return [{"name": one, "ref": f"refs/{folder}/{one}", "targetCommit": at} for one, at in refs.items()]

        self._json({"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags"), "converts": []})

    def commits(self, kind: str, name: str, revision: str) -> None:
        repo = self._find(kind, name)
        self._commit_of(repo, revision)
        rest = {"message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
        self._json([{"id": one.id, "title": one.title, **rest} for one in reversed(repo.commits.values())])

    def create_branch(self, kind: str, name: str, revision: str) -> None:
        self._check_may_write()
        repo = self._find(kind, name)
        if revision in repo.branches:
            raise Refusal(409, message="Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repo.branches[revision] = self._commit_of(repo, start).id
        self._json({})

    def create_tag(self, kind: str, name: str, revision: str) -> None:
        self._check_may_write()
        repo, tag = self._find(kind, name), json.loads(self.body)["tag"]
        if tag in repo.tags:
            raise Refusal(409, message="Tag reference exists already")
        repo.tags[tag] = self._commit_of(repo, revision).id
        self._json({})

    # --- files in

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._check_may_write()
        commit = self._commit_of(self._find(kind, name), revision)
        asked = json.loads(self.body)
        stored = commit.files.get(".gitignore")
        rules = asked.get("gitIgnore", stored.content.decode() if stored else "").split()
        files = []
        for one in asked["files"]:
            path, present = one["path"], commit.files.get(one["path"])
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or one["size"] > LARGE else "regular"
            found = {"path": path, "uploadMode": mode, "shouldIgnore": any(is_ignored(path, rule) for rule in rules)}
            files.append(found | {"oid": present.etag if present else None})
        self._json({"files": files, "commitOid": commit.id})

    def lfs_batch(self, kind: str | None, name: str) -> None:
        """Says where to put which objects; those that are here already need no upload."""
        self._check_may_write()
        self._find(kind, name)
        answers = []
        for one in json.loads(self.body)["objects"]:
            actions = {"actions": {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}"}}}
            answers.append({**one, **({} if one["oid"] in self.hub.objects else actions)})
        self._json({"transfer": "basic", "objects": answers})

    def put_object(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, message="the content does not match its SHA-256")
        self.hub.objects[oid] = self.body
        self._json({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        self._check_may_write()
        repo = self._find(kind, name)
        files, title = dict(self._commit_of(repo, revision).files), ""
        for line in self.body.splitlines():
            key, value = (json.loads(line)[part] for part in ("key", "value"))
            path = value.get("path", "")
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[path] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(400, message=f"{path} was never uploaded")
                files[path] = Blob(self.hub.objects[value["oid"]], True)
            elif key == "deletedFile":
                del files[path]
            else:
                raise Refusal(400, message=f"unknown operation {key}")
        commit = repo.commit(revision, title, files)
        url = f"{self.hub.url}/{'' if repo.kind == 'model' else repo.kind + 's/'}{name}/commit/{commit.id}"
        self._json({"success": True, "commitOid": commit.id, "commitUrl": url})

    # --- files out

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        commit = self._commit_of(self._find(kind, name), revision)
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist", commit.id)
        deep = parse_qs(self.split.query).get("recursive", ["false"])[0].lower() == "true"
        parts = {path: path.removeprefix(prefix).split("/") for path in inside}
        folders = sorted({prefix + names[0] for names in parts.values() if len(names) > 1})
        files = [blob.entry(path) for path, blob in inside.items() if deep or len(parts[path]) == 1]
        self._json([{"type": "directory", "path": one, "size": 0, "oid": "0" * 40} for one in folders] + files)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        files = self._commit_of(self._find(kind, name), revision).files
        asked = parse_qs(self.body.decode())["paths"]
        found = [files[path].entry(path) for path in asked if path in files]
        folders = [path for path in asked if any(one.startswith(f"{path}/") for one in files)]
        self._json(found + [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders])

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        commit = self._commit_of(self._find(kind, name), revision)
        if (blob := commit.files.get(path)) is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", commit.id)
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        content, status = blob.content, 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or LARGE**2), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(content, status=status, headers=headers, kind="application/octet-stream")


def is_ignored(path: str, rule: str) -> bool:
    """The rules of .gitignore that we use: a name anywhere, `/folder/` at the root."""
    if rule.startswith("/"):
        return path.startswith(rule.strip("/") + "/") or path == rule.strip("/")
    return fnmatch.fnmatch(path.rsplit("/", 1)[-1], rule)


def card_errors(content: str, kind: str) -> list[str]:
    """What the Hub would not take of a card's metadata, and what it would merely not understand."""
    match = re.match(r"\s*---\n(.*?)\n---\n", content, re.DOTALL)
    if match is None:
        return []  # no metadata is fine
    data = yaml.safe_load(match[1])
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"]
    errors = [f'"{name}" must be a list of text' for name in LISTS if not _is_texts(data.get(name, []))]
    for name, known in (("license", LICENSES), ("pipeline_tag", TASKS)):
        if data.get(name) not in {None, *known}:
            errors.append(f'"{name}" must be one of {sorted(known)}')
    for name in ("library_name", "base_model", "pretty_name"):
        if not isinstance(data.get(name, ""), str):
            errors.append(f'"{name}" must be text')
    for index in data.get("model-index", []):
        for result in index["results"]:
            errors += [f'"{part}.{key}" is missing' for part, key in RESULT_KEYS if not result.get(part, {}).get(key)]
            errors += [
                "a metric needs type and value" for one in result["metrics"] if not {"type", "value"} <= set(one)
            ]
    return errors


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


LISTS = ("tags", "metrics", "datasets", "task_categories", "size_categories")
RESULT_KEYS = (("task", "type"), ("dataset", "type"), ("dataset", "name"))
NAME = r"(?P<name>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>model|dataset|space)s/{NAME}"
PREFIX = r"/(?:(?P<kind>dataset|space)s/)?"
REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create_repo),
    (r"POST /api/validate-yaml", _Handler.validate_card),
    (rf"GET {API}", _Handler.info),
    (rf"GET {API}/revision/{REVISION}", _Handler.info),
    (rf"GET {API}/refs", _Handler.refs),
    (rf"GET {API}/commits/{REVISION}", _Handler.commits),
    (rf"POST {API}/branch/{REVISION}", _Handler.create_branch),
    (rf"POST {API}/tag/{REVISION}", _Handler.create_tag),
    (rf"POST {API}/preupload/{REVISION}", _Handler.preupload),
    (rf"POST {PREFIX}{NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"PUT /objects/(?P<oid>[0-9a-f]{64})", _Handler.put_object),
    (rf"POST {API}/commit/{REVISION}", _Handler.commit),
    (rf"GET {API}/tree/{REVISION}(?:/(?P<folder>.+))?", _Handler.tree),
    (rf"POST {API}/paths-info/{REVISION}", _Handler.paths_info),
    (rf"(?:GET|HEAD) {PREFIX}{NAME}/resolve/{REVISION}/(?P<path>.+)", _Handler.resolve),
]


def connect(patch: Any, hub: StandInHub, home: Path) -> None:
    """The client libraries of this process talk to the stand-in, with a token that may write."""
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr("transformers.utils.hub._hf_api", None)
    patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    patch.setenv("HF_TOKEN", WRITE_TOKEN)
