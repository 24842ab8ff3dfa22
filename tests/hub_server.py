"""A server for tests that speaks the part of the Hub's protocol that `huggingface_hub` needs.

Downloads are answered with the headers from which the library learns commit, size and hash;
uploads go through its preupload, large-file and commit requests.
"""

import base64
import hashlib
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_test"


class HubServer(ThreadingHTTPServer):
    """Holds repositories in memory; listens on a free port of the loopback address."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}  # by repository
        self.visibility: dict[str, str] = {}  # private or gated
        self.stored: dict[str, bytes] = {}  # large files, by SHA-256
        self.requests: list[str] = []
        # Part of a request -> a status to answer with, "drop" (no answer), "cut" (half a body, the
        # first time) or "flip" (a wrong last byte).
        self.failures: dict[str, int | str] = {}
        self.last = 10**6  # further requests are dropped

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """Makes a commit in a repository, and that if it is not there; returns the commit."""
        commits = self.commits.setdefault(repository, [])
        before = commits[-1][1] if commits else {}
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits.append((commit, before | files))
        return commit

    def files(self, repository: str, revision: str = "main") -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision is, and its files."""
        commits = self.commits[repository]
        if revision == "main":
            return commits[-1] if commits else ("0" * 40, {})
        return next((entry for entry in commits if entry[0] == revision), None)

    def handle_error(self, *_) -> None:
        """A client that has gone is no error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_) -> None:
        """Prints nothing."""

    def do_HEAD(self) -> None:
        self.serve()

    do_GET = do_POST = do_PUT = do_HEAD

    def serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {urllib.parse.unquote(path)}")
        self.failure = next(
            (
                what
                for part, what in self.server.failures.items()
                if part in self.server.requests[-1]
            ),
            None,
        )
        if len(self.server.requests) > self.server.last:
            self.failure = "drop"
        if self.failure == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif isinstance(self.failure, int):
            self.answer(self.failure, b"{}")
        else:
            parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
            self.route(parts)

    def route(self, parts: list[str]) -> None:
        match parts:
            case ["api", "repos", "create"]:
                self.create(json.loads(self.body))
            case ["api", "validate-yaml"]:
                self.answer(200, {"errors": [], "warnings": []})
            case ["lfs", oid]:
                self.server.stored[oid] = self.body
                self.answer(200, b"")
            case [owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                self.with_repository(f"{owner}/{name.removesuffix('.git')}", self.batch, write=True)
            case ["api", "models", owner, name, action, revision]:
                act = {"tree": self.tree, "preupload": self.preupload, "commit": self.commit}[
                    action
                ]
                self.with_repository(
                    f"{owner}/{name}", act, revision, write=action in ("preupload", "commit")
                )
            case ["api", "models", owner, name]:
                self.with_repository(f"{owner}/{name}", self.info)
            case [owner, name, "resolve", revision, *file]:
                self.with_repository(f"{owner}/{name}", self.resolve, revision, "/".join(file))
            case _:
                self.answer(404, {})

    def with_repository(self, repository: str, act, *arguments: str, write: bool = False) -> None:
        """Answers with an error unless there is such a repository and it may be used."""
        kind = self.server.visibility.get(repository)
        knows = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository not in self.server.commits or (kind == "private" and not knows):
            self.refuse(404 if knows else 401, "RepoNotFound", "Repository not found")
        elif kind == "gated":
            self.refuse(403, "GatedRepo", "Access to this model is restricted")
        elif write and not knows:
            self.refuse(403, "Forbidden", "You have no write access")
        else:
            act(repository, *arguments)

    def create(self, asked: dict) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "", "Invalid username or password.")
        elif repository in self.server.commits:
            self.answer(409, {"url": f"{self.server.url}/{repository}"})
        else:
            private = asked.get("private") or asked.get("visibility") == "private"
            self.server.commits[repository] = []
            self.server.visibility[repository] = "private" if private else "public"
            self.answer(200, {"url": f"{self.server.url}/{repository}", "name": repository})

    def info(self, repository: str) -> None:
        self.answer(200, {"id": repository, "sha": self.server.files(repository)[0]})

    def tree(self, repository: str, revision: str) -> None:
        found = self.server.files(repository, revision)
        if not found:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        self.answer(
            200,
            [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in found[1].items()
            ],
        )

    def resolve(self, repository: str, revision: str, file: str) -> None:
        found = self.server.files(repository, revision)
        if not found:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        commit, files = found
        if file not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
        sha256 = hashlib.sha256(files[file]).hexdigest()
        self.answer(200, files[file], **{"X-Repo-Commit": commit, "X-Linked-Etag": f'"{sha256}"'})

    def preupload(self, repository: str, revision: str) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": modes})

    def batch(self, repository: str) -> None:
        objects = [
            {
                **entry,
                "actions": {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}},
            }
            for entry in json.loads(self.body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, repository: str, revision: str) -> None:
        files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        commit = self.server.add(repository, files)
        url = f"{self.server.url}/{repository}/commit/{commit}"
        self.answer(200, {"commitUrl": url, "commitOid": commit, "success": True})

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        self.answer(
            status,
            {"error": message},
            **{"X-Error-Code": code, "X-Error-Message": message},
            **headers,
        )

    def answer(self, status: int, content: bytes | dict | list, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.failure == "flip":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.failure == "cut":
            self.server.failures.clear()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(data)


def serve() -> Iterator[HubServer]:
    """Yields a server that runs in a thread until the iterator is closed."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
