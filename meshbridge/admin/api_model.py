"""The base of what callers of the API send and receive."""

from pydantic import ConfigDict

from meshbridge.fields import Options

__all__ = ["ApiModel"]


class ApiModel(Options):
    """Refuses unknown keys, as settings do.

    Its validator is built with the class: FastAPI silences Pydantic's warning about its own aliases only while it
    builds one itself, so a validator that is built at the first call would print that warning.
    """

    model_config = ConfigDict(defer_build=False)
