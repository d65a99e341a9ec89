"""Templates of webhooks: what they may cost, whatever they say and whatever events hold."""

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshbridge.sinks.base import Refused
from meshbridge.sinks.template_process import MAX_BODY_BYTES, MEMORY_BYTES
from meshbridge.sinks.templates import BodyTemplate
from tests.support import make_event, wait_for

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "one call into C": "{{ 9 ** data.width }}",
}
HUGE = {
    "format": "{{ '%0999999999d' % 1 }}",
    "format of the event": "{{ '{:>{}}'.format(1, data.width) }}",
    "times a value of the event": "{{ 'x' * data.width }}",
    "filter": "{{ 'x' | indent(10 ** 11, first=true) }}",
    "doubled": "{% set n = namespace(x='x' * 99999) %}{% for _ in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
}


def rendered(source: str, **data: Any) -> bytes:
    with closing(BodyTemplate(source, json=False)) as template:
        return template.render([make_event(1, "EXIT", data=data)])


@pytest.mark.parametrize("name", ENDLESS)
def test_cpu_time_is_bounded(name: str) -> None:
    with pytest.raises(Refused, match="more than 1 s of CPU time") as caught:
        rendered(ENDLESS[name], width=MEMORY_BYTES)
    assert caught.value.reason == "template"


@pytest.mark.parametrize("name", HUGE)
def test_memory_is_bounded(name: str) -> None:
    with pytest.raises(Refused, match=r"more memory than the 512 MiB|more than 1 s of CPU time"):
        rendered(HUGE[name], width=MEMORY_BYTES * 2)


def test_size_of_the_body_is_bounded() -> None:
    with pytest.raises(Refused, match=f"has {MAX_BODY_BYTES + 1} bytes; at most {MAX_BODY_BYTES} are allowed"):
        rendered("{{ 'x' * data.width }}", width=MAX_BODY_BYTES + 1)
    assert len(rendered("{{ 'x' * data.width }}", width=MAX_BODY_BYTES)) == MAX_BODY_BYTES


def test_a_template_that_cannot_be_compiled_is_refused_when_it_is_loaded() -> None:
    for source in ("{{ x", "{{ 1 | nope }}", "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}"):
        with pytest.raises(ValueError, match=r"^template(:| line 1:) "):
            BodyTemplate(source, json=False)


def test_what_fails_costs_its_event_alone() -> None:
    with closing(BodyTemplate("{{ 'x' * data.width }}{{ 9 ** data.power }}", json=False)) as template:
        for _ in range(2):
            with pytest.raises(Refused):
                template.render([make_event(1, "EXIT", data={"width": 1, "power": MEMORY_BYTES})])
            assert template.render([make_event(2, "EXIT", data={"width": 3, "power": 1})]) == b"xxx9"
        template.close()
        assert template.render([make_event(2, "EXIT", data={"width": 2, "power": 1})]) == b"xx9", "closed is not over"


def test_the_process_has_nothing_of_the_bridge_and_ends_with_its_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHBRIDGE_DAEMONS__A__PASSWORD", "hidden-password")
    before = _renderers()
    with closing(BodyTemplate("{{ id }}", json=False)) as template:
        (process,) = _renderers() - before
        assert b"hidden" not in Path(f"/proc/{process}/environ").read_bytes()
        os.kill(process, signal.SIGTERM)
        os.kill(process, signal.SIGINT)
        assert template.render([make_event(1)]) == b"node-a/1/1", "service managers signal all processes of a service"
    assert process not in _renderers()


def test_a_process_that_dies_is_replaced() -> None:
    before = _renderers()
    with closing(BodyTemplate("{{ id }}", json=False)) as template:
        (process,) = _renderers() - before
        os.kill(process, signal.SIGKILL)
        with pytest.raises(Refused, match="ended by SIGKILL"):
            template.render([make_event(1)])
        assert template.render([make_event(1)]) == b"node-a/1/1"


def test_a_template_that_is_forgotten_leaves_no_process() -> None:
    before = _renderers()
    BodyTemplate("{{ id }}", json=False)
    wait_for(lambda: _renderers() <= before, "the end of the process")


def _renderers() -> set[int]:
    """Template processes of this one, which are no zombies."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes()
                parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if b"meshbridge.sinks.template_process" in words and int(parent) == os.getpid():
                found.add(int(path.name))
    return found
