"""The docker SDK as a Transport, for what only it does: TLS endpoints, registry credentials.

Loaded when first needed (`sandbox.engine` names it): the import takes 0.3 s.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import docker
import docker.errors
import docker.utils
import requests
from docker.api import APIClient

from sandbox.errors import EngineLostError, EngineMissingError, ImageMissingError
from sandbox.transport import CHUNK, encode_query, raise_for


class SdkReply:
    """A Reply over a `requests` response."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in response.headers.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes."""
        with _translated():
            yield from self._response.iter_content(CHUNK)


class SdkTransport:
    """Transport through `docker.APIClient`: `tcp://` with TLS from the environment."""

    def __init__(self, endpoint: str, environ: Mapping[str, str], *, version: str, timeout: float = 60.0) -> None:
        self.endpoint = endpoint
        self._client = client(endpoint, environ, version=version, timeout=timeout)

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> SdkReply:
        """See Transport."""
        extra = dict(headers or {})
        data = body
        if isinstance(body, dict | list):
            data, extra["Content-Type"] = json.dumps(body), "application/json"
        url = f"{self._client.base_url}{path}{encode_query(query)}"
        with _translated():
            response = self._client.request(
                method,
                url,
                data=data if isinstance(data, bytes | str) or data is None else _pieces(data),
                headers=extra,
                stream=True,
                timeout=timeout or self._client.timeout,
            )
        reply = SdkReply(response)
        if reply.status >= 400:
            with reply:
                raise_for(reply.status, b"".join(reply.chunks()))
        return reply

    def hijack(self, path: str, *, query: Mapping[str, object]) -> socket.socket:
        """See Transport."""
        container = path.split("/")[-2]
        with _translated():
            stream = self._client.attach_socket(container, params={k: int(bool(v)) for k, v in query.items()})
        sock = getattr(stream, "_sock", stream)
        assert hasattr(sock, "sendall")
        sock.settimeout(None)
        return sock  # type: ignore[no-any-return]


def client(endpoint: str, environ: Mapping[str, str], *, version: str, timeout: float) -> APIClient:
    """The SDK's low-level client; a fixed `version` saves its own round trip."""
    found = docker.utils.kwargs_from_env(environment=dict(environ))
    options: dict[str, Any] = {key: value for key, value in found.items() if key != "base_url"}
    try:
        return APIClient(base_url=endpoint, version=version, timeout=int(timeout), **options)
    except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as error:
        raise EngineMissingError(
            f"{endpoint} cannot be reached: {error}", hint="see that `docker version` works with this DOCKER_HOST"
        ) from error


def pull(endpoint: str, environ: Mapping[str, str], *, version: str, name: str) -> None:
    """Pull with the user's registry credentials. Raises ImageMissingError when no registry gives it."""
    api = client(endpoint, environ, version=version, timeout=600)
    try:
        for line in api.pull(name, stream=True, decode=True):
            if "error" in line:
                raise ImageMissingError(f"{name}: {line['error']}")
    except docker.errors.APIError as error:
        raise ImageMissingError(f"{name}: {error.explanation or error}") from error
    finally:
        api.close()


def _pieces(data: object) -> Iterator[bytes]:
    assert isinstance(data, Iterable)
    yield from data


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except requests.exceptions.ConnectionError as error:
        raise EngineMissingError(f"the engine cannot be reached: {error}") from error
    except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as error:
        raise EngineLostError(f"the engine went away: {error}") from error
