"""What tests of boxes start from, made once: `python -m tests.support.prepare [IMAGE...]`, the toolbox and all images
but where some are named. What it keeps for later runs lies where the fixtures look for it.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox.engine import ImageInfo, connect
from sandbox.errors import SandboxError
from sandbox.images import ensure_image
from sandbox.toolbox import ensure_toolbox


def cache_directory() -> Path:
    """Shared by all runs of this user: images and packages are large, and named by their digests."""
    named = os.environ.get("FUMEHOOD_TEST_CACHE")
    return Path(named) if named else Path.home() / ".cache/fumehood-tests"


def main(*images: str) -> int:
    """`images` beside base, and the toolbox; what is there already costs a request each."""
    cache = cache_directory()
    try:
        engine = connect(os.environ)

        def image(name: str) -> ImageInfo:
            return ensure_image(engine, name, cache=cache, progress=print)

        with ThreadPoolExecutor() as side_by_side:
            others = [side_by_side.submit(image, name) for name in images or ("busybox", "plain")]
            ensure_toolbox(engine, base=image("base"), cache=cache, progress=print)
            for other in others:
                other.result()
        engine.close()
    except SandboxError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
