"""What is told of a server: log records and counters."""
