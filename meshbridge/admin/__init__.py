"""The HTTP API to the bridge itself, on FastAPI; one module for each area.

**Who may.** ``control.sock`` in the journal's directory has mode 0600: its owner has every scope and needs no token.
Each operation names the scope that it needs (:func:`meshbridge.admin.auth.needs`); who may come in elsewhere is decided
by the `Authenticate` function that the application is made with.

**What it knows.** Not the parts, but what the service hands over: callables and status values
(:class:`meshbridge.admin.bridge.Bridge`). Errors are ``application/problem+json`` (RFC 9457), always.

FastAPI is imported by the modules here alone, so that commands that don't serve it start at once.
"""
