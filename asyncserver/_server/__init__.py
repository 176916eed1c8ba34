"""The server: its life, what it listens on, and who is at work in it."""
