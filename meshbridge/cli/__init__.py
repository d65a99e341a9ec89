"""The ``meshbridge`` command. Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.

One module for each group of commands, which are listed here in the order in which ``--help`` shows them. What a command
needs is imported when it runs: ``version`` and ``--help`` answer at once. ``output`` says things and exits, ``options``
holds the options that many commands have.
"""

import typer

from meshbridge.cli import bridge, check, completion, configuration, emulation, token

__all__ = ["app", "main"]

app = typer.Typer(
    name="meshbridge",
    help="Bridges App Mesh events to MQTT and other sinks, and App Mesh metrics to Prometheus.",
    no_args_is_help=True,
    add_completion=False,  # meshbridge completion
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(bridge.run)
app.command()(check.check)
app.command()(emulation.demo)
app.command()(emulation.emulate)
app.command()(bridge.healthcheck)
app.command()(bridge.version)
app.command()(completion.completion)

config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
config_app.command()(configuration.show)
config_app.command()(configuration.schema)

token_app = typer.Typer(help="Make tokens for the admin API.", no_args_is_help=True)
app.add_typer(token_app, name="token")
token_app.command()(token.new)


def main() -> None:
    """Entry point of the console script."""
    completion.answer_completion()
    app()
