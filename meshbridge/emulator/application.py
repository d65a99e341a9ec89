"""One app: its definition, its process, and the events that it causes.

The order of the events is measured (``golden/events.jsonl``) and kept by the order of the calls here:

=====================  ==============================================================
registered             HEALTH 1, unless a health check is to tell
process starts         HEALTH 0 if it was 1, START
process ends           the last STDOUT, HEALTH 1 if it was 0, EXIT
disabled               STATUS, then what the end of the process brings
enabled                STATUS, then within a second what a start brings
removed                REMOVED, STATUS if it was enabled, then the end of the process
=====================  ==============================================================
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from meshbridge.emulator import clock
from meshbridge.emulator.durations import duration
from meshbridge.emulator.events import EventHub
from meshbridge.emulator.identifiers import Identifiers
from meshbridge.emulator.output import OutputCollector, OutputFiles
from meshbridge.emulator.processes import Process, command_line, shell
from meshbridge.emulator.schedule import Schedule
from meshbridge.emulator.settings import EmulatorOptions
from meshbridge.emulator.store import AppStore
from meshbridge.emulator.tasks import TaskQueue

DISABLED, ENABLED, ONE_OFF = 0, 1, 2
HEALTHY, UNHEALTHY = 0, 1

ENABLE_SECONDS = 0.3  # measured: the next tick of the daemon's one-second scheduler
REMOVE_SECONDS = 0.8
HEALTH_CHECK_SECONDS = 1.0
HEALTH_CHECK_TIMEOUT_SECONDS = 5.0
LIMIT_CHECK_SECONDS = 1.0
MISSING_PROGRAM_SECONDS = 1.0  # between two attempts to start a program that is not there

CLIENT_FIELDS = (
    "command", "shell", "session_login", "description", "working_dir", "metadata", "env", "health_check_cmd",
    "docker_image", "stdout_cache_num", "cron", "daily_limitation", "retention", "permission", "resource_limit",
    "version",
)  # fmt: skip
"""What a client sets and gets back as it is. ``sec_env`` is taken and never shown."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every app of a daemon shares."""

    hub: EventHub
    identifiers: Identifiers
    store: AppStore
    options: EmulatorOptions
    environment: Mapping[str, str]
    remove: Callable[["Application"], None]
    """Takes the app out of the daemon's list, with its events."""


