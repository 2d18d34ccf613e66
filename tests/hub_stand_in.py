"""A stand-in for the Hugging Face hub, in a thread: the calls that its client library makes.

Repositories are in memory, a commit is all or nothing as on the hub, large files take the way of
Git LFS (``HF_HUB_DISABLE_XET=1``: the hub's newer protocol has no server to run). It is a fake, for
there is no hub to install, and says no more than the tests ask; its answers have the shapes that
``huggingface_hub`` reads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_standin"
LARGE = (".safetensors", ".bin", ".gguf", ".parquet", ".png", ".gz")

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits of a repository, newest last, each with all its files."""

    private: bool = False
    commits: list[tuple[str, Files]] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes]) -> str:
        """Add a commit that has exactly ``files``."""
        text = repr([sorted((name, _sha256(data)) for name, data in files.items())])
        oid = hashlib.sha1(f"{len(self.commits)} {text}".encode()).hexdigest()
        self.commits.append((oid, dict(files)))
        return oid

    def at(self, revision: str) -> tuple[str, Files] | None:
        """Return commit and files of a revision."""
        if revision == "main":
            return self.commits[-1]
        return next((found for found in self.commits if found[0] == revision), None)


@dataclass
class Fault:
    """An answer given ``times`` instead of the right one to requests that ``part`` is in."""

    part: str
    status: int
    times: int = 1
    error: str = "out of order"


