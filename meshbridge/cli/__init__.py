"""The ``meshbridge`` command. Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.

One module for each group of commands, which are listed here in the order in which ``--help`` shows them. What a command
needs is imported when it runs: ``version`` and ``--help`` answer at once. ``output`` says things and exits, ``options``
holds the options that many commands have.
"""

import sys
from typing import Annotated

import typer

from meshbridge.cli import (
    apps,
    bridge,
    check,
    completion_scripts,
    configuration,
    delivery,
    emulation,
    execute,
    history,
    journal,
    login,
    logs,
    output,
    status,
    tail,
    token,
    top,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="meshbridge",
    help="Bridges App Mesh events to MQTT and other sinks, and App Mesh metrics to Prometheus.",
    no_args_is_help=True,
    add_completion=False,  # meshbridge completion
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=bridge.print_version, is_eager=True)
    ] = False,
) -> None:
    """Bridges App Mesh events to MQTT and other sinks, and App Mesh metrics to Prometheus."""


_BRIDGE, _APPS, _DELIVERY = "The bridge", "Apps and their events", "Delivery and the journal"
_SETTING_UP, _TRYING = "Setting up", "Trying it without App Mesh"

app.command(rich_help_panel=_BRIDGE)(bridge.run)
app.command(rich_help_panel=_BRIDGE)(status.status)
app.command(rich_help_panel=_BRIDGE)(bridge.reload)
app.command(rich_help_panel=_BRIDGE)(bridge.healthcheck)

app.command(rich_help_panel=_SETTING_UP)(check.check)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config", rich_help_panel=_SETTING_UP)
config_app.command()(configuration.show)
config_app.command()(configuration.schema)
token_app = typer.Typer(help="Make tokens for the admin API.", no_args_is_help=True)
app.add_typer(token_app, name="token", rich_help_panel=_SETTING_UP)
token_app.command()(token.new)
app.command(rich_help_panel=_SETTING_UP)(login.login)
app.command(rich_help_panel=_SETTING_UP)(completion_scripts.completion)
app.command(rich_help_panel=_SETTING_UP)(bridge.version)

app.command(rich_help_panel=_APPS)(tail.tail)
app.command(rich_help_panel=_APPS)(history.history)
app.command(rich_help_panel=_APPS)(apps.apps)
app.command(rich_help_panel=_APPS)(apps.app)
app.command(rich_help_panel=_APPS)(top.top)
app.command(rich_help_panel=_APPS)(logs.logs)
# What follows the command's own first word are the words of the command to run.
app.command("exec", rich_help_panel=_APPS, context_settings={"allow_interspersed_args": False})(execute.execute)
app.command(rich_help_panel=_APPS)(apps.enable)
app.command(rich_help_panel=_APPS)(apps.disable)

sinks_app = typer.Typer(help="Look at the sinks of the running bridge, pause and resume them.", no_args_is_help=True)
app.add_typer(sinks_app, name="sinks", rich_help_panel=_DELIVERY)
sinks_app.command("list")(delivery.sinks)
sinks_app.command()(delivery.pause)
sinks_app.command()(delivery.resume)
sinks_app.command()(delivery.clear)
app.command(rich_help_panel=_DELIVERY)(journal.explain)
app.command(rich_help_panel=_DELIVERY)(delivery.commands)
app.command(rich_help_panel=_DELIVERY)(delivery.replay)
dead_letters_app = typer.Typer(help="Events that a destination has refused for good.", no_args_is_help=True)
app.add_typer(dead_letters_app, name="dead-letters", rich_help_panel=_DELIVERY)
dead_letters_app.command("list")(delivery.dead_letters)
dead_letters_app.command()(delivery.retry)
dead_letters_app.command()(delivery.drop)
journal_app = typer.Typer(help="Look into the journal, whether the bridge runs or not.", no_args_is_help=True)
app.add_typer(journal_app, name="journal", rich_help_panel=_DELIVERY)
journal_app.command()(journal.stats)
journal_app.command()(journal.verify)

app.command(rich_help_panel=_TRYING)(emulation.demo)
app.command(rich_help_panel=_TRYING)(emulation.emulate)


def main() -> None:
    """Entry point of the console script."""
    completion_scripts.answer_completion()
    if sys.stderr is None or not sys.stderr.isatty():
        app.rich_markup_mode = None  # in a journal or a script an error is a line, not a box of 80 columns
    with output.brought_out():
        app()