class Application:
    """Only the event loop's thread touches it."""

    def __init__(
        self,
        definition: dict[str, Any],
        owner: str,
        status: int,
        surroundings: Surroundings,
        register_time: int | None = None,
    ) -> None:
        self.definition = definition
        self.name: str = definition["name"]
        self.owner = owner
        self.status = status
        self.register_time = clock.now() if register_time is None else register_time
        self.starts = 0
        self.health = HEALTHY
        self.return_code: int | None = None
        self.listed_status: int | None = None
        """What a client gave where that is neither 0 nor 1: it is shown, and the app does not run."""
        self.exit_code_known = False
        """Whether ``X-Exit-Code`` is there: disabling an app makes the daemon forget it."""
        self.last_error = ""
        self.last_start_time: int | None = None
        self.last_exit_time: int | None = None
        self.next_start_time: int | None = None
        self.process: Process | None = None
        self.process_uuid = ""
        self.process_key = ""
        self.tasks = TaskQueue()
        self.order = 0
        """Its place among the registrations; a daemon that restarts brings the apps back in it."""
        self.removed = False
        self.schedule = Schedule.parse(definition, self.register_time)
        self.output = OutputFiles(surroundings.store.stdout, self.name, int(definition.get("stdout_cache_num") or 0))
        self.cpu_sample: tuple[float, float] | None = None
        """When CPU time was last read, and what it was."""
        self._surroundings = surroundings
        self._dialect = surroundings.options.dialect
        self._loop = asyncio.get_running_loop()
        self._start_timer: asyncio.TimerHandle | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._was_killed = False
        self._held = False
        """It would run if its times, or its predecessor, let it."""
        self._predecessor_runs = False
        self._check: Process | None = None
        self._retained: Process | None = None
        """The process before, while ``retention`` lets it finish."""

    # --- what a client asks for ---------------------------------------------------------------------------------------

    def registered(self) -> None:
        """Its first event, and its first start where one is due at once."""
        if not self.definition.get("health_check_cmd") or self._dialect.probes_health:
            self._set_health(UNHEALTHY)
        if self.schedule.limited:
            self._later(LIMIT_CHECK_SECONDS, self._check_limits)
        if self.definition.get("health_check_cmd"):
            self._later(HEALTH_CHECK_SECONDS, self._check_health)
        if self.status == ENABLED:
            self._schedule_start(0)

    def hold(self) -> None:
        """No start before :meth:`release`: the process of the same name before it has not ended."""
        self._predecessor_runs = True

    def release(self) -> None:
        self._predecessor_runs = False
        if self.status == ENABLED and not self.removed:
            self._schedule_start(0)

    def enable(self) -> None:
        self.listed_status = None
        if self.status == DISABLED:
            self.status = ENABLED
            self._emit_status()
            self._schedule_start(ENABLE_SECONDS)

    def disable(self) -> None:
        self.listed_status = None
        if self.status == ENABLED:
            self.status = DISABLED
            self._emit_status()
        self._cancel_start()
        self.exit_code_known = False
        self.kill()

    def leave(self) -> None:
        """It is no longer in the list: ends its process and whatever waits for it. The events still come."""
        self.removed = True
        if self.status == ENABLED:
            self.status = DISABLED
            self._emit_status()
        self._cancel_timers()
        self.tasks.close()
        self.kill()
        if self.process is None or not self.process.running:
            self.output.remove()

    def replaced(self) -> None:
        """Another registration takes its name: its HEALTH comes before its process has ended (golden: reg-twice)."""
        self.removed = True
        if self.status == ENABLED:
            self.status = DISABLED
            self._emit_status()
        self._cancel_timers()
        self.tasks.close()
        self._set_health(UNHEALTHY)
        self.kill()

    def kill(self) -> None:
        for process in (self.process, self._retained):
            if process is not None:
                process.kill()

    def abandon(self) -> None:
        """The daemon stops: no events, no waiting."""
        self.removed = True
        self._cancel_timers()
        for process in (self.process, self._retained, self._check):
            if process is not None:
                process.abandon()

    async def wait_ended(self) -> None:
        """Until its process has ended, where one runs."""
        if self.process is not None:
            await self.process.ended.wait()

    def remove_after(self, seconds: float) -> None:
        self._later(seconds, lambda: self._surroundings.remove(self))

    def kill_after(self, seconds: float) -> None:
        self._later(seconds, self.kill)

    @property
    def permission(self) -> int:
        """Who but its owner may see and change it."""
        return int(self.definition.get("permission") or 0)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    # --- the process --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts a process now."""
        self._start_timer = None
        self.next_start_time = None
        if self.running:
            self._make_way()
        self.starts += 1
        self.last_start_time = clock.now()
        self.last_error = ""
        missing = self.missing_program()
        if missing:
            self._not_started(f"command file <{missing}> does not exist")
            return
        self.process_uuid = self._surroundings.identifiers.next()
        self.process_key = self._surroundings.identifiers.next()
        self.cpu_sample = None
        self.tasks.new_process()
        collector = OutputCollector(self.output.start(), self._emit_output)
        self.exit_code_known = True
        self.return_code = None if self.schedule.periodic is None else self.return_code
        if self._was_killed:  # of that end the new process shows nothing (measured)
            self.last_exit_time, self._was_killed = None, False
        process = Process(
            self._arguments(),
            environment=self._environment(),
            directory=self._directory(),
            stdin=self._stdin(),
            on_output=collector.write,
            on_end=lambda code: self._ended(process, collector, code),
            signal_code=self._dialect.signal_code,
        )
        self.process = process
        if not (self._dialect.probes_health and self.definition.get("health_check_cmd")):
            self._set_health(HEALTHY)
        self._emit("START", {"pid": process.pid, "process_uuid": self.process_uuid})
        self._schedule_next()

    def missing_program(self) -> str:
        """The program that is to run and is not there; empty where it is, or the shell will find out."""
        if self.definition.get("shell") or self.definition.get("docker_image"):
            return ""
        program = self._arguments()[0]
        found = shutil.which(program, path=self._environment().get("PATH", os.defpath))
        return "" if found or Path(program).is_dir() else program

    def _not_started(self, why: str) -> None:
        """No START, no EXIT; it is tried again."""
        os.close(self.output.start())
        self.last_error = f"{clock.text(time.time())} {why}"
        self.last_exit_time = clock.now()
        if self.status == ENABLED and not self.removed:
            self._retry_start()

    def _retry_start(self) -> None:
        self.next_start_time = clock.now() + 1
        self._start_timer = self._loop.call_later(MISSING_PROGRAM_SECONDS, self._start_if_allowed)

    def _ended(self, process: Process, collector: OutputCollector, code: int) -> None:
        collector.close()
        if process is self.process:
            self._set_health(UNHEALTHY)
            self.tasks.process_ended()
        last_error = ""
        self.last_exit_time = clock.now()
        self.return_code = code
        self._was_killed = process.killed
        if not process.killed:
            last_error = f"{clock.text(time.time())} exited with return code: {code}" if code else ""
            self.last_error = last_error
        self._emit("EXIT", {"exit_code": code, "last_error": last_error, "pid": process.pid})
        if self.removed:
            self.output.remove()
        elif process is self.process and not process.killed and self.status == ENABLED:
            self._behave(code)
        if process is self._retained:
            self._retained = None

    def _behave(self, code: int) -> None:
        """What is to happen after an exit: ``control`` for this code, else ``exit``, else standby."""
        behavior = self.definition.get("behavior") or {}
        action = (behavior.get("control") or {}).get(str(code)) or behavior.get("exit") or "standby"
        if action == "remove":
            self.remove_after(REMOVE_SECONDS)
        elif action in {"restart", "keepalive"} and self.schedule.periodic is None:
            self._schedule_start(self._surroundings.options.restart_seconds)

    def _make_way(self) -> None:
        """A periodic app is due while its process runs: it is killed, or given ``retention`` to finish."""
        assert self.process is not None
        retention = self.definition.get("retention")
        if retention:
            self._retained = self.process
            self._later(max(0, duration(retention)), self._retained.kill)
        else:
            self.process.kill()

    def _arguments(self) -> list[str]:
        command = str(self.definition.get("command") or "")
        if not self.definition.get("shell"):
            return command_line(command)
        script = self._surroundings.store.shell / f"appmesh.{self.name}.sh"
        script.write_text(f"{command}\n", encoding="utf-8")
        return [shell(), str(script)]

    def _environment(self) -> dict[str, str]:
        given = {**(self.definition.get("env") or {}), **(self.definition.get("sec_env") or {})}
        return {
            **self._surroundings.environment,
            **{str(name): str(value) for name, value in given.items() if name and "=" not in name},
            "APP_MESH_APPLICATION_NAME": self.name,
            "APP_MESH_PROCESS_KEY": self.process_key,
        }

    def _directory(self) -> Path:
        """One that is not there is ignored (measured)."""
        given = self.definition.get("working_dir")
        return Path(given) if given and Path(given).is_dir() else self._surroundings.store.root / "work"

    def _stdin(self) -> bytes:
        """``metadata`` is what the process reads."""
        metadata = self.definition.get("metadata")
        if metadata in (None, ""):
            return b""
        return metadata.encode() if isinstance(metadata, str) else orjson.dumps(metadata)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _schedule_start(self, seconds: float) -> None:
        """Starts it in so many seconds, or when its schedule says; at once for 0."""
        self._cancel_start()
        if self._predecessor_runs:
            return
        now = time.time()
        if self.schedule.periodic is not None:
            self._schedule_next()
        elif self.schedule.start_time is not None and now < self.schedule.start_time:
            self.next_start_time = self.schedule.start_time
            self._start_timer = self._loop.call_later(self.schedule.start_time - now, self._start_if_allowed)
        elif not self.schedule.allows(now):
            self._held = True
        elif seconds:
            self.next_start_time = int(now + seconds)
            self._start_timer = self._loop.call_later(seconds, self._start_if_allowed)
        else:
            self.start()

    def _schedule_next(self) -> None:
        if self.status != ENABLED or self.removed:
            return
        due = self.schedule.next(time.time())
        if due is not None:
            self.next_start_time = due
            self._start_timer = self._loop.call_later(max(0.0, due - time.time()), self._start_if_allowed)

    def _start_if_allowed(self) -> None:
        if self.status == ENABLED and not self.removed:
            if self.schedule.allows(time.time()):
                self.start()
            else:
                self._schedule_next()

    def _check_limits(self) -> None:
        """``end_time`` and ``daily_limitation``: stops what may not run any more, starts what may again."""
        allowed = self.schedule.allows(time.time())
        if self.running and not allowed:
            self.kill()
            self._held = True
            self.last_error = f"{clock.text(time.time())} outside valid time range"
        elif self._held and allowed and self.status == ENABLED:
            self._held = False
            self._schedule_start(0)
        self._later(LIMIT_CHECK_SECONDS, self._check_limits)

    def _check_health(self) -> None:
        self._later(HEALTH_CHECK_SECONDS, self._check_health)
        if not self.running or self._check is not None:
            return
        check = Process(
            [shell(), "-c", str(self.definition["health_check_cmd"])],
            environment=self._environment(),
            directory=self._directory(),
            on_output=lambda _data, _last: None,
            on_end=self._checked,
            signal_code=self._dialect.signal_code,
        )
        self._check = check
        self._later(HEALTH_CHECK_TIMEOUT_SECONDS, check.kill)

    def _checked(self, code: int) -> None:
        self._check = None
        if self.running and not self.removed:
            self._set_health(HEALTHY if code == 0 else UNHEALTHY)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            action()

        timer = self._loop.call_later(seconds, run)
        self._timers.add(timer)

    def _cancel_start(self) -> None:
        self.next_start_time = None
        if self._start_timer is not None:
            self._start_timer.cancel()
            self._start_timer = None

    def _cancel_timers(self) -> None:
        self._cancel_start()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._check is not None:
            self._check.kill()

    # --- events -------------------------------------------------------------------------------------------------------

    def _set_health(self, health: int) -> None:
        if self.health != health:
            previous, self.health = self.health, health
            self._emit("HEALTH", {"health": health, "previous_health": previous})

    def _emit_status(self) -> None:
        self._emit("STATUS", self._dialect.status_data(enabled=self.status == ENABLED))

    def _emit_output(self, text: str, position: int, last: bool) -> None:
        finished = last and self._dialect.drains_at_end
        self._emit("STDOUT", {"finished": finished, "output": text, "position": position})

    def _emit(self, event_type: str, data: Any) -> None:
        self._surroundings.hub.emit(self.name, event_type, data)