@dataclass
class Hub:
    """Everything the stand-in holds.

    Attributes:
        repositories: by ``models/OWNER/NAME`` or ``datasets/OWNER/NAME``.
        blobs: large files that were uploaded, by SHA-256.
        requests: method and path of every request.
        seconds_per_blob: how long an upload takes, so that a test can kill the client in it.
        seconds_per_request: how long every answer takes.
        forbidden: owners whose repositories the token may not write.
        hidden: repositories of others that the token may not see.
        faults: answers to give instead of the right one: part of the request, status, how often.
        altered: paths that are kept with their last byte changed.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    seconds_per_blob: float = 0.0
    seconds_per_request: float = 0.0
    forbidden: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    altered: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, files: Mapping[str, bytes]) -> str:
        """Commit ``files`` to ``datasets/OWNER/NAME`` or ``models/…``; return the commit."""
        return self.repositories.setdefault(name, Repository()).commit(files)

    def environment(self) -> dict[str, str]:
        """Return what makes a client use it."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "FORGE_OFFLINE": "0",
        }


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a stand-in while the block runs."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._put)

    # Requests ------------------------------------------------------------------------------

    def _answer(self, respond: Any) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        time.sleep(self.hub.seconds_per_request)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            return  # the client was killed while it sent
        with suppress(BrokenPipeError, ConnectionResetError):
            if not self._faulty(path) and self._token_is_not_wrong():
                respond(path.strip("/"), body)

    def _faulty(self, path: str) -> bool:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times and fault.part in f"{self.command} {path}":
                    fault.times -= 1
                    break
            else:
                return False
        self._json({"error": fault.error}, fault.status)
        return True

    def _token_is_not_wrong(self) -> bool:
        """Refuse a token that is not known, whatever it is sent with."""
        if self.headers.get("Authorization") in (None, f"Bearer {TOKEN}"):
            return True
        self._json({"error": "Invalid username or password."}, 401)
        return False

    def _get(self, path: str, _: bytes) -> None:
        if path == "api/whoami-v2":
            self._json({"name": "someone", "type": "user", "orgs": [], "auth": {}})
            return
        if path.startswith("api/"):
            parts = path.removeprefix("api/").split("/")
            if len(parts) < 3:  # the client asks for things that are not about a repository
                self._json({"error": "not known to the stand-in"}, 404)
                return
            kind, owner, name, *rest = parts
            repository = self._repository(f"{kind}/{owner}/{name}")
            if repository is None:
                return
            what = rest[0] if rest else "revision"
            revision = rest[1] if len(rest) > 1 else "main"
            found = repository.at(revision)
            if found is None:
                self._missing("RevisionNotFound")
            elif what == "tree":
                below = "/".join(rest[2:])
                self._json(_tree(found[1], below, self._query("recursive") == "true"))
            else:
                self._json(_info(f"{owner}/{name}", found, repository))
            return
        kind = "datasets" if path.startswith("datasets/") else "models"
        owner, name, resolve, revision, *rest = path.removeprefix("datasets/").split("/")
        repository = self._repository(f"{kind}/{owner}/{name}")
        if repository is None:
            return
        found = repository.at(revision)
        content = None if found is None else found[1].get("/".join(rest))
        if found is None or content is None or resolve != "resolve":
            self._missing("EntryNotFound")
            return
        etag = _sha256(content) if rest[-1].endswith(LARGE) else _blob(content)
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": found[0]})

    def _post(self, path: str, body: bytes) -> None:
        if not self._authorised():
            return
        if path == "api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization") or "someone"
            key = f"{asked.get('type', 'model')}s/{owner}/{asked['name']}"
            if owner in self.hub.forbidden:
                self._json({"error": f"You don't have the rights to create in {owner}"}, 403)
                return
            exists = key in self.hub.repositories or key in self.hub.hidden
            if not exists:
                # clients before 2.0 say private, later ones visibility
                private = bool(asked.get("private")) or asked.get("visibility") == "private"
                self.hub.repositories[key] = Repository(private=private)
                self.hub.repositories[key].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
            name = key.partition("/")[2]
            self._json({"url": f"{self.hub.url}/{name}", "name": name}, 409 if exists else 200)
        elif path == "api/validate-yaml":  # of a README.md, before it is committed
            card = json.loads(body)["content"]
            errors = [] if card.startswith("---\n") else [{"message": "no metadata"}]
            self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for item in files
            ]
            self._json({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [self._lfs(item) for item in json.loads(body)["objects"]]
            self._json({"transfer": "basic", "objects": objects})
        elif path == "lfs/verify":
            self._json({}, 200 if json.loads(body)["oid"] in self.hub.blobs else 404)
        elif "/paths-info/" in path:
            kind, owner, name, _, revision = path.removeprefix("api/").split("/", 4)
            repository = self._repository(f"{kind}/{owner}/{name}")
            found = None if repository is None else repository.at(revision)
            if found is not None:
                sent = parse_qs(body.decode()).get("paths") or json.loads(body or "{}")["paths"]
                self._json([_entry(p, found[1][p]) for p in sent if p in found[1]])
        elif "/commit/" in path:
            self._commit(path, body)
        else:
            self._json({"error": "not known to the stand-in"}, 404)

    def _put(self, path: str, body: bytes) -> None:
        oid = path.rpartition("/")[2]
        time.sleep(self.hub.seconds_per_blob)
        if _sha256(body) != oid:
            self._json({"error": "not what was announced"}, 400)
            return
        self.hub.blobs[oid] = body
        self._send(200, b"", {})

    def _lfs(self, item: Mapping[str, Any]) -> dict[str, Any]:
        oid = item["oid"]
        if oid in self.hub.blobs:
            return {"oid": oid, "size": item["size"]}
        actions = {
            "upload": {"href": f"{self.hub.url}/lfs/{oid}"},
            "verify": {"href": f"{self.hub.url}/lfs/verify"},
        }
        return {"oid": oid, "size": item["size"], "actions": actions}

    def _commit(self, path: str, body: bytes) -> None:
        kind, owner, name, _, revision = path.removeprefix("api/").split("/", 4)
        if owner in self.hub.forbidden:
            self._json({"error": "Forbidden: you must use a token that may write"}, 403)
            return
        repository = self._repository(f"{kind}/{owner}/{name}")
        if repository is None:
            return
        with self.hub.lock:
            found = repository.at(revision)
            files = dict(found[1]) if found is not None else {}
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header" and value.get("parentCommit") not in (None, found[0]):
                    self._json({"error": "the branch has moved"}, 412)
                    return
                if item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    if value["oid"] not in self.hub.blobs:
                        self._json({"error": f"no blob of {value['path']}"}, 400)
                        return
                    files[value["path"]] = self.hub.blobs[value["oid"]]
                elif item["key"] == "deletedFile":
                    files.pop(value["path"], None)
            for path in self.hub.altered & files.keys():
                files[path] = files[path][:-1] + bytes([files[path][-1] ^ 1])
            oid = repository.commit(files)
        url = f"{self.hub.url}/{owner}/{name}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    # Answers -------------------------------------------------------------------------------

    def _repository(self, key: str) -> Repository | None:
        found = self.hub.repositories.get(key)
        if found is None or (found.private and not self._token()):
            self._missing("RepoNotFound")
            return None
        return found

    def _token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _authorised(self) -> bool:
        if self._token() or self.path.startswith("/lfs/") or "/paths-info/" in self.path:
            return True
        self._json({"error": "Invalid username or password."}, 401)
        return False

    def _query(self, key: str) -> str | None:
        return parse_qs(urlsplit(self.path).query).get(key, [None])[0]

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _info(name: str, found: tuple[str, Files], repository: Repository) -> dict[str, Any]:
    oid, files = found
    return {
        "id": name,
        "sha": oid,
        "private": repository.private,
        "siblings": [{"rfilename": path} for path in sorted(files)],
        "tags": [],
        "downloads": 0,
        "likes": 0,
    }


def _tree(files: Files, below: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{below}/" if below else ""
    entries = {}
    for path, content in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            folder = prefix + "/".join(parts[:depth])
            entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        if recursive or len(parts) == 1:
            entries[path] = _entry(path, content)
    return list(entries.values())


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 128}
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    """Return the name that Git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
