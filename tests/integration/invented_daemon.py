"""A daemon that is a table of answers: what is asked of it runs nothing and writes nothing."""

import itertools
import re
from http import HTTPStatus
from typing import Any

import orjson

from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

APP = {"name": "web", "command": "sleep 1", "status": 1, "health": 0, "pid": 7, "starts": 1, "owner": "admin"}
_TEXT, _JSON = "text/plain", "application/json"
_ANSWERS: list[tuple[str, str, Any]] = [  # method and path, and what is there
    ("GET", r"/appmesh/applications", [APP]),
    ("GET|PUT", r"/appmesh/app/[^/]+", APP),
    ("DELETE", r"/appmesh/app/[^/]+", {"message": "removed"}),
    ("GET", r"/appmesh/app/[^/]+/health", "0"),
    ("GET", r"/appmesh/app/[^/]+/output", "a line\n"),
    ("POST", r"/appmesh/app/[^/]+/(enable|disable)", {"message": "done"}),
    ("POST", r"/appmesh/app/run", APP | {"process_uuid": "9f1c"}),
    ("POST", r"/appmesh/app/syncrun", "a line\n"),
    ("POST|DELETE", r"/appmesh/app/[^/]+/task", "result"),
    ("GET", r"/appmesh/resources", {"host_name": "node-a", "mem_total_bytes": 1}),
    ("GET", r"/appmesh/metrics", "# TYPE a gauge\na 1\n"),
    ("GET|POST", r"/appmesh/config", {"REST": {"JWT": {"JWTSalt": "hunter2"}}}),
    ("GET", r"/appmesh/(labels|roles|users)", {}),
    ("GET", r"/appmesh/(permissions|permissions/all|user/groups|user/permissions)", []),
    ("GET", r"/appmesh/user/self", {"name": "admin"}),
    ("POST", r"/appmesh/totp/secret", {"mfa_uri": "b3RwYXV0aDovL3RvdHAvYT9zZWNyZXQ9QUFBQQ=="}),
]
_REFUSALS = itertools.cycle(
    [
        (HTTPStatus.BAD_REQUEST, "Permission denied: user lacks required permission 'app-view'"),
        (HTTPStatus.BAD_REQUEST, "no"),
        (HTTPStatus.NOT_FOUND, "no such thing"),
        (HTTPStatus.CONFLICT, "there is one"),
        (HTTPStatus.PRECONDITION_FAILED, "not now"),
        (HTTPStatus.EXPECTATION_FAILED, ""),
        (HTTPStatus.IM_A_TEAPOT, "no"),
    ]
)
_EVERY = 3  # of its answers is a refusal


class MadeUpDaemon:
    """Carries requests nowhere (:class:`meshbridge.appmesh.exchange.Exchange`)."""

    def __init__(self) -> None:
        self._asked = itertools.count(1)

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        found = next(
            (
                answer
                for method, path, answer in _ANSWERS
                if re.fullmatch(method, message.http_method) and re.fullmatch(path, message.request_uri)
            ),
            None,
        )
        if found is None or next(self._asked) % _EVERY == 0:
            status, said = next(_REFUSALS)
            return _response(message, status, {"message": said} if said else "")
        return _response(message, HTTPStatus.OK, found)

    def close(self) -> None:
        pass


def _response(message: RequestMessage, status: HTTPStatus, content: Any) -> ResponseMessage:
    text = isinstance(content, str)
    return ResponseMessage(
        uuid=message.uuid,
        request_uri=message.request_uri,
        http_status=status,
        body_msg_type=_TEXT if text else _JSON,
        body=content.encode() if text else orjson.dumps(content),
        headers={"X-Exit-Code": "0", "X-Output-Position": "7"},
    )
