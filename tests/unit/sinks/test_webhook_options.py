"""What can be set of a webhook, what is refused, and that secrets don't show."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from meshbridge.sinks.base import NotConnected, Refused
from meshbridge.sinks.templates import BodyTemplate
from meshbridge.sinks.webhook import WebhookOptions
from tests.support import make_event

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def options(**settings: Any) -> WebhookOptions:
    return WebhookOptions.model_validate({"type": "webhook", "url": "https://hooks.example.com/T1/hidden", **settings})


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, "single"),
        ({"batch": {"max_events": 100, "max_wait": "1s"}}, "batch"),
        ({"batch": {"max_events": 10}, "mode": "single"}, "single"),
        ({"batch": {"max_events": 10}, "format": "binary"}, "single"),
        ({"batch": {"max_events": 10}, "template": "x"}, "single"),
        ({"mode": "batch"}, "batch"),
    ],
)
def test_a_batch_is_sent_where_one_is_set(settings: dict[str, Any], mode: str) -> None:
    assert options(**settings).mode == mode


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": None}, "url (or url_file) is missing"),
        ({"url": "ftp://x/hidden"}, "not the address"),
        ({"url": "https://u:hidden@x/"}, "stand in auth"),
        ({"url": "https://x:99999/hidden"}, "not the address"),
        ({"secret": "hidden"}, "not a signing secret"),
        ({"secret": SECRET, "secret_file": "/x"}, "keep one"),
        ({"headers": {"bad name": "x"}}, "no name of a header"),
        ({"headers": {"X-Y": "hidden\r\nX: y"}}, "characters that no header can have"),
        ({"headers": {"Authorization": "hidden"}}, "from auth"),
        ({"headers": {"Webhook-Id": "x"}}, "set by meshbridge"),
        ({"headers": {"Content-Type": "x"}}, "set by meshbridge"),
        ({"auth": {}}, "set either"),
        ({"auth": {"bearer": "hidden", "username": "u"}}, "set either"),
        ({"auth": {"username": "u"}}, "go together"),
        ({"auth": {"bearer": "hidden", "password": "hidden"}}, "go together"),
        ({"proxy": "socks5://x"}, "not the address of a proxy"),
        ({"mode": "batch", "format": "binary"}, "one event"),
        ({"template": "{{ oops"}, "template line 1"),
        ({"template": "x", "format": "binary"}, "leave format out"),
        ({"template": "x", "template_file": "/x"}, "keep one"),
        ({"concurrency": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused_and_no_secret_is_repeated(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        options(**settings)
    messages = " ".join(error["msg"] for error in caught.value.errors())
    assert words in messages
    assert "hidden" not in messages


def test_what_is_shown_has_no_secret() -> None:
    shown = options(
        secret=[SECRET],
        headers={"X-Key": "hidden"},
        auth={"username": "u", "password": "hidden"},
        proxy="http://u:hidden@proxy:3128",
    ).model_dump(mode="json", by_alias=True)
    assert "hidden" not in str(shown)
    assert SECRET not in str(shown)
    assert shown["url"] == "https://hooks.example.com/…"
    assert shown["proxy"] == "http://proxy:3128"


def test_secrets_are_read_from_files_when_they_are_needed(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    made = options(secret_file=str(file))
    with pytest.raises(NotConnected, match=r"cannot read secret_file .*secret: No such file"):
        made.signing_keys()
    file.write_text("", encoding="ascii")
    with pytest.raises(NotConnected, match="empty"):
        made.signing_keys()
    file.write_text("hidden", encoding="ascii")
    with pytest.raises(NotConnected, match="not a signing secret") as caught:
        made.signing_keys()
    assert "hidden" not in str(caught.value)
    file.write_text(SECRET + "\n", encoding="ascii")
    assert len(made.signing_keys()) == 1


def test_the_url_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    made = options(url=None, url_file=str(file))
    with pytest.raises(NotConnected, match="cannot read url_file"):
        made.address()
    file.write_text("https://u:hidden@x/", encoding="ascii")
    with pytest.raises(NotConnected) as caught:
        made.address()
    assert "hidden" not in str(caught.value)
    file.write_text("https://hooks.example.com/T1\n", encoding="ascii")
    assert made.address() == "https://hooks.example.com/T1"


def test_a_template_runs_in_a_sandbox() -> None:
    for source in ("{{ ''.__class__.__mro__ }}", "{{ events.append(1) }}", "{{ data.update({}) }}", "{{ nothing }}"):
        with pytest.raises(Refused):
            BodyTemplate(source, json=False).render([make_event(1)])


def test_a_template_that_must_give_json_does() -> None:
    event = make_event(1, data={"output": 'say "hi"', "position": 0, "finished": False})
    with pytest.raises(Refused, match="tojson"):
        BodyTemplate('{"text": "{{ data.output }}"}', json=True).render([event])
    assert (
        BodyTemplate('{"text": {{ data.output | tojson }}}', json=True).render([event]) == b'{"text": "say \\"hi\\""}'
    )
    assert BodyTemplate("{{ data.output }}", json=False).render([event]) == b'say "hi"'
