"""What the environment decides. What goes over HTTP: tests/contract/test_model_contract*.py."""

from __future__ import annotations

import pytest

from runner.errors import AuthenticationError, InvalidRequestError
from runner.models.anthropic import AnthropicModel, AnthropicSettings, retry_after, settings_from
from runner.models.deadlines import Deadlines
from runner.models.messages_request import Options
from runner.models.secret import SecretStr

NOW = 1_800_000_000.0


def test_an_empty_environment_gives_the_providers_own_address_and_no_key() -> None:
    assert settings_from({}) == AnthropicSettings()


def test_every_variable_counts() -> None:
    assert settings_from(
        {
            "ANTHROPIC_API_KEY": " sk-key \n",
            "ANTHROPIC_AUTH_TOKEN": "token",
            "ANTHROPIC_BASE_URL": "http://gateway:8080/claude/",
            "ANTHROPIC_CUSTOM_HEADERS": "X-Team: blue\n\nX-Other:a: b\n",
            "ANTHROPIC_BETAS": "one, two,",
            "CLAUDE_CODE_EXTRA_BODY": '{"service_tier": "auto"}',
            "API_TIMEOUT_MS": "1500",
            "CLAUDE_STREAM_IDLE_TIMEOUT_MS": "250",
            "ENABLE_PROMPT_CACHING_1H": "true",
            "DISABLE_INTERLEAVED_THINKING": "1",
        }
    ) == AnthropicSettings(
        key=SecretStr("sk-key"),
        token=SecretStr("token"),
        base_url="http://gateway:8080/claude",
        headers={"x-team": SecretStr("blue"), "x-other": SecretStr("a: b")},
        deadlines=Deadlines(first_byte=1.5, total=1.5, idle=0.25),
        options=Options(cache="1h", interleaved=False, betas=("one", "two"), extra={"service_tier": "auto"}),
    )


def test_the_cache_can_be_turned_off() -> None:
    environ = {"DISABLE_PROMPT_CACHING": "1", "ENABLE_PROMPT_CACHING_1H": "1"}
    assert settings_from(environ).options.cache == ""


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"DISABLE_PROMPT_CACHING_OPUS": "1"}, ""),
        ({"DISABLE_PROMPT_CACHING_OPUS": "0"}, "5m"),
        ({"DISABLE_PROMPT_CACHING_HAIKU": "1"}, "5m"),
        ({"ENABLE_PROMPT_CACHING_1H": "1"}, "1h"),
        ({"ENABLE_PROMPT_CACHING_1H": "1", "FORCE_PROMPT_CACHING_5M": "1"}, "5m"),
    ],
)
def test_the_cache_goes_by_the_family_of_the_model(environ: dict[str, str], cache: str) -> None:
    assert settings_from(environ, "claude-opus-4-8").options.cache == cache


@pytest.mark.parametrize("key", ["sk\nsecret", "schlüssel", "a\x00b"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(AuthenticationError, match="ANTHROPIC_API_KEY holds a character") as raised:
        settings_from({"ANTHROPIC_API_KEY": key})
    assert key not in str(raised.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"API_TIMEOUT_MS": "soon"},
        {"API_TIMEOUT_MS": "0"},
        {"ANTHROPIC_CUSTOM_HEADERS": "secret"},
        {"CLAUDE_CODE_EXTRA_BODY": "secret"},
        {"CLAUDE_CODE_EXTRA_BODY": '["secret"]'},
        {"CLAUDE_CODE_EXTRA_BODY": "[" * 70_000},
        {"CLAUDE_CODE_EXTRA_BODY": '{"model": "secret"}'},
        {"CLAUDE_CODE_EXTRA_BODY": '{"Fallback_Models": ["secret"]}'},
        {"CLAUDE_CODE_EXTRA_BODY": '{"tools": [{"type": "secret"}]}'},
        {"CLAUDE_CODE_EXTRA_BODY": '{"mcp_servers": ["secret"]}'},
        {"ANTHROPIC_CUSTOM_HEADERS": "bad name: secret"},
        {"ANTHROPIC_CUSTOM_HEADERS": "x: secret\x01"},
    ],
)
def test_a_value_that_cannot_be_used_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        settings_from(environ)
    assert "secret" not in str(raised.value)


def test_secrets_are_in_no_repr() -> None:
    environ = {
        "ANTHROPIC_API_KEY": "sk-secret",
        "ANTHROPIC_AUTH_TOKEN": "secret-token",
        "ANTHROPIC_CUSTOM_HEADERS": "x: secret",
    }
    settings = settings_from(environ)
    assert "secret" not in repr(settings) + str(settings) + repr(AnthropicModel("m", settings, environ=environ))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:00 GMT"}, 60.0),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_the_wait_that_a_provider_asks_for_is_read_in_all_its_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, NOW) == seconds
