"""The least agent that can play a script of Bash and Read calls: one kept connection to the model server, each stream
read to its end, each tool run at once and on the host. A floor to hold ours against, by itself and without a sandbox.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HEADERS = {"x-api-key": "bench", "anthropic-version": "2023-06-01", "content-type": "application/json"}


def ask(server: http.client.HTTPConnection, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content blocks of the model's reply."""
    body = {"model": "claude-opus-4-5", "max_tokens": 1024, "stream": True, "messages": messages}
    server.request("POST", "/v1/messages", json.dumps(body), HEADERS)
    blocks: list[dict[str, Any]] = []
    for line in server.getresponse().read().splitlines():
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line[6:])
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"] | {"given": ""})
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            blocks[-1]["given"] += delta.get("text") or delta.get("partial_json") or ""
    return blocks


def answer(block: dict[str, Any]) -> dict[str, Any]:
    """The result of a tool call."""
    given = json.loads(block["given"])
    if block["name"] == "Bash":
        done = subprocess.run(["/bin/bash", "-c", given["command"]], capture_output=True, text=True, check=False)
        said = done.stdout
    else:
        said = Path(given["file_path"]).read_text()
    return {"type": "tool_result", "tool_use_id": block["id"], "content": said}


def main() -> None:
    """Play until a reply has no call, and print it."""
    address = urlsplit(os.environ["ANTHROPIC_BASE_URL"]).netloc
    server = http.client.HTTPConnection(address)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    while True:
        blocks = ask(server, messages)
        calls = [block for block in blocks if block["type"] == "tool_use"]
        if not calls:
            print(blocks[-1]["given"])
            return
        content = [
            {"type": "text", "text": block["given"]}
            if block["type"] == "text"
            else {"type": "tool_use", "id": block["id"], "name": block["name"], "input": json.loads(block["given"])}
            for block in blocks
        ]
        messages.append({"role": "assistant", "content": content})
        messages.append({"role": "user", "content": [answer(call) for call in calls]})


if __name__ == "__main__":
    main()
