"""The apps of one daemon: registering, registering again, one-off runs, removing, and coming back after a restart."""

import asyncio
from collections.abc import Iterator
from typing import Any

from meshbridge.emulator.application import DISABLED, ENABLED, ONE_OFF, Application, Surroundings
from meshbridge.emulator.errors import NoSuchApplication, RequestRefused
from meshbridge.emulator.events import EventHub
from meshbridge.emulator.identifiers import Identifiers
from meshbridge.emulator.schedule import CronError
from meshbridge.emulator.settings import EmulatorOptions
from meshbridge.emulator.store import AppStore


class Applications:
    """Only the event loop's thread touches it."""

    def __init__(
        self,
        hub: EventHub,
        identifiers: Identifiers,
        store: AppStore,
        options: EmulatorOptions,
        environment: dict[str, str],
    ) -> None:
        self._hub = hub
        self._identifiers = identifiers
        self._store = store
        self._by_name: dict[str, Application] = {}
        self._leaving: set[Application] = set()
        self._runs: dict[str, int] = {}
        self._registered = 0
        self._busy: set[str] = set()  # names whose app is being replaced
        self._successions: set[asyncio.Future[None]] = set()
        self._surroundings = Surroundings(hub, identifiers, store, options, environment, self.remove)
        self.persists = options.data_dir is not None

    def __iter__(self) -> Iterator[Application]:
        """Newest first, as the daemon lists them."""
        return reversed(self._by_name.values())

    def find(self, name: str) -> Application:
        """The app of that name.

        Raises:
            NoSuchApplication: there is none.

        """
        app = self._by_name.get(name)
        if app is None:
            raise NoSuchApplication
        return app

    def get(self, name: str) -> Application | None:
        return self._by_name.get(name)

    async def register(self, definition: dict[str, Any], owner: str) -> Application:
        """Registers an app, in place of one of the same name, and starts it if it is due.

        Raises:
            RequestRefused: 400, not an app that can be registered.

        """
        self.not_busy(definition["name"])
        status = int(definition.get("status", ENABLED))
        app = self._make(definition, owner, status if status == ENABLED else DISABLED)
        app.listed_status = None if status in {ENABLED, DISABLED} else status
        old = self._by_name.pop(app.name, None)
        if old is None:
            self._add(app)
            self._save(app, owner)
            app.registered()
        else:
            app.starts = old.starts
            app.output.count = old.output.count
            old.output.count = 0  # the files are its successor's now
            self._leaving.add(old)
            old.replaced()
            app.hold()
            self._add(app)
            self._save(app, owner)
            app.registered()
            # Shielded: a client that goes meanwhile must not leave the app between its two processes.
            self._busy.add(app.name)
            succession = asyncio.ensure_future(self._succeed(old, app))
            self._successions.add(succession)
            succession.add_done_callback(self._successions.discard)
            await asyncio.shield(succession)
        return app

    async def _succeed(self, old: Application, app: Application) -> None:
        try:
            await old.wait_ended()
        finally:
            self._busy.discard(app.name)
        self._leaving.discard(old)
        app.release()

    def not_busy(self, name: str) -> None:
        """Raises RequestRefused: 409, an app of that name is being replaced."""
        if name in self._busy:
            raise RequestRefused(409)

    def run_once(self, definition: dict[str, Any], owner: str, register_time: int | None = None) -> Application:
        """Starts a one-off run.

        Raises:
            RequestRefused: 400, not an app that can be run.

        """
        app = self._make(definition, owner, ONE_OFF, register_time)
        old = self._by_name.pop(app.name, None)
        if old is not None:
            self._leaving.add(old)
            old.replaced()
        self._add(app)
        app.registered()
        app.start()
        return app

    def run_name(self, app: Application) -> str:
        """``<app>_<n>``: the name of the next one-off run of an existing app."""
        number = self._runs.get(app.name, 0) + 1
        self._runs[app.name] = number
        return f"{app.name}_{number}"

    def remove(self, app: Application) -> None:
        """Takes an app out of the list; its last events follow REMOVED as its process ends."""
        if self._by_name.get(app.name) is not app:
            return
        del self._by_name[app.name]
        if app.status != ONE_OFF and self.persists:
            self._store.remove_app(app.name)
        self._leaving = {old for old in self._leaving if old.running}
        self._leaving.add(app)
        self._hub.emit(app.name, "REMOVED", None)
        app.leave()

    def changed(self, app: Application) -> None:
        """Its status is another than the stored one."""
        if app.status != ONE_OFF:
            self._save(app, app.owner)

    def restore(self) -> None:
        """Brings back what an earlier run of the daemon had registered, and starts it."""
        for stored in self._store.apps():
            app = self._make(stored["definition"], stored["owner"], stored["status"], stored["register_time"])
            self._registered = stored["registered"]
            app.order = self._registered
            self._by_name[app.name] = app
            app.registered()

    def abandon(self) -> None:
        """Ends every process at once, without events."""
        for app in [*self._by_name.values(), *self._leaving]:
            app.abandon()

    def _make(
        self, definition: dict[str, Any], owner: str, status: int, register_time: int | None = None
    ) -> Application:
        try:
            return Application(definition, owner, status, self._surroundings, register_time)
        except CronError as error:
            raise RequestRefused(412, str(error)) from None
        except ValueError as error:
            raise RequestRefused(400, str(error)) from None

    def _add(self, app: Application) -> None:
        self._registered += 1
        app.order = self._registered
        self._by_name[app.name] = app

    def _save(self, app: Application, owner: str) -> None:
        if not self.persists:
            return
        self._store.write_app(
            app.name,
            {
                "definition": app.definition,
                "owner": owner,
                "status": app.status,
                "register_time": app.register_time,
                "registered": app.order,
            },
        )
