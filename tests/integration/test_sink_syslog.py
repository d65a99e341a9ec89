"""The syslog sink at a real rsyslogd, over TLS, and what ``check`` finds."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from meshbridge.sinks.base import NotConnected, Refused
from meshbridge.sinks.syslog import SyslogOptions, SyslogSink
from tests.support import Process, envelopes, free_port, make_event, program, wait_for

SECONDS = 5.0
CONFIGURATION = """
global(workDirectory="{directory}")
module(load="imtcp")
module(load="imudp")
template(
    name="all" type="string"
    string="%hostname%|%app-name%|%procid%|%msgid%|%syslogseverity-text%|%structured-data%|%msg%\\n"
)
input(type="imtcp" port="{port}" address="127.0.0.1")
input(type="imudp" port="{port}" address="127.0.0.1")
action(type="omfile" file="{directory}/log" template="all")
"""


class Server:
    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self._process: Process | None = None

    def start(self) -> None:
        binary = program("rsyslogd")
        assert binary is not None
        configuration = self.directory / "rsyslog.conf"
        configuration.write_text(CONFIGURATION.format(directory=self.directory, port=self.port))
        command = [binary, "-n", "-f", str(configuration), "-i", str(self.directory / "pid")]
        self._process = Process(command, self.directory / "rsyslogd.log")
        wait_for(self._listens, "rsyslogd")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def lines(self) -> list[list[str]]:
        log = self.directory / "log"
        return [line.split("|", 6) for line in log.read_text().splitlines()] if log.exists() else []

    def sink(self, scheme: str = "tcp", **settings: object) -> SyslogSink:
        url = f"{scheme}://127.0.0.1:{self.port}"
        return SyslogOptions.model_validate({"type": "syslog", "url": url} | settings).build("s", self.directory)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.stop()


def ids(server: Server) -> list[str]:
    return [match[1] for line in server.lines() if (match := re.search(r' id="([^"]+)"', line[5]))]


@pytest.mark.needs("rsyslogd")
def test_rsyslog_reads_every_field_and_a_restart_loses_nothing(server: Server) -> None:
    sink = server.sink()
    sink.connect(SECONDS)
    failed = make_event(1, "EXIT", data={"exit_code": 3})
    batch = envelopes([failed, *(make_event(number, data=output(number)) for number in range(2, 2001))])
    sink.write(batch, SECONDS)
    wait_for(lambda: len(server.lines()) == 2000, "the lines")
    host, app, process, kind, severity, data, text = server.lines()[0]
    assert (host, app, process, kind, severity) == ("node-a", "web", "-", "EXIT", "err")
    assert 'type="io.appmesh.app.exit"' in data
    assert text.strip() == '{"exit_code":3}'
    assert server.lines()[1][6].strip().removeprefix("\ufeff") == "line 2 ü"
    assert ids(server) == [envelope.event.id for envelope in batch]
    server.stop()
    with pytest.raises(NotConnected) as caught:
        sink.write(batch, SECONDS)
    assert caught.value.acknowledged == 0
    server.start()
    sink.connect(SECONDS)
    sink.write(envelopes([make_event(2001)]), SECONDS)
    wait_for(lambda: len(server.lines()) == 2001, "the last line")
    sink.close(SECONDS)


def output(number: int) -> dict[str, object]:
    return {"finished": False, "output": f"line {number} ü\n", "position": 0}


@pytest.mark.needs("rsyslogd")
def test_udp_sends_a_datagram_for_each_message(server: Server) -> None:
    sink = server.sink("udp")
    sink.connect(SECONDS)
    sink.write(envelopes([make_event(number) for number in range(1, 21)]), SECONDS)
    wait_for(lambda: len(server.lines()) == 20, "the datagrams")
    sink.close(SECONDS)


@pytest.mark.needs("rsyslogd")
def test_what_stands_before_a_refused_event_is_delivered(server: Server) -> None:
    sink = server.sink(max_message_bytes=2048)
    sink.connect(SECONDS)
    refused = make_event(2, "EXIT", data={"last_error": "x" * 3000})
    with pytest.raises(Refused) as caught:
        sink.write(envelopes([make_event(1), refused, make_event(3)]), SECONDS)
    assert caught.value.acknowledged == 1
    wait_for(lambda: ids(server) == ["node-a/1/1"], "the first event")
    sink.close(SECONDS)


class TlsReceiver:
    """Keeps what one connection after the other brings."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.data = bytearray()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(sock, server_side=True) as secured:
                    while more := secured.recv(65536):
                        self.data += more
            except OSError:
                sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(SECONDS)


def test_tls_is_verified_and_frames_are_counted_in_octets(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    receiver = TlsReceiver(context)
    settings = {"type": "syslog", "url": f"tls://127.0.0.1:{receiver.port}"}
    with pytest.raises(NotConnected, match=r"not trusted.*ca_file"):
        SyslogOptions.model_validate(settings).probe(SECONDS)
    options = SyslogOptions.model_validate(settings | {"tls": {"ca_file": str(tmp_path / "ca.pem")}})
    assert "accepts" in options.probe(SECONDS).text
    sink = options.build("s", tmp_path)
    sink.connect(SECONDS)
    batch = envelopes([make_event(number, data=output(number)) for number in range(1, 3001)])
    sink.write(batch, SECONDS)
    sink.close(SECONDS)
    expected = b"".join(b"%d %b" % (len(one.body), one.body) for each in batch for one in sink.preview(each.event))
    wait_for(lambda: len(receiver.data) == len(expected), "all of it")
    assert receiver.data == expected
    receiver.close()


def test_a_receiver_that_does_not_read_ends_the_write_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        settings = {"type": "syslog", "url": f"tcp://127.0.0.1:{listener.getsockname()[1]}"}
        sink = SyslogOptions.model_validate(settings).build("s", tmp_path)
        sink.connect(SECONDS)
        big = {"finished": False, "output": "x" * 1000 + "\n", "position": 0}
        batch = envelopes([make_event(number, data=big) for number in range(1, 3001)])
        with pytest.raises(NotConnected) as caught:
            sink.write(batch, 0.5)
        assert caught.value.acknowledged < len(batch)
        with pytest.raises(NotConnected):
            sink.write(batch, 0.5)


def test_check_says_what_is_wrong() -> None:
    with pytest.raises(NotConnected, match="cannot connect"):
        SyslogOptions.model_validate({"type": "syslog", "url": f"tcp://127.0.0.1:{free_port()}"}).probe(SECONDS)
    found = SyslogOptions.model_validate({"type": "syslog", "url": f"udp://127.0.0.1:{free_port()}"}).probe(SECONDS)
    assert found.doubt is not None


@pytest.mark.parametrize("url", ["http://x", "tcp://", "tcp://u:p@x", "tls://x/path", "tcp://x:abc", "tcp://x:0"])
def test_an_address_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the address"):
        SyslogOptions.model_validate({"type": "syslog", "url": url})
