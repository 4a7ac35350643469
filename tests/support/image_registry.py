"""A registry of one image, on this machine, as engines speak to it (OCI distribution, read only)."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry(ThreadingHTTPServer):
    """Serves a one-layer image under every name and tag. `layer`: a tar, not compressed."""

    def __init__(self, layer: bytes, architecture: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        packed = gzip.compress(layer, 1, mtime=0)
        history = {"created": "2026-01-02T03:04:05Z"}
        config = json.dumps(
            history
            | {
                "architecture": architecture,
                "os": "linux",
                "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
                "history": [history],
            }
        ).encode()
        self.blobs = {digest_of(config): config, digest_of(packed): packed}
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "size": len(config), "digest": digest_of(config)},
                "layers": [{"mediaType": LAYER, "size": len(packed), "digest": digest_of(packed)}],
            }
        ).encode()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _answer(self, *, body: bool) -> None:
        if self.path == "/v2/":
            content, kind = b"{}", "application/json"
        elif "/manifests/" in self.path:
            content, kind = self.server.manifest, MANIFEST
        elif (name := self.path.rpartition("/")[2]) in self.server.blobs:
            content, kind = self.server.blobs[name], "application/octet-stream"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", digest_of(content))
        self.end_headers()
        if body:
            self.wfile.write(content)


@contextmanager
def serve_image(layer: bytes, architecture: str) -> Iterator[Registry]:
    """A registry that answers until the context ends."""
    with Registry(layer, architecture) as registry:
        thread = threading.Thread(target=registry.serve_forever, daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            registry.shutdown()
            thread.join()
