"""App Mesh's wire, without I/O: bytes to frames, frames to messages, messages to their owners."""
