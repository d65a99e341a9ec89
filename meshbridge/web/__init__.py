"""The HTTP server that the exporter, the admin API and the control socket share.

Theory of operation: a :class:`~meshbridge.web.server.Server` has a thread with an event loop, and accepts connections
itself. Each is a :class:`~meshbridge.web.connection.Connection`, which reads the head of a request whole, has h11 check
and parse it, and calls an ASGI application for the answer. HTTP/1.1 only, no WebSocket.

What a client can cost is bounded (:class:`~meshbridge.web.limits.Limits`): connections, bytes of a head, seconds of
silence at each stage. A connection on which no request is being answered is idle. At the bound on connections the one
that has been idle longest makes way, so that silent clients keep no others out. Where all are busy, further ones are
answered for the paths in ``vital`` alone (health), and twice the bound is never exceeded. Where the process has no file
descriptor left, idle connections make way too; if there are none, accepting pauses.

``addresses`` has TCP addresses, ``unix`` the sockets of the file system, ``tls`` notices changed files.
"""
