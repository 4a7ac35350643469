"""Entry of our helpers in the box: `helper.py VERB ARGUMENT…` prints one JSON object.

Run by the toolbox's Python as the owner, never on the host. A no is {"error": sentence} and exit code 1.
"""

import sys
from json import dumps

sys.path[:0] = [__file__.rsplit("/", 3)[0]]

from sandbox.server.regular import RefusedError  # noqa: E402  the path comes first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def verbs(name: str) -> "Mapping[str, Callable[..., dict[str, Any]]]":
    """The module that knows the verb; each is loaded only when it is needed."""
    if name in {"glob", "lines", "newest"}:
        from sandbox.server.search import VERBS  # noqa: PLC0415  start-up time
    elif name == "fetch":
        from sandbox.server.fetch import VERBS  # noqa: PLC0415  start-up time
    else:
        from sandbox.server.decode import VERBS  # noqa: PLC0415  start-up time
    return VERBS


def main(arguments: "list[str]") -> int:
    """One verb, one answer."""
    try:
        answer, code = verbs(arguments[0])[arguments[0]](*arguments[1:]), 0
    except RefusedError as error:
        answer, code = {"error": str(error)}, 1
    sys.stdout.write(dumps(answer))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
