"""`fumehood net`: what left the box and what was refused, and what would be. What things mean is `runner.policy`'s."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from runner.cli.answers import AsJson, out, out_json
from runner.cli.policy import ModeOption, read_mode, tell
from runner.effects import ConnectHost, Decision
from runner.errors import UsageError
from runner.events import Egress
from runner.journal import Journal
from runner.loop.outward import refusal
from runner.policy.calls import call_of
from runner.policy.explain import Explanation, explain
from runner.policy.network import opening, shown
from runner.policy.rules import NETWORK
from runner.sessions.company import route_of
from runner.sessions.specs import standing_policy
from runner.sessions.store import Store, state_home
from runner.sessions.taping import open_recording, recording_file
from runner.ui.safe import one_line
from sandbox.hosts import HostError, host_of

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
EXIT_REFUSED = 1
WIDE = 160

UrlArgument = Annotated[
    str, Argument(metavar="'[METHOD] URL'", help="https://host, 'POST http://host/path', tcp://h:22")
]


@app.command()
def log(
    session: Annotated[str, Argument(metavar="[SESSION]", help="An id or its beginning.")] = "",
    denied: Annotated[bool, Option("--denied", help="Only what was refused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every request of a session: verdict, rule, bytes and time; of a refused one what would allow it."""
    store = Store(state_home(os.environ))
    journal = Journal.view(store.choose(session or None, Path.cwd()).directory)
    rows = [_row(event.at, event.body) for event in journal.read() if isinstance(event.body, Egress)]
    journal.close()
    rows = [row for row in rows if not denied or row["decision"] != "allow"]
    if as_json:
        out_json(rows)
        return
    for row in rows:
        size = (
            f"{row['sent']} up, {row['received']} down, {row['seconds']:.3f} s"
            if row["decision"] == "allow" or row["received"]
            else ""
        )
        size = f"{size} (replayed)" if row["replayed"] else size
        why = row["failure"] or (row["rule"] and f"rule {row['rule']}") or row["reason"]
        why += f", via {row['via']}" if row["via"] else ""
        line = f"{row['time'][:19]}  {row['decision']:5}  {one_line(row['request'], WIDE)}  {size}".rstrip()
        out(f"{line}  ({one_line(why, WIDE)})")
        if row["would_allow"]:
            out(f"{'':28}--allow-host '{row['would_allow']}'")
    if not rows:
        out("no requests" if not denied else "nothing was refused")


def _row(at: float, body: Egress) -> dict[str, Any]:
    effect = ConnectHost(host=body.host, port=body.port, scheme=body.scheme, method=body.method, path=body.path)
    verdict = body.verdict
    by_nobody = verdict["decision"] != "allow" and not verdict["rule"] and verdict["source"] != "fumehood"
    return {
        "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "request": f"{body.method} {shown(effect)}{body.path}".strip(),
        "decision": verdict["decision"],
        "rule": verdict["rule"],
        "source": verdict["source"],
        "reason": verdict["reason"],
        "sent": body.sent,
        "received": body.received,
        "seconds": body.seconds,
        "failure": verdict.get("failure", ""),
        "via": verdict.get("via", ""),
        "replayed": bool(verdict.get("replayed")),
        "would_allow": opening(effect) if by_nobody else "",
    }


@app.command()
def recorded(
    recording: Annotated[
        str, Argument(metavar="[SESSION|FILE]", help="Of --record-net; this directory's latest.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """What a recording of exchanges holds, in the order in which they began, and what it does not hold and why."""
    store = Store(state_home(os.environ))
    file = Path(recording_file(recording or store.latest(Path.cwd()).session, os.environ))
    with open_recording(file) as found:
        rows = [
            {"request": one.request, "status": one.status, "size": one.size, "whole": one.whole, "failure": one.why}
            for one in found.exchanges
        ]
        missed = [{"request": request, "why": why} for request, why in found.missed.items()]
    if as_json:
        out_json({"file": str(file), "session": found.session, "exchanges": rows, "missed": missed})
        return
    for one in found.exchanges:
        said = f"{one.status}, {one.size} bytes" if one.status else one_line(one.why, WIDE)
        out(f"{one_line(one.request, WIDE)}  ({said}{'' if one.whole else ', breaks off'})")
    for request, why in found.missed.items():
        out(f"not kept: {one_line(request, WIDE)}  ({one_line(why, WIDE)})")
    if not rows and not missed:
        out("nothing was exchanged")


@app.command(name="test")
def test_url(url: UrlArgument, as_json: AsJson = False) -> None:  # noqa: PT028 (a command, not a test)
    """Whether a session that starts here may send a request; ends with 1 where not. Nothing is sent or resolved."""
    found, effect = _judged(url, "")
    verdict = found.verdict
    if as_json:
        out_json({"request": shown(effect, path=True), "verdict": verdict.to_json()})
    else:
        out(f"{verdict.decision.name.lower()}  {shown(effect, path=True)}  ({verdict.reason})")
        if verdict.decision is Decision.DENY or (verdict.decision is Decision.ASK and not verdict.rule):
            out(f"       {refusal(effect, verdict)}")
    if verdict.decision is not Decision.ALLOW:
        raise typer.Exit(EXIT_REFUSED)


@app.command(name="explain")
def explain_url(url: UrlArgument, mode: ModeOption = "", as_json: AsJson = False) -> None:
    """Why a request is decided as it is: every rule that speaks of it, and what would change it."""
    found, effect = _judged(url, mode)
    if as_json:
        out_json(found.to_json())
        return
    out(f"request   {shown(effect, path=True)}")
    if effect.scheme in ("https", "wss"):
        out("seen      host and port; where rules name a method or a path for them, each request inside of TLS too")
    tell(found)
    proxy = route_of(os.environ)(effect.scheme, effect.host, effect.port)
    if proxy is None:
        out("then      the name is resolved, and a private or otherwise special address needs a rule that names it")
    else:
        out(f"then      it goes by your proxy {proxy}, which resolves the name: its addresses are not judged")


def _judged(url: str, mode: str) -> tuple[Explanation, ConnectHost]:
    method, _, address = url.strip().rpartition(" ")
    if "://" not in address:
        address = f"https://{address}"
    _, composed, ground = standing_policy(Path.cwd(), environ=os.environ, mode=read_mode(mode) if mode else None)
    _, effects = call_of(f"{NETWORK}({method or 'GET'} {address})", ground.place)
    (effect,) = effects
    if not isinstance(effect, ConnectHost) or not effect.host or not effect.port:
        raise UsageError(f"{url!r} is no URL")
    try:
        host_of(effect.host)
    except HostError as error:
        raise UsageError(f"{url!r}: whatever rules say, no such host is asked: {error}") from error
    tunnel = effect.scheme not in ("http", "ws")
    if tunnel and composed.policy.expected(effect.host, effect.port) != "inspected":
        effect = ConnectHost(host=effect.host, port=effect.port, scheme=effect.scheme, method="CONNECT")
    return explain(composed.policy, NETWORK, (effect,), ground.place), effect
