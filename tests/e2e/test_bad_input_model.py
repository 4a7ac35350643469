"""What a provider or a model can do wrong, seen from the command line over a real box."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.e2e.conftest import Bench, bash, wait_for
from tests.support.model_server import WireReply, error
from tests.support.serving import KEY, environment, replies, serving

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]
MODEL = ("--model", "claude-sonnet-5")


def results_of(request: Any) -> list[dict[str, Any]]:
    """The tool results that a request's last message brings."""
    return [block for block in request["messages"][-1]["content"] if block["type"] == "tool_result"]


def assert_well_formed(messages: list[dict[str, Any]]) -> None:
    """As the provider demands: every call is answered in the very next message, and nothing else is."""
    called: list[str] = []
    for message in messages:
        blocks = message["content"] if isinstance(message["content"], list) else []
        answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert sorted(answered) == sorted(called)
        called = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert called == []


@pytest.mark.parametrize(
    ("refusal", "code", "says"),
    [
        (error(401, "authentication_error", f"invalid x-api-key: {KEY}"), 21, "ANTHROPIC_API_KEY"),
        (error(404, "not_found_error", "model: claude-sonnet-5"), 22, "--model"),
        (error(400, "invalid_request_error", "prompt is too long: 3 tokens > 2 maximum"), 23, "start a new session"),
        (error(400, "invalid_request_error", "messages: odd"), 24, "messages: odd"),
    ],
    ids=["wrong key", "no such model", "prompt too long", "bad request"],
)
def test_a_refusal_is_one_clear_line_a_hint_and_its_own_exit_code(
    bench: Bench, refusal: WireReply, code: int, says: str
) -> None:
    with serving([refusal] * 2) as server:
        done = bench.run("-p", *MODEL, "x", check=code, **environment(server))
        seen = bench.run(*MODEL, "x", check=code, **environment(server))
        assert len(server.requests) == 2, "what will not pass is not tried again"
    for output in (done.stdout, seen.stdout):
        assert output.count(says) == 1
        assert KEY not in output
    assert len(done.stdout.splitlines()) == 1
    assert [row["state"] for row in bench.sessions()] == ["idle", "idle"]
    with serving(replies({"text": "again"})) as server:
        assert bench.run("-p", "-c", *MODEL, "y", **environment(server)).stdout == "again\n"


def test_a_refusal_is_a_result_for_programs_too(bench: Bench) -> None:
    with serving([error(401, "authentication_error", "invalid x-api-key")]) as server:
        done = bench.run("-p", "--output-format", "json", *MODEL, "x", check=21, **environment(server))
    result = json.loads(done.stdout)
    assert (result["type"], result["is_error"]) == ("result", True)
    assert "invalid x-api-key" in json.dumps(result)


def test_without_a_key_it_is_said_which_one_is_missing(bench: Bench) -> None:
    assert "ANTHROPIC_API_KEY" in bench.run("-p", *MODEL, "x", check=21).stderr
    assert bench.sessions() == []


@pytest.mark.parametrize("fault", ["truncated", "malformed", "empty", "no stream"])
def test_a_broken_reply_is_asked_for_again_and_no_call_of_it_runs(bench: Bench, fault: str) -> None:
    whole = {"text": "I write.", "tools": [bash("echo broken >> f")]}
    sent = replies(whole)[0].body
    broken = {
        "truncated": WireReply(body=sent, stop_at=len(sent) - 400, then="close"),
        "malformed": replies(whole | {"error": {"type": "malformed", "after": 1}})[0],
        "empty": WireReply(),
        "no stream": WireReply(body=b"<html>503</html>", headers={"content-type": "text/html"}),
    }[fault]
    with serving([broken, *replies({"tools": [bash("echo whole >> f")]}, {"text": "done"})]) as server:
        assert bench.run("-p", *MODEL, "x", **environment(server)).stdout == "done\n"
        assert len(server.requests) == 3
        assert_well_formed(server.requests[-1].json["messages"])
    bench.run("apply")
    assert (bench.place / "f").read_text() == "whole\n"


def test_an_unknown_block_is_kept_and_disturbs_nothing(bench: Bench) -> None:
    odd = {"type": "hologram", "depth": 3}
    wire = replies({"text": "look", "blocks": [odd], "tools": [bash("echo hi")]}, {"text": "done"})
    with serving(wire) as server:
        assert bench.run("-p", *MODEL, "x", **environment(server)).stdout == "done\n"
        assert [r["content"] for r in results_of(server.requests[1].json)] == ["hi"]
    (session,) = bench.sessions()
    first = next(r["body"] for r in bench.records(session["session"]) if r["type"] == "ModelReplied")
    assert odd in first["content"]


def test_a_call_that_makes_no_sense_goes_back_to_the_model_and_never_runs(bench: Bench) -> None:
    wire = replies(
        {"tools": [{"name": "Bash", "raw": '{"command": "touch made'}]},
        {"tools": [{"name": "Teleport", "input": {"command": "touch made"}}]},
        {"tools": [{"name": "Bash", "input": {"commando": "touch made"}}, {"name": "Read", "input": {"file_path": 7}}]},
        {"text": "I give up"},
    )
    with serving(wire) as server:
        assert bench.run("-p", *MODEL, "x", **environment(server)).stdout == "I give up\n"
        told = [results_of(request.json) for request in server.requests[1:]]
        assert_well_formed(server.requests[-1].json["messages"])
    assert [[result["is_error"] for result in results] for results in told] == [[True], [True], [True, True]]
    texts = [str(result["content"]) for results in told for result in results]
    for text, says in zip(
        texts, ("not valid JSON", "Teleport", "command: Field required", "valid string"), strict=True
    ):
        assert says in text
    assert bench.run("diff", "--stat").stdout == ""


def test_what_an_interrupt_cut_off_is_well_formed_when_it_goes_on(bench: Bench) -> None:
    first = replies({"text": "both", "tools": [bash("echo begun > begun; sleep 300"), bash("echo later > later")]})
    with serving([*first, *replies({"text": "went on"})]) as server:
        process = bench.start("-p", *MODEL, "x", **environment(server))
        wait_for(lambda: bench.layer("begun"), "the command")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert bench.run("-p", "-c", *MODEL, "go on", **environment(server)).stdout == "went on\n"
        messages = server.requests[-1].json["messages"]
    assert_well_formed(messages)
    assert "go on" in json.dumps(messages[-1])
    assert sorted(c["path"] for c in json.loads(bench.run("diff", "--json").stdout)) == ["begun"]
