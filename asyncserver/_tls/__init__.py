"""TLS: the engine, the transport over it, and the context that files become."""
