"""The mqtt sink: :mod:`~meshbridge.sinks.mqtt.sink` is the sink, the other modules are its parts."""

from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink

__all__ = ["MqttOptions", "MqttSink"]
