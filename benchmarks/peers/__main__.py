"""Run one server on a free port of 127.0.0.1, say which, and serve until standard input closes."""

import contextlib
import gc
import importlib
import os
import sys
import threading

from benchmarks.load import pin
from benchmarks.peers.work import Work


def die_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    pin(0)
    name, what, *rest = sys.argv[1:]
    work = Work(what, certificate=rest[0] if rest else None)
    module, _, function = name.partition(":")
    serve = getattr(importlib.import_module(f"benchmarks.peers.{module}"), function)
    threading.Thread(target=die_with_parent, daemon=True).start()
    gc.collect()
    gc.freeze()  # what was imported is nobody's cost per connection
    with contextlib.suppress(KeyboardInterrupt):
        serve(work)


if __name__ == "__main__":
    main()
