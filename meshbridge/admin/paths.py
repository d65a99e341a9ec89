"""Where the control socket is."""

__all__ = ["CONTROL_SOCKET"]

CONTROL_SOCKET = "control.sock"
