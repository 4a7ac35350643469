from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.errors import InvalidRequestError, MissingKeyError
from runner.models.base import Request
from runner.models.registry import model_id, require_key, resolve_model

REQUEST = Request(model="", system=(), messages=(), tools=(), max_output_tokens=5)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("opus", "anthropic:claude-opus-5-5"),
        ("anthropic:opus", "anthropic:claude-opus-5-5"),
        ("", "anthropic:claude-sonnet-5-5"),
        ("claude-x", "anthropic:claude-x"),
        ("anthropic:qwen:7b", "anthropic:qwen:7b"),
        ("scripted:/a/b.yaml", "scripted:/a/b.yaml"),
    ],
)
def test_a_name_is_recorded_in_full(name: str, full: str) -> None:
    assert model_id(name, {}) == full


def test_a_bare_name_is_a_claude(tmp_path: Path) -> None:
    assert resolve_model("haiku", {}).name == "claude-haiku-5-5"


async def test_a_script_is_played(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: demo\nreplies: [{text: hi}]")
    model = resolve_model(f"scripted:{tmp_path / 'a.yaml'}", {})
    assert model.name == "demo"
    assert len([delta async for delta in model.stream(REQUEST)]) == 4


@pytest.mark.parametrize(
    ("name", "environ", "says"),
    [
        ("openai:gpt-9", {}, "no provider"),
        ("scripted:/nowhere.yaml", {}, "nowhere"),
        ("opus", {"CLAUDE_CODE_MAX_RETRIES": "many"}, "CLAUDE_CODE_MAX_RETRIES"),
        ("opus", {"CLAUDE_CODE_MAX_RETRIES": "9" * 5000}, "CLAUDE_CODE_MAX_RETRIES"),
        ("opus", {"API_TIMEOUT_MS": "-1"}, "API_TIMEOUT_MS"),
        ("opus", {"API_TIMEOUT_MS": "9" * 5000}, "API_TIMEOUT_MS"),
        ("opus", {"ANTHROPIC_CUSTOM_HEADERS": "no colon"}, "ANTHROPIC_CUSTOM_HEADERS"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, environ: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        resolve_model(name, environ)


async def test_without_a_key_nothing_is_sent() -> None:
    model = resolve_model("opus", {"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"})
    with pytest.raises(MissingKeyError):
        await anext(aiter(model.stream(REQUEST)))


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS"])
def test_a_key_is_asked_for_before_anything_slow_where_the_model_needs_one(name: str) -> None:
    require_key("opus", {name: "x"})
    require_key("scripted:/x", {})
    with pytest.raises(MissingKeyError):
        require_key("opus", {name: " "})


def imported_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `code`."""
    show = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{code}; {show}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["registry", "prices", "anthropic", "retry", "scripted"])
def test_no_module_imports_the_providers_sdk_or_httpx(module: str) -> None:
    assert not imported_by(f"import runner.models.{module}") & {"anthropic", "httpx2", "httpcore2", "anyio", "jiter"}


def test_a_session_pays_only_for_the_provider_that_it_names() -> None:
    asked = "from runner.models.registry import resolve_model; resolve_model('opus', {})"
    assert "yaml" not in imported_by(asked)
    priced = "from runner.models.prices import cost_of; cost_of('claude-opus-5', {})"
    assert not imported_by(priced) & {"httpcore2", "pydantic", "asyncio"}
