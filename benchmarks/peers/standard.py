"""The standard library's socketserver and http.server."""

import http.server
import socketserver
import threading as threads
import time
from typing import Any

from benchmarks.peers.work import BACKLOG, Work


class Lines(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class Once(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


class Datagrams(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "13")
        self.end_headers()
        self.wfile.write(b"Hello, world!")

    def log_message(self, *_: Any) -> None:
        pass


HANDLERS: dict[str, type[socketserver.BaseRequestHandler]] = {
    "lines": Lines, "once": Once, "datagrams": Datagrams,
}  # fmt: skip


def serve(kind: type[socketserver.BaseServer], handler: Any, work: Work) -> None:
    for base in (socketserver.TCPServer, socketserver.ThreadingTCPServer, kind):
        base.request_queue_size = BACKLOG  # type: ignore[attr-defined]
    with kind(("127.0.0.1", 0), handler) as server:
        work.ready(server.server_address)
        server.serve_forever()


def plain(work: Work) -> None:
    udp = work.what == "datagrams"
    kind = socketserver.UDPServer if udp else socketserver.TCPServer
    serve(kind, HANDLERS[work.what], work)


def threading(work: Work) -> None:
    udp = work.what == "datagrams"
    kind = socketserver.ThreadingUDPServer if udp else socketserver.ThreadingTCPServer
    serve(kind, HANDLERS[work.what], work)


def http_(work: Work) -> None:
    serve(http.server.ThreadingHTTPServer, Hello, work)


def shutdown(work: Work) -> None:
    """Measure how long `shutdown()` takes, with nothing in hand."""
    latencies = []
    for number in range(int(work.what)):
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Once) as server:
            thread = threads.Thread(target=server.serve_forever)
            thread.start()
            time.sleep(0.01 + 0.001 * (number % 7))  # somewhere in the middle of a poll
            start = time.perf_counter()
            server.shutdown()
            latencies.append(time.perf_counter() - start)
            thread.join()
    work.say({"latencies": latencies})
