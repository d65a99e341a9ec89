"""HTTP responses without the interim ones before them (RFC 9110, 15.2).

A server may send any number of 1xx responses (102 Processing, 103 Early Hints) before the one that answers a request.
The standard library's client skips 100 alone and takes each of the others for the answer.
"""

import http.client

__all__ = ["FinalResponse"]

_FIRST_FINAL, _SWITCHING_PROTOCOLS = 200, 101
_MAX_INTERIM = 100  # of one request; a server that sends more never answers


class FinalResponse(http.client.HTTPResponse):
    """For ``response_class`` of an ``http.client.HTTPConnection``, or of a class made from it."""

    def begin(self) -> None:
        """Reads status and headers of the final response; 101, which ends HTTP on the connection, counts as one.

        Raises:
            http.client.HTTPException: there is none.

        """
        for _ in range(_MAX_INTERIM):
            super().begin()
            if self.status >= _FIRST_FINAL or self.status == _SWITCHING_PROTOCOLS:
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # what makes begin() read the next one
        raise http.client.HTTPException(f"more than {_MAX_INTERIM} interim responses")
