"""An MCP server that answers permission questions, run as a program of its own: over stdio, or over HTTP on the port
that it prints. What it answers to a command is in the command.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mcp.server import MCPServer

server = MCPServer("approvals")


@server.tool()
def approve(tool_name: str, input: dict[str, Any], tool_use_id: str) -> str:  # noqa: A002 (the contract's)
    """Answer."""
    said = str(input.get("command", ""))
    if "sleep" in said:
        time.sleep(20)
    if "fail" in said:
        raise ValueError("I failed")
    if "die" in said:
        os._exit(3)
    if "garbage" in said:
        return "yes"
    if "change" in said:
        return json.dumps({"behavior": "allow", "updatedInput": {**input, "command": "echo instead"}})
    if "rm" in said:
        return json.dumps({"behavior": "deny", "message": f"{tool_name} {tool_use_id}: not that"})
    return json.dumps({"behavior": "allow", "updatedInput": input})


@server.tool()
def where() -> str:
    """What this process is and has, for tests."""
    return json.dumps({"cwd": str(Path.cwd()), "names": sorted(os.environ)})


if __name__ == "__main__":
    if "broken" in sys.argv:
        print("no licence for this server", file=sys.stderr)
        sys.exit(4)
    if "http" in sys.argv:
        server.run("streamable-http", port=int(sys.argv[-1]))
    else:
        server.run()
