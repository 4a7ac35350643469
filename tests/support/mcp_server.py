"""An MCP server for tests, as a program: `python mcp_server.py ANSWERS`. Its tool `decide` answers with the lines of
the file, one after the other, and appends what it was asked to ANSWERS.asked. A line `DIE`, `HANG` or `FAIL` is done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer

ANSWERS = Path(sys.argv[1])
server = MCPServer("tests")
lines = iter(ANSWERS.read_text().splitlines())


@server.tool()
def decide(tool_name: str, input: dict[str, Any], tool_use_id: str) -> str:  # noqa: A002 (the contract's name)
    """Answer a permission question."""
    asked = {"tool_name": tool_name, "input": input, "tool_use_id": tool_use_id}
    with ANSWERS.with_suffix(".asked").open("a") as file:
        file.write(json.dumps(asked | {"secrets": [name for name in os.environ if "KEY" in name]}) + "\n")
    line = next(lines)
    if line == "DIE":
        os._exit(3)
    if line == "HANG":
        time.sleep(60)
    if line == "FAIL":
        raise ValueError("cannot decide")
    return line


if __name__ == "__main__":
    server.run()
