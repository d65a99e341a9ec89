"""A real RabbitMQ node with an epmd of its own, on free ports, with all it writes below one directory."""

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pika

from meshbridge.sinks.amqp.sink import AmqpOptions, AmqpSink
from tests.support import Process, free_port, program, wait_for

# The program in the path is a script that changes to the user rabbitmq; this one it starts in the end.
_BINARIES = Path("/usr/lib/rabbitmq/bin")
_ALL = {"configure": ".*", "write": ".*", "read": ".*"}
PASSWORD = "hunter2-rabbit"


class RabbitMq:
    """Users: ``bridge`` may do everything, ``reader`` may not write, ``limited`` may not write about the app db."""

    def __init__(self, directory: Path, *, settings: str = "") -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port, self._epmd_port, self._distribution_port = free_port(), free_port(), free_port()
        self._node = f"meshbridge-{self.port}@localhost"
        self._processes: list[Process] = []
        users = [{"name": name, "password": PASSWORD, "tags": ""} for name in ("bridge", "reader", "limited")]
        allowed = [{"user": name, "vhost": "/", **_ALL} for name in ("bridge", "limited")]
        topics = [{"user": "limited", "vhost": "/", "exchange": "meshbridge", "write": r"\.web\.", "read": ".*"}]
        definitions = {
            "users": users,
            "vhosts": [{"name": "/"}],
            "permissions": [*allowed, {"user": "reader", "vhost": "/", **_ALL, "write": "^$"}],
            "topic_permissions": topics,
        }
        (self.directory / "definitions.json").write_bytes(orjson.dumps(definitions))
        (self.directory / "plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"load_definitions = {self.directory}/definitions.json\n"
            "disk_free_limit.absolute = 1MB\nvm_memory_high_watermark.absolute = 4GB\nlog.console = true\n" + settings
        )

    @property
    def _environment(self) -> dict[str, str]:
        here = str(self.directory)
        return os.environ | {
            "HOME": here,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
            "RABBITMQ_LOG_BASE": f"{here}/log",
            "RABBITMQ_PID_FILE": f"{here}/pid",
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{here}/none",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
        }

    def start(self) -> None:
        epmd = program("epmd")
        assert epmd is not None
        self._run([epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"], "epmd")
        wait_for(lambda: _listens(self._epmd_port), "epmd")
        node = self._run([str(_BINARIES / "rabbitmq-server")], "rabbitmq")
        wait_for(lambda: self._answers() or node.popen.poll() is not None, "RabbitMQ", 120)
        assert node.popen.poll() is None, node.output()[-3000:]

    def _run(self, command: list[str], name: str) -> Process:
        process = Process(command, self.directory / f"{name}.out", self._environment)
        self._processes.append(process)
        return process

    def _answers(self) -> bool:
        if not _listens(self.port):
            return False
        try:
            self.client().close()
        except (OSError, pika.exceptions.AMQPError):
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        while self._processes:
            self._processes.pop().end(number, 60)

    def control(self, *arguments: str) -> None:
        command = [str(_BINARIES / "rabbitmqctl"), "-q", "-n", self._node, *arguments]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=120)

    def client(self) -> pika.BlockingConnection:
        credentials = pika.PlainCredentials("bridge", PASSWORD)
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, "/", credentials))

    def queue(self, name: str, binding: str = "#", exchange: str = "meshbridge", **arguments: Any) -> None:
        """Binds a durable queue to the exchange, and makes both."""
        client = self.client()
        channel = client.channel()
        channel.exchange_declare(exchange, "topic", durable=True)
        channel.queue_declare(name, durable=True, arguments=arguments)
        channel.queue_bind(name, exchange, binding)
        client.close()

    def take(self, name: str) -> list[tuple[str, pika.BasicProperties, bytes]]:
        """Routing key, properties and body of every message in a queue, which is empty then."""
        client = self.client()
        channel, found = client.channel(), []
        while True:
            method, properties, body = channel.basic_get(name, auto_ack=True)
            if method is None:
                break
            found.append((str(method.routing_key), properties, body))
        client.close()
        return found

    def sink(self, **settings: Any) -> AmqpSink:
        return self.options(**settings).build("rabbit", self.directory)

    def options(self, **settings: Any) -> AmqpOptions:
        fixed = {"type": "amqp", "url": f"amqp://127.0.0.1:{self.port}", "username": "bridge", "password": PASSWORD}
        return AmqpOptions.model_validate(fixed | settings)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
