"""Shows that the Claude Agent SDK reads our messages: run it with a Python that has `claude-agent-sdk`.

    python tests/unit/serve/sdk_oracle.py tests/unit/serve/messages.golden.jsonl

The SDK is no dependency of ours (its wheel is 166 MB); the golden file is what it was shown last.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    parse = import_module("claude_agent_sdk._internal.message_parser").parse_message
    for line in Path(sys.argv[1]).read_text().splitlines():
        message = json.loads(line)
        parsed = parse(message)
        assert parsed is not None, message
        print(f"{message['type']:14}{message.get('subtype', ''):20}{type(parsed).__name__}")


if __name__ == "__main__":
    main()
