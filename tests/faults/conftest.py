"""Fault tests run the installed program, as the end-to-end tests do."""

from tests.e2e.conftest import bridge, emulator

__all__ = ["bridge", "emulator"]
