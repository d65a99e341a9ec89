"""The sink for RabbitMQ and other brokers of AMQP 0-9-1, over pika.

``sink`` says what is published, and what the broker's answers mean; ``connection`` drives pika: one connection with one
channel, for one thread; ``flight`` follows the messages of a write until the broker has confirmed them.
"""

from meshbridge.sinks.amqp.sink import AmqpOptions, AmqpSink

__all__ = ["AmqpOptions", "AmqpSink"]
