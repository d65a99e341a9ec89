"""A bridge loads the library of a sink only where it has that sink."""

import subprocess
import sys


def test_settings_and_service_load_no_library_of_a_sink() -> None:
    program = (
        "import sys, meshbridge.config.load, meshbridge.service.service\n"
        "libraries = {'apprise', 'confluent_kafka', 'nats', 'opentelemetry', 'pika', 'redis'}\n"
        "print(sorted(libraries & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
