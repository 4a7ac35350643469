"""Takes hostile files apart in the box, as verbs of helper.py: images, PDFs and notebooks become JSON.

    image PATH · pdf PATH FIRST LAST WHOLE QPDF… · notebook PATH

Standard library, and the toolbox's PIL for images.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from io import BytesIO
from json import loads

from sandbox.server.regular import RefusedError, open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeAlias

    Answer: TypeAlias = dict[str, Any]
    Picture: TypeAlias = Any  # PIL is in the toolbox only

EDGE = 1568
IMAGE_BYTES = 3_750_000
PIXELS = 100_000_000
FILE_BYTES = 100 << 20
PDF_BYTES = 15 << 20
PAGES = 20
OUTPUT_TEXT = 10_000
NOTEBOOK_TEXT = 400_000
NOTEBOOK_IMAGES = 20
NOTEBOOK_IMAGE_BYTES = 8 << 20  # of base64, all together
QUALITIES = (85, 60, 40)
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


def open_file(path: str) -> tuple[int, os.stat_result]:
    """A file to take apart: not empty, not huge."""
    file, status = open_regular(path)
    if status.st_size == 0:
        raise RefusedError("the file is empty.")
    if status.st_size > FILE_BYTES:
        raise RefusedError(f"the file is larger than {FILE_BYTES >> 20} MiB.")
    return file, status


def told(status: os.stat_result) -> Answer:
    """A stat as the host knows it."""
    return {
        "mode": status.st_mode & 0o7777,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def image(path: str) -> Answer:
    """The image as it is where it fits; else smaller, as PNG or JPEG."""
    file, status = open_file(path)
    with open(file, "rb") as stream:
        data = stream.read()
    return small_image(data) | {"stat": told(status)}


def small_image(data: bytes) -> Answer:
    """Verified, at most EDGE pixels wide and high and IMAGE_BYTES long."""
    try:
        import warnings  # noqa: PLC0415  with PIL

        from PIL import Image, ImageFile, ImageOps  # type: ignore[import-not-found]  # noqa: PLC0415  only for images
    except ImportError as error:
        raise RefusedError(f"the toolbox cannot decode images ({error}).") from None
    Image.MAX_IMAGE_PIXELS = PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        with Image.open(BytesIO(data), formats=list(FORMATS)) as opened:
            kind, size = opened.format, opened.size
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            fits = max(size) <= EDGE and len(data) <= IMAGE_BYTES
            if fits:
                with Image.open(BytesIO(data), formats=[kind]) as again:
                    again.verify()  # a PNG's checksums and end, which loading does not mind
                return reply(data, FORMATS[kind], size, size)
            shown = (
                upright if upright.mode in {"RGB", "L"} else upright.convert("RGBA" if has_alpha(upright) else "RGB")
            )
            shown.thumbnail((EDGE, EDGE))
            return squeezed(shown, kind, size)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RefusedError(f"the image has more than {PIXELS} pixels.") from None
    except MemoryError:
        raise RefusedError("the image needs too much memory.") from None
    except Exception as error:  # noqa: BLE001  PIL raises nearly anything on damaged files
        raise RefusedError(f"the file is not an image that can be decoded ({type(error).__name__}).") from None


def has_alpha(picture: Picture) -> bool:
    """Whether anything may shine through."""
    return picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info


def squeezed(picture: Picture, kind: str, size: tuple[int, int]) -> Answer:
    """PNG stays PNG where that is small enough; JPEG of falling quality else, halved when even that is too large."""
    if kind != "JPEG":
        stream = BytesIO()
        picture.save(stream, "PNG")
        if stream.tell() <= IMAGE_BYTES:
            return reply(stream.getvalue(), "image/png", picture.size, size)
    plain = picture.convert("RGB")
    while True:
        for quality in QUALITIES:
            stream = BytesIO()
            plain.save(stream, "JPEG", quality=quality)
            if stream.tell() <= IMAGE_BYTES:
                return reply(stream.getvalue(), "image/jpeg", plain.size, size)
        plain = plain.reduce(2)


def reply(data: bytes, media_type: str, size: tuple[int, int], original: tuple[int, int]) -> Answer:
    """An image as JSON."""
    return {
        "data": b64encode(data).decode(),
        "media_type": media_type,
        "width": size[0],
        "height": size[1],
        "original_width": original[0],
        "original_height": original[1],
    }


def pdf(path: str, first_page: str, last_page: str, most: str, *qpdf: str) -> Answer:
    """All pages of a short PDF, or those that were asked for."""
    first, last, whole = int(first_page), int(last_page), int(most)
    file, status = open_file(path)
    if os.pread(file, 1024, 0).find(b"%PDF-") < 0:
        raise RefusedError("the file is not a PDF.")
    source = f"/proc/self/fd/{file}"
    out = run_qpdf(qpdf, file, "--show-npages", source).strip()
    if not out.isdigit() or int(out) == 0:
        raise RefusedError("the PDF has no pages that can be counted.")
    count = int(out)
    if not first:
        if count > whole:
            raise RefusedError(
                f'the PDF has {count} pages: say with pages which to read, such as "1-5" (at most {PAGES} in one call).'
            )
        first, last = 1, count
    if first > count:
        raise RefusedError(f"the PDF has {count} pages only.")
    last = min(last, count, first + PAGES - 1)
    if (first, last) == (1, count):
        with open(file, "rb", closefd=False) as stream:
            data = stream.read()
    else:
        data = run_qpdf(qpdf, file, "--empty", "--pages", source, f"{first}-{last}", "--", "-")
    if len(data) > PDF_BYTES:
        raise RefusedError(
            f"these pages are {len(data) >> 20} MiB; at most {PDF_BYTES >> 20} MiB can be sent. Ask for fewer."
        )
    return {"data": b64encode(data).decode(), "pages": count, "first": first, "last": last, "stat": told(status)}


def run_qpdf(qpdf: tuple[str, ...], file: int, *arguments: str) -> bytes:
    """What qpdf prints. Its exit code 3 is warnings only."""
    import subprocess  # noqa: PLC0415  only here

    try:
        done = subprocess.run(
            [*qpdf, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(file,),
            timeout=50,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError("the PDF takes too long to read.") from None
    except OSError as error:
        raise RefusedError(f"the toolbox cannot read PDFs ({error.strerror}).") from None
    if done.returncode not in {0, 3}:
        said = done.stderr.decode("utf-8", "replace")
        if "password" in said:
            raise RefusedError("the PDF is protected by a password.")
        raise RefusedError("the PDF is damaged and cannot be read.")
    return done.stdout


def notebook(path: str) -> Answer:
    """All cells with their outputs."""
    file, status = open_file(path)
    with open(file, "rb") as stream:
        raw = stream.read()
    try:
        book = loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise RefusedError("the notebook is not valid JSON.") from None
    if not isinstance(book, dict) or not isinstance(book.get("cells"), list):
        raise RefusedError("the file is JSON, but no notebook of format 4: it has no list of cells.")
    shown = Shown()
    cells = []
    for number, cell in enumerate(book["cells"]):
        if not isinstance(cell, dict):
            raise RefusedError(f"cell {number} of the notebook is not an object.")
        if shown.text <= 0:
            break
        cells.append(shown.cell(cell, number))
    return {
        "language": language(book),
        "cells": cells,
        "cut": shown.cut,
        "left_out": len(book["cells"]) - len(cells),
        "stat": told(status),
    }


def language(book: Answer) -> str:
    """The language of the code cells."""
    metadata = book.get("metadata")
    for key, inner in (("language_info", "name"), ("kernelspec", "language")):
        place = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(place, dict) and isinstance(place.get(inner), str):
            return str(place[inner])
    return "python"


def joined(value: Any) -> str:
    """A multi-line string, which a notebook may keep as a list."""
    if isinstance(value, list):
        value = "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


class Shown:
    """What is left of the bounds while a notebook is shown."""

    def __init__(self) -> None:
        self.text = NOTEBOOK_TEXT
        self.images = NOTEBOOK_IMAGES
        self.image_bytes = NOTEBOOK_IMAGE_BYTES
        self.cut = False

    def take(self, text: str, most: int) -> str:
        """The text within its own bound and the notebook's."""
        most = max(0, min(most, self.text))
        if len(text) > most:
            self.cut = True
            half = most // 2
            text = f"{text[:half]}\n… [{len(text) - 2 * half} characters left out] …\n{text[len(text) - half :]}"
        self.text -= len(text)
        return text.encode("utf-8", "replace").decode()

    def cell(self, cell: Answer, number: int) -> Answer:
        """One cell."""
        told: Answer = {
            "id": str(cell.get("id") or f"cell-{number}")[:100],
            "cell_type": str(cell.get("cell_type") or "code")[:20],
            "source": self.take(joined(cell.get("source")), NOTEBOOK_TEXT),
        }
        count, outputs = cell.get("execution_count"), cell.get("outputs")
        if isinstance(count, int):
            told["execution_count"] = count
        if isinstance(outputs, list):
            told["outputs"] = [self.output(output) for output in outputs if isinstance(output, dict)]
        return told

    def output(self, output: Answer) -> Answer:
        """One output: text, and an image where there is one."""
        kind = str(output.get("output_type"))[:40]
        if kind == "stream":
            return {"kind": kind, "text": self.take(plain(joined(output.get("text"))), OUTPUT_TEXT)}
        if kind == "error":
            trace = output.get("traceback")
            lines = [line for line in trace if isinstance(line, str)] if isinstance(trace, list) else []
            text = "\n".join([f"{output.get('ename')}: {output.get('evalue')}", *lines])
            return {"kind": kind, "text": self.take(plain(text), OUTPUT_TEXT)}
        data = output.get("data")
        data = data if isinstance(data, dict) else {}
        told = {"kind": kind, "text": self.take(plain(joined(data.get("text/plain"))), OUTPUT_TEXT)}
        picture = next((joined(data[key]) for key in ("image/png", "image/jpeg") if key in data), "")
        if picture:
            self.picture(picture, told)
        return told

    def picture(self, encoded: str, told: Answer) -> None:
        """An image output, when it can be decoded and there are not too many."""
        if self.images <= 0:
            self.cut = True
            return
        self.images -= 1
        try:
            small = small_image(b64decode(encoded))
        except (RefusedError, ValueError) as error:
            told["text"] += f"\n[an image that cannot be shown: {error}]"
            return
        if len(small["data"]) > self.image_bytes:
            self.cut = True
            return
        self.image_bytes -= len(small["data"])
        told["image"] = {"data": small["data"], "media_type": small["media_type"]}


def plain(text: str) -> str:
    """Without terminal colours."""
    return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text)


VERBS: Mapping[str, Callable[..., Answer]] = {"image": image, "pdf": pdf, "notebook": notebook}
