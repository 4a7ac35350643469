"""Fetches a page in the box, as a verb of helper.py: `fetch URL`. HTML becomes Markdown by the toolbox's html2text.

Through the box's proxy, as the environment names it. Redirects are followed within a host only. Standard library.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from urllib.parse import urljoin, urlsplit

from sandbox.server.regular import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from typing import Any

    Answer = dict[str, Any]

BODY = 10 << 20
TEXT = 400_000  # characters of Markdown or text
SECONDS = 30.0
CONVERT_SECONDS = 20.0
REDIRECTS = 10
BROTLI_OR_WORSE = "the server compresses in a way that was not asked for"
AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt")
TEXTS = re.compile(r"text/|application/(json|xml|javascript|x-yaml|yaml|[\w.+-]+\+(json|xml))\b")
HTML = re.compile(r"(text/html|application/xhtml\+xml)\b")
CHARSET = re.compile(r"charset=[\"']?([\w-]+)", re.IGNORECASE)
HTML2TEXT = ("-m", "html2text", "--body-width", "0", "--ignore-images", "--unicode-snob")
AGENT = "fumehood (WebFetch)"


class Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are ours to follow."""

    def redirect_request(self, *_: Any) -> None:
        """None of them."""
        return


def fetch(url: str) -> Answer:
    """The page at the end of the redirects within the host: `{url, code, reason, bytes, kind, text, cut}`, or
    `{url, code, reason, redirect}` where one leads elsewhere.
    """
    opener = urllib.request.build_opener(Stay(), urllib.request.HTTPSHandler(context=trust(os.environ)))
    here = url
    for _ in range(REDIRECTS):
        request = urllib.request.Request(here, headers={"User-Agent": AGENT, "Accept": "text/html, text/*, */*;q=0.1"})  # noqa: S310  http and https: the host checked
        try:
            with opener.open(request, timeout=SECONDS) as reply:
                return page(here, reply.status, reply.reason, reply.headers, reply)
        except urllib.error.HTTPError as error:
            with error:
                target = error.headers.get("Location", "")
                if error.code not in {301, 302, 303, 307, 308} or not target:
                    return page(here, error.code, str(error.reason), error.headers, error)
                there = urljoin(here, target)
                if not same_place(here, there):
                    return {"url": here, "code": error.code, "reason": str(error.reason), "redirect": there[:4000]}
                here = there
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            raise RefusedError(f"{explained(error)}") from None
    raise RefusedError(f"more than {REDIRECTS} redirects.")


def same_place(here: str, there: str) -> bool:
    """Whether a redirect stays: the same host, but for a leading www., and never back to plain http."""
    try:
        first, second = urlsplit(here), urlsplit(there)
        ports = first.port, second.port
    except ValueError:
        return False
    names = [(part.hostname or "").removeprefix("www.") for part in (first, second)]
    if second.scheme == "https" and first.scheme == "http":
        return names[0] == names[1]
    return first.scheme == second.scheme and names[0] == names[1] and ports[0] == ports[1]


def explained(error: Exception) -> str:
    """What went wrong, as a sentence."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"the certificate of the server cannot be verified ({reason.verify_message})."
    text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
    return f"the page cannot be fetched: {text[:500]}."


def trust(environ: Mapping[str, str]) -> ssl.SSLContext:
    """The box's own authorities: those that its environment names, else the image's."""
    named = environ.get("SSL_CERT_FILE", "")
    file = next((path for path in (named, *AUTHORITIES) if path and os.path.isfile(path)), None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if file is not None:
        context.load_verify_locations(file)
    return context


def page(url: str, code: int, reason: str, headers: Message, body: Any) -> Answer:
    """A reply, taken apart."""
    kind = headers.get("Content-Type", "text/plain").strip().lower()[:200]
    encoding, length = headers.get("Content-Encoding", "identity").strip().lower(), headers.get("Content-Length", "")
    data, cut = bounded(body, encoding, int(length) if length.isdecimal() else 0)
    answer = {"url": url, "code": code, "reason": reason[:200], "bytes": len(data), "kind": kind}
    if HTML.match(kind):
        text = markdown(decoded(data, kind))
    elif TEXTS.match(kind):
        text = decoded(data, kind)
    else:
        what = f"{kind.partition(';')[0]}, {len(data)} bytes"
        raise RefusedError(f"what is there is {what}: no text. Fetch it with curl in Bash instead.")
    return answer | {"text": text[:TEXT], "cut": cut or len(text) > TEXT}


def bounded(body: Any, encoding: str, length: int) -> tuple[bytes, bool]:
    """The body up to BODY bytes, decompressed, and whether there is more (of the `length` that was promised). What is
    compressed is never inflated past that.
    """
    data, cut, came = bytearray(), False, 0
    inflate = None
    if encoding in {"gzip", "x-gzip", "deflate"}:
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    elif encoding not in {"", "identity"}:
        raise RefusedError(f"{BROTLI_OR_WORSE} ({encoding[:50]}).")
    try:
        while len(data) <= BODY and (piece := body.read(1 << 16)):
            came += len(piece)
            data += piece if inflate is None else inflate.decompress(piece, BODY + 1 - len(data))
            if inflate is not None and inflate.unconsumed_tail:
                cut = True
                break
    except zlib.error:
        raise RefusedError("what the server compressed is damaged.") from None
    except (http.client.HTTPException, OSError) as error:
        if not data:
            raise RefusedError(explained(error)) from None
        cut = True
    return bytes(data[:BODY]), cut or len(data) > BODY or came < length


def decoded(data: bytes, kind: str) -> str:
    """As text, by the charset that the header names, or the page itself; UTF-8 else."""
    found = CHARSET.search(kind) or CHARSET.search(data[:2048].decode("latin-1"))
    try:
        return data.decode(found[1] if found else "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def markdown(text: str) -> str:
    """HTML as Markdown, made by a program of its own: it is GPL, and its time and memory are bounded."""
    try:
        done = subprocess.run(
            [*python(), *HTML2TEXT, "-", "utf-8"],
            input=text.encode("utf-8", "replace"),
            capture_output=True,
            timeout=CONVERT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError("the page takes too long to convert.") from None
    if done.returncode != 0:
        raise RefusedError("the page cannot be converted.")
    return re.sub(r"\n{3,}", "\n\n", done.stdout.decode("utf-8", "replace")).strip()


def python() -> list[str]:
    """This interpreter again: the toolbox's, with its own loader, or the one that tests run."""
    if not os.path.exists("/opt/fumehood/lib/ld.so"):
        return [sys.executable]
    root = "/opt/fumehood"
    return [f"{root}/lib/ld.so", "--inhibit-cache", "--library-path", f"{root}/lib", f"{root}/bin/python3", "-ISB"]


VERBS = {"fetch": fetch}
