"""What the sinks that speak HTTP share: the client, its settings, what an answer means, the probe of ``check``."""
