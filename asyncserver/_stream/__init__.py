"""One connection: what a handler holds, the task it runs in, the bytes below."""
