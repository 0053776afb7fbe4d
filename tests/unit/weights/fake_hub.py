"""A small hub on this computer that downloads can be tested against."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """Responds to the few requests that a download makes, and records them."""

    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)  # (repo, commit) → files
    heads: dict[str, str] = field(default_factory=dict)  # repo → commit of `main`
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)  # repo → status, error code
    spoiled: set[str] = field(default_factory=set)  # files that are sent with other content
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def publish(self, repo: str, commit: str, files: dict[str, bytes], *, main: bool = True) -> None:
        self.files[repo, commit] = files
        if main:
            self.heads[repo] = commit

    def respond(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(path)
        api = re.fullmatch(r"/api/models/(\w[\w.-]*/[\w.-]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(r"/(\w[\w.-]*/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        assert match is not None, path
        repo, revision = match[1], unquote(match[3] if api else match[2])
        if repo in self.errors:
            status, code = self.errors[repo]
            return status, {"X-Error-Code": code, "X-Error-Message": "no"}, b"{}"
        commit = self.heads.get(repo, "") if revision == "main" else revision
        if (repo, commit) not in self.files:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = self.files[repo, commit]
        if api:
            return 200, {"Content-Type": "application/json"}, self._listing(api[2], repo, commit, files)
        content = files[match[3]]
        if match[3] in self.spoiled:
            content = bytes(len(content))
        tag = hashlib.sha256(files[match[3]]).hexdigest()
        return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "none"}, content

    def _listing(self, kind: str, repo: str, commit: str, files: dict[str, bytes]) -> bytes:
        entries: list[dict[str, Any]] = []
        for name, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            lfs = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 130}
            large = {"lfs": lfs} if name.endswith(".bin") else {}
            entry = {"size": len(content), "oid": "0" * 40, "blobId": "0" * 40, **large}
            entries.append({"type": "file", "path": name, "rfilename": name, **entry})
        if kind == "tree":
            return json.dumps(entries).encode()
        return json.dumps({"id": repo, "modelId": repo, "sha": commit, "siblings": entries}).encode()

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        """Serve on a free port of this computer."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _reply(self, *, body: bool) -> None:
                status, headers, content = fake.respond(urlsplit(self.path).path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def do_GET(self) -> None:
                self._reply(body=True)

            def do_HEAD(self) -> None:
                self._reply(body=False)

            def log_message(self, format: str, *args: object) -> None:
                """Silence."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)
