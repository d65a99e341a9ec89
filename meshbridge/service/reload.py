"""What differs between two sets of settings, and how it can be put in force. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from meshbridge.config.load import Settings

__all__ = ["Changes", "Difference", "changes", "put_in_force", "still_in_force"]

# The listeners, the journal's directory and how it is written belong to the process.
_NEED_RESTART = ("journal", "exporter", "admin")


@dataclass(frozen=True, slots=True)
class Difference:
    """Names of parts of one kind."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def ending(self) -> tuple[str, ...]:
        """Those whose present form ends."""
        return self.changed + self.removed

    @property
    def beginning(self) -> tuple[str, ...]:
        """Those that begin in a new form."""
        return self.added + self.changed


@dataclass(frozen=True, slots=True)
class Changes:
    """``need_restart``: keys whose new values are in force only after the next start."""

    daemons: Difference
    sinks: Difference
    need_restart: tuple[str, ...] = ()


def changes(old: Settings, new: Settings, *, listening: bool) -> Changes:
    """What is to be done so that ``new`` is in force. What is equal in both is not touched.

    ``listening``: whether the admin listener is there, which tokens alone can't tell once they have changed.
    """
    relabelled = _labels(old) != _labels(new)
    by_label = {name for name, sink in new.sinks.items() if relabelled and sink.when.labels}
    return Changes(
        daemons=_difference(old.daemons, new.daemons),
        sinks=_difference(old.sinks, new.sinks, also=by_label),
        need_restart=tuple(
            key
            for key in _NEED_RESTART
            if _fixed(old, key) != _fixed(new, key) or (key == "admin" and new.admin.enabled != listening)
        ),
    )


def put_in_force(old: Settings, new: Settings, found: Changes) -> Settings:
    """``new`` without what needs a restart. Tokens are new in any case: one that was taken away opens nothing."""
    kept: dict[str, Any] = {key: getattr(old, key) for key in found.need_restart}
    if "admin" in kept:
        kept["admin"] = old.admin.model_copy(update={"tokens": new.admin.tokens})
    return new.model_copy(update=kept)


def still_in_force(old: Settings, new: Settings, hanging: Collection[str]) -> Settings:
    """``new`` with the old settings of parts that do not end (``sinks.hook``): the next reload tries those again."""
    kept = {
        kind: {
            **getattr(new, kind),
            **{name: options for name, options in getattr(old, kind).items() if f"{kind}.{name}" in hanging},
        }
        for kind in ("daemons", "sinks")
    }
    return new.model_copy(update=kept)


def _fixed(settings: Settings, key: str) -> Any:
    """What of a part stays until the process ends."""
    part = getattr(settings, key)
    return part.model_copy(update={"tokens": ()}) if key == "admin" else part


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], also: Collection[str] = ()) -> Difference:
    both = [name for name in new if name in old]
    return Difference(
        added=tuple(name for name in new if name not in old),
        changed=tuple(name for name in both if old[name] != new[name] or name in also),
        removed=tuple(name for name in old if name not in new),
    )


def _labels(settings: Settings) -> dict[str, Mapping[str, str]]:
    return {name: daemon.labels for name, daemon in settings.daemons.items()}
