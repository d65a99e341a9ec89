"""``meshbridge logs``: what an app has written."""

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshbridge.cli.completion import AppArgument, DaemonOption
from meshbridge.cli.control import Patience, Place, app_path, locate, speaking
from meshbridge.cli.options import ConfigOption, JsonOption
from meshbridge.cli.output import (
    WRONG_USAGE,
    RawOption,
    as_it_is,
    complain,
    fail,
    see_that_it_is_read,
    show_json,
    show_output,
    writing,
)

if TYPE_CHECKING:
    from meshbridge.admin.client import Client

__all__ = ["logs"]

_PIECE_BYTES = 3 * 2**20
_LOOK_SECONDS = 0.5


def logs(
    name: AppArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, over restarts.")] = False,
    previous: Annotated[
        int, typer.Option("--previous", "-p", min=0, help="Of the process so many starts before the present one.")
    ] = 0,
    position: Annotated[int, typer.Option(min=0, help="Begin at this byte.")] = 0,
    raw: RawOption = False,
    daemon: DaemonOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Print what an app's present process has written, or the last one's where none runs.

    On a terminal control characters are escaped. With --json, a line for each piece: {daemon, app, position, output}.
    """
    if follow and previous:
        fail("--follow goes with the present process, not with --previous", WRONG_USAGE)
    with speaking(config) as client:
        reader = _Reader(client, locate(client, name, daemon), position, as_json=as_json, raw=as_it_is(raw=raw))
        try:
            kept = reader.read_all(previous)
            if follow:
                _follow(reader)
        except KeyboardInterrupt:
            return
        if not kept:
            fail(
                f"{reader.place.daemon} does not keep that output of {name}: stdout_cache_num of the app says of how "
                "many earlier processes it does"
            )


def _follow(reader: "_Reader") -> None:
    patience = Patience()
    patience.fine()
    while True:
        time.sleep(_LOOK_SECONDS)
        see_that_it_is_read()
        with patience.trying():
            reader.catch_up()
            patience.fine()


class _Reader:
    """Reads an app's output piece by piece, and notices when another process has taken over."""

    def __init__(self, client: "Client", place: Place, position: int, *, as_json: bool, raw: bool) -> None:
        self.place = place
        self._client = client
        self._name = str(place.app["name"])
        self._as_json = as_json
        self._raw = raw
        self._starts = int(place.app.get("starts") or 0)  # when the process that is read was the present one
        self._position = position

    def read_all(self, index: int = 0) -> bool:
        """Prints what there is now from the position on; whether the daemon keeps it."""
        while True:
            piece = self._piece(index)
            if piece is None:
                return False
            if not piece["output"]:
                return True
            self._show(piece)

    def catch_up(self) -> None:
        """Prints what came since, also what the process before wrote last."""
        piece = self._piece(0)
        starts = int(self._client.get(app_path(self.place.daemon, self._name)).get("starts") or 0)
        if starts == self._starts:
            if piece is not None and piece["output"]:
                self._show(piece)
            return
        # The piece may be of the new process, from a place in the middle of it.
        if starts != self._starts + 1 or not self.read_all(1):
            complain(f"{self._name} was started again; what it wrote before that and was not read yet is not kept")
        self._starts, self._position = starts, 0
        self.read_all()

    def _piece(self, index: int) -> dict[str, Any] | None:
        """None where the daemon does not keep it."""
        from meshbridge.admin.client import RefusedError

        path = app_path(self.place.daemon, self._name, "/output")
        try:
            found: dict[str, Any] = self._client.get(path, position=self._position, index=index, max_size=_PIECE_BYTES)
        except RefusedError as refused:
            if refused.status == HTTPStatus.NOT_FOUND and "not-kept" in str(refused.problem.get("kind")):
                return None
            raise
        return found

    def _show(self, piece: dict[str, Any]) -> None:
        place = {"daemon": self.place.daemon, "app": self._name, "position": self._position}
        with writing():
            if self._as_json:
                show_json({**place, "output": piece["output"]})
            else:
                show_output(str(piece["output"]), raw=self._raw)
        self._position = int(piece["position"])
