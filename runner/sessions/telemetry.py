"""An auditor's rows as OpenTelemetry log records, in OTLP's JSON encoding, a request per line: what a collector's
`otlpjsonfile` receiver reads, and what may be posted to `/v1/logs`. Pure.

Source: the OTLP specification, JSON Protobuf encoding (64-bit numbers as text, keys in lowerCamelCase) and file
exporter. A field of a row is the attribute `fumehood.FIELD`; one that is null is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runner.sessions.auditing import FORM_VERSION, Entry

INFO, WARN = 9, 13
_RESOURCE = frozenset({"version", "session", "time"})  # said elsewhere in the record


def otlp_line(entry: Entry) -> str:
    """One ExportLogsServiceRequest with one record, without a newline. ASCII only."""
    row = entry.row()
    record = {
        "timeUnixNano": str(round(entry.event.at * 1_000_000) * 1000),
        "severityNumber": WARN if _is_warning(row) else INFO,
        "severityText": "WARN" if _is_warning(row) else "INFO",
        "body": {"stringValue": str(row["type"])},
        "attributes": [
            {"key": f"fumehood.{name}", "value": _value(value)}
            for name, value in row.items()
            if name not in _RESOURCE and value is not None
        ],
    }
    resource = {"service.name": "fumehood", "session.id": row["session"]}
    scope = {"name": "fumehood.audit", "version": str(FORM_VERSION)}
    return json.dumps(
        {
            "resourceLogs": [
                {
                    "resource": {
                        "attributes": [{"key": key, "value": _value(value)} for key, value in resource.items()]
                    },
                    "scopeLogs": [{"scope": scope, "logRecords": [record]}],
                }
            ]
        },
        separators=(",", ":"),
    )


def _is_warning(row: Mapping[str, Any]) -> bool:
    """What was refused or failed."""
    refused = row.get("decision") == "deny" or row.get("approved") is False
    return refused or row["type"] == "Failed" or row.get("outcome") in ("error", "blocked")


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case _:
            return {"stringValue": str(value)}
