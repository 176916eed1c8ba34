"""The README's first program, word for word but for its addresses, serves in this environment."""

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
SOON = 30.0  # seconds


def ask(path: Path, process: subprocess.Popen[bytes]) -> bytes:
    """Return what the server at `path` answers, as soon as there is one."""
    deadline = time.monotonic() + SOON
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SOON)
            try:
                client.connect(str(path))
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            client.sendall(b"hello\n")
            return client.makefile("rb").readline()


def main() -> None:
    program = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "upper.sock")
        place = Path(directory, "program.py")
        ours = f'"tcp://127.0.0.1:0", "unix://{path}"'
        place.write_text(re.sub(r'"tcp://[^"]*"(, *"unix://[^"]*")?', ours, program))
        with subprocess.Popen([sys.executable, "-W", "error", place], cwd=directory) as process:
            try:
                answer = ask(path, process)
            finally:
                process.send_signal(signal.SIGTERM)
        assert (answer, process.returncode) == (b"HELLO\n", 0), (answer, process.returncode)


if __name__ == "__main__":
    main()
