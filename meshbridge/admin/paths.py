"""Where the control socket is, and how a command says which configuration it means."""

__all__ = ["CONFIGURATION_HEADER", "CONTROL_SOCKET", "ENVIRONMENT_ALONE"]

CONTROL_SOCKET = "control.sock"
CONFIGURATION_HEADER = "Meshbridge-Configuration"
"""The absolute path of the file that a command was given, percent-encoded. Another bridge refuses it."""
ENVIRONMENT_ALONE = "environment"
"""Instead of a file's path, of a bridge that was given none."""
