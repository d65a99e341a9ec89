"""Values without I/O: events, app states, statuses."""
