"""A small Hub in this process, for the real clients: repositories in memory, served over HTTP on the loopback.

It speaks what `huggingface_hub` 0.36 and 2.4, `transformers` and `datasets` ask of the Hub to create repositories,
commit to them (regular files, git LFS files, deletions) and read from them (trees, whole files, ranges). Two tokens
are known, both of the user `me`: `dummy` may write, `dummy-read` may not. Clients read `HF_ENDPOINT` when they are
imported, so they run in a process of their own: see `HubServer.run`.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

_USER = "me"
_ROLES = {"dummy": "write", "dummy-read": "read"}
_LFS_SUFFIXES = {".safetensors", ".onnx", ".parquet", ".arrow", ".bin", ".png"}
_LFS_BYTES = 10 * 2**20
_DATE = "2026-01-01T00:00:00.000Z"


@pytest.fixture(name="hub")
def hub_fixture():
    """An empty `HubServer`, stopped at the end of the test."""
    with HubServer() as server:
        yield server


class HubServer:
    """A Hub on a free port of 127.0.0.1, its storage of large files on another; a context manager.

    Attributes:
        url (`str`): its address, the value for `HF_ENDPOINT`.
        storage_url (`str`): where its large files lie.
        requests (`list[str]`): `"METHOD /path"` of every request answered so far.
        unknown (`list[str]`): those whose address the server does not know; a test may ask that there are none.
        broken (`set[str]`): put paths in, and they are answered with status 500.
    """

    def __enter__(self):
        self.requests, self.unknown, self.broken = [], [], set()
        self._repositories, self._blobs, self._lock = {}, {}, threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        # Two ports: clients take a redirect to another origin as one to storage, a redirect to the same as a renaming.
        self._listeners = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.storage_url = (f"http://127.0.0.1:{listener.server_port}" for listener in self._listeners)
        for listener in self._listeners:
            threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()

    def add_repo(self, kind, repo_id, folder, *, private=False):
        """Put the files of a folder into a new repository of the kind "model" or "dataset"."""
        folder = Path(folder)
        repository = self.create(kind, repo_id, private)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        repository.commit({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def files(self, kind, repo_id):
        """Return `dict[str, bytes]`: the files of a repository, by their path in it."""
        return dict(self._repositories[kind, repo_id].head)

    def is_private(self, kind, repo_id):
        return self._repositories[kind, repo_id].private

    def environment(self, tmp_path):
        """Return `dict[str, str]`: for a process that is logged in to this server, its caches under `tmp_path`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        }
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(Path(tmp_path) / "hf_home"),
            "HF_TOKEN": "dummy",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, code, tmp_path, timeout=300, **environment):
        """Run Python code in a new process against this server, in the folder `tmp_path`.

        Args:
            code (`str`): the program; written to `tmp_path/program.py`.
            tmp_path (`Path`): its working directory; its caches lie in `tmp_path/hf_home`.
            timeout (`float`, *optional*, defaults to 300): seconds.
            environment (`str`): variables that differ from `self.environment(tmp_path)`, such as `HF_TOKEN="…"`.

        Returns:
            `subprocess.CompletedProcess` with `stdout` and `stderr` as text.
        """
        program = Path(tmp_path) / "program.py"
        program.write_text(code)
        return subprocess.run(
            [sys.executable, str(program)],
            cwd=tmp_path,
            env=self.environment(tmp_path) | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def create(self, kind, repo_id, private):
        """Create an empty repository; raises `FileExistsError` if there is one."""
        with self._lock:
            if (kind, repo_id) in self._repositories:
                raise FileExistsError(repo_id)
            self._repositories[kind, repo_id] = _Repository(kind, repo_id, private)
            return self._repositories[kind, repo_id]

    def find(self, kind, repo_id):
        return self._repositories.get((kind, repo_id))

    def blob(self, sha256):
        """Return the bytes of an uploaded or committed LFS file, or `None`."""
        if sha256 not in self._blobs:
            for repository in list(self._repositories.values()):
                for content in repository.head.values():
                    self._blobs.setdefault(hashlib.sha256(content).hexdigest(), content)
        return self._blobs.get(sha256)

    def keep_blob(self, content):
        self._blobs[hashlib.sha256(content).hexdigest()] = content


@dataclass
class _Repository:
    kind: str
    repo_id: str
    private: bool
    commits: dict = field(default_factory=dict)  # sha → files after that commit
    sha: str = ""
    head: dict = field(default_factory=dict)

    def __post_init__(self):
        self.commit({".gitattributes": "".join(f"*{s} filter=lfs\n" for s in sorted(_LFS_SUFFIXES)).encode()})

    def commit(self, changed, deleted=()):
        """Apply changed files and deleted paths (a trailing `/` for folders) as one commit."""

        def is_deleted(path):
            return any(path == name or (name.endswith("/") and path.startswith(name)) for name in deleted)

        files = {path: content for path, content in self.head.items() if not is_deleted(path)} | changed
        summary = json.dumps([len(self.commits), self.kind, self.repo_id, sorted(map(_git_oid, files.values()))])
        self.sha, self.head = hashlib.sha1(summary.encode()).hexdigest(), files
        self.commits[self.sha] = files

    def files_at(self, revision):
        return self.head if revision == "main" else self.commits.get(revision)

    def sha_of(self, revision):
        return self.sha if revision == "main" else revision

    def info(self, revision, files):
        try:
            card = _card_data(files.get("README.md", b"").decode())
        except yaml.YAMLError:
            card = {}
        return {
            "_id": hashlib.sha1(self.repo_id.encode()).hexdigest()[:24],
            "id": self.repo_id,
            "modelId": self.repo_id,
            "author": self.repo_id.split("/")[0],
            "sha": self.sha_of(revision),
            "private": self.private,
            "gated": False,
            "disabled": False,
            "lastModified": _DATE,
            "createdAt": _DATE,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }


class _Handler(BaseHTTPRequestHandler):
    """Routes requests. Every answer has a length, so connections stay open; bodies are read before the answer."""

    hub = None  # set by HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):  # noqa: N802
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_):
        pass

    def _answer(self):
        url = urlsplit(self.path)
        path, self.query, self.body = unquote(url.path), parse_qs(url.query), self._read_body()
        self.hub.requests.append(f"{self.command} {path}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        self.role = _ROLES.get(token)
        if token and self.role is None:
            return self._error(401, message="Invalid credentials in Authorization header")
        if path in self.hub.broken:
            return self._error(500, message="broken on purpose")
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return action(self, **match.groupdict())
        self.hub.unknown.append(f"{self.command} {path}")
        return self._error(404, message=f"unknown address {path}")

    def _read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content-Type": "application/octet-stream"} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value, status=200):
        self._send(status, json.dumps(value).encode(), Content_Type="application/json")

    def _error(self, status, code=None, message="", **headers):
        named = {"X_Error_Code": code} if code else {}
        content = json.dumps({"error": message}).encode()
        self._send(status, content, Content_Type="application/json", X_Error_Message=message, **named, **headers)

    def _refuse_writing(self, namespace):
        """Answer 401 or 403 unless the token may write in the namespace; returns whether it was refused."""
        if self.role is None:
            self._error(401, message="Invalid username or password.")
        elif self.role != "write" or namespace != _USER:
            self._error(403, message=f"You don't have the rights to write under the namespace {namespace}")
        else:
            return False
        return True

    def _repository(self, kind, repo_id, revision="main"):
        """Find a repository and its files at a revision; answers 404 and returns `(None, None)` if there is none."""
        repository = self.hub.find(kind.rstrip("s"), repo_id)
        if repository is None or (repository.private and self.role is None):
            self._error(404 if self.role else 401, "RepoNotFound", "Repository not found")
            return None, None
        files = repository.files_at(revision or "main")
        if files is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None, None
        return repository, files

    def who_am_i(self):
        if self.role is None:
            return self._error(401, message="Invalid username or password.")
        access_token = {"displayName": "test", "role": self.role}
        auth = {"type": "access_token", "accessToken": access_token}
        return self._json({"type": "user", "id": "1", "name": _USER, "fullname": "Me", "orgs": [], "auth": auth})

    def create_repository(self):
        wanted = json.loads(self.body)
        namespace, kind = wanted.get("organization") or _USER, wanted.get("type") or "model"
        if self._refuse_writing(namespace):
            return None
        repo_id = f"{namespace}/{wanted['name']}"
        created = {"url": f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo_id}", "name": repo_id}
        try:
            self.hub.create(kind, repo_id, bool(wanted.get("private")) or wanted.get("visibility") == "private")
        except FileExistsError:
            return self._json(created | {"error": f"You already created this {kind} repo"}, status=409)
        return self._json(created)

    def validate_card(self):
        try:
            data = _card_data(json.loads(self.body)["content"])
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": f"Invalid YAML: {error}"}], "warnings": []}, status=400)
        errors = [] if isinstance(data, dict) else [{"message": "The metadata must be a mapping"}]
        return self._json({"errors": errors, "warnings": []}, status=400 if errors else 200)

    def repository_info(self, kind, repo_id, revision=None):
        repository, files = self._repository(kind, repo_id, revision)
        return repository and self._json(repository.info(revision or "main", files))

    def check_writing(self, kind, repo_id):
        repository, _ = self._repository(kind, repo_id)
        if repository is not None and not self._refuse_writing(repo_id.split("/")[0]):
            self._send(200)

    def references(self, kind, repo_id):
        repository, _ = self._repository(kind, repo_id)
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.sha if repository else ""}
        return repository and self._json({"branches": [branch], "converts": [], "tags": []})

    def tree(self, kind, repo_id, revision, folder):
        repository, files = self._repository(kind, repo_id, revision)
        if repository is None:
            return None
        prefix = f"{folder}/" if folder else ""
        entries = _entries({path: content for path, content in files.items() if path.startswith(prefix)}, prefix)
        if folder and not entries:
            return self._error(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        if self.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
        return self._json(entries)

    def paths_info(self, kind, repo_id, revision):
        repository, files = self._repository(kind, repo_id, revision)
        if repository is None:
            return None
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = (json.loads(self.body) if is_json else parse_qs(self.body.decode()))["paths"]
        return self._json([entry for entry in _entries(files) if entry["path"] in paths])

    def upload_modes(self, kind, repo_id, revision):
        repository, files = self._repository(kind, repo_id, revision)
        if repository is None:
            return None
        modes = []
        for asked in json.loads(self.body)["files"]:
            path, known = asked["path"], files.get(asked["path"])
            is_lfs = _is_lfs(path, asked["size"])
            oid = None if known is None else hashlib.sha256(known).hexdigest() if is_lfs else _git_oid(known)
            mode = {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            modes.append(mode | ({} if oid is None else {"oid": oid}))
        return self._json({"files": modes, "commitOid": repository.sha})

    def commit(self, kind, repo_id, revision):
        repository, _ = self._repository(kind, repo_id, revision)
        if repository is None or self._refuse_writing(repo_id.split("/")[0]):
            return None
        changed, deleted = {}, []
        for line in filter(None, self.body.splitlines()):
            operation, value = (json.loads(line)[name] for name in ("key", "value"))
            if operation == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif operation == "lfsFile":
                changed[value["path"]] = self.hub.blob(value["oid"])
                if changed[value["path"]] is None:
                    return self._error(400, message=f"LFS object {value['oid']} of {value['path']} was not uploaded")
            elif operation == "deletedFile":
                deleted.append(value["path"])
            elif operation == "deletedFolder":
                deleted.append(value["path"].rstrip("/") + "/")
        repository.commit(changed, deleted)
        prefix = "datasets/" if kind == "datasets" else ""
        url = f"{self.hub.url}/{prefix}{repo_id}/commit/{repository.sha}"
        return self._json({"success": True, "commitOid": repository.sha, "commitUrl": url, "hookOutput": ""})

    def lfs_batch(self, kind, repo_id):
        if self._refuse_writing(repo_id.split("/")[0]):
            return None
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.storage_url}/lfs/{wanted['oid']}"},
                "verify": {"href": f"{self.hub.url}/lfs/verify"},
            }
            known = self.hub.blob(wanted["oid"]) is not None
            objects.append(wanted | ({} if known else {"actions": actions}))
        return self._json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._error(400, message="the content is not the one announced")
        self.hub.keep_blob(self.body)
        return self._send(200)

    def lfs_verify(self):
        wanted = json.loads(self.body)
        content = self.hub.blob(wanted["oid"])
        return self._send(200 if content is not None and len(content) == wanted["size"] else 404)

    def resolve(self, kind, repo_id, revision, path):
        """Serve a regular file; send a reader of an LFS file to `/lfs/…`, as the Hub does to its storage."""
        repository, files = self._repository(kind or "models", repo_id, revision)
        if repository is None:
            return None
        commit = {"X_Repo_Commit": repository.sha_of(revision)}
        if path not in files:
            return self._error(404, "EntryNotFound", "Entry not found", **commit)
        content = files[path]
        if not _is_lfs(path, len(content)):
            return self._send_content(content, _git_oid(content), **commit)
        oid = hashlib.sha256(content).hexdigest()
        self.hub.keep_blob(content)
        linked = {"X_Linked_ETag": f'"{oid}"', "X_Linked_Size": len(content)}
        return self._send(302, Location=f"{self.hub.storage_url}/lfs/{oid}", **linked, **commit)

    def lfs_content(self, oid):
        content = self.hub.blob(oid)
        return self._error(404) if content is None else self._send_content(content, oid)

    def _send_content(self, content, etag, **headers):
        headers |= {"ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._send(200, content, **headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if start >= len(content):
            return self._error(416, message="the range lies beyond the end", Content_Range=f"bytes */{len(content)}")
        headers["Content_Range"] = f"bytes {start}-{end}/{len(content)}"
        return self._send(206, content[start : end + 1], **headers)


_ID = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
_API = rf"/api/(?P<kind>models|datasets)/{_ID}"
_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.who_am_i),
    ("POST", "/api/repos/create", _Handler.create_repository),
    ("POST", "/api/validate-yaml", _Handler.validate_card),
    ("GET", rf"{_API}/revision/(?P<revision>.+)", _Handler.repository_info),
    ("GET", rf"{_API}/auth-check/write", _Handler.check_writing),
    ("GET", rf"{_API}/refs", _Handler.references),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)/?(?P<folder>.*?)/?", _Handler.tree),
    ("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", _Handler.upload_modes),
    ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("GET", _API, _Handler.repository_info),
    ("POST", rf"/(?:(?P<kind>datasets)/)?{_ID}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("POST", "/lfs/verify", _Handler.lfs_verify),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    (("GET", "HEAD"), r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_content),
    (("GET", "HEAD"), rf"/(?:(?P<kind>datasets)/)?{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]


def _is_lfs(path, size_bytes):
    return PurePosixPath(path).suffix in _LFS_SUFFIXES or size_bytes > _LFS_BYTES


def _git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entries(files, prefix=""):
    """Describe files and the folders that hold them, below `prefix`, as the Hub's tree does."""
    entries = {}
    for path, content in files.items():
        for parent in PurePosixPath(path).parents:
            if parent.name and f"{parent}/".startswith(prefix) and f"{parent}/" != prefix:
                oid = hashlib.sha1(str(parent).encode()).hexdigest()
                entries[str(parent)] = {"type": "directory", "path": str(parent), "size": 0, "oid": oid}
        entries[path] = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
        if _is_lfs(path, len(content)):
            sha256 = hashlib.sha256(content).hexdigest()
            entries[path]["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return [entries[path] for path in sorted(entries)]


def _card_data(text):
    """Return the metadata at the head of a card, `{}` where there is none."""
    head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    return (yaml.safe_load(head[1]) or {}) if head else {}
