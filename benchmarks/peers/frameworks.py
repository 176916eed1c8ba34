"""What else one would take: anyio, trio, gevent, EasyNetwork, tornado, twisted."""

import socket
from typing import Any

from benchmarks.peers.work import BACKLOG, LINE_LIMIT, Work

CHUNK = 65536


# anyio on uvloop


def anyio_(work: Work) -> None:
    import anyio
    from anyio.streams.buffered import BufferedByteReceiveStream

    async def lines(stream: Any) -> None:
        async with stream:
            buffered = BufferedByteReceiveStream(stream)
            try:
                while True:
                    line = await buffered.receive_until(b"\n", LINE_LIMIT)
                    await stream.send(line + b"\n")
            except (anyio.IncompleteRead, anyio.EndOfStream):
                pass

    async def blocks(stream: Any) -> None:
        async with stream:
            async for block in stream:
                await stream.send(block)

    async def once(stream: Any) -> None:
        async with stream:
            line = await BufferedByteReceiveStream(stream).receive_until(b"\n", LINE_LIMIT)
            await stream.send(line + b"\n")

    async def main() -> None:
        if work.what == "datagrams":
            async with await anyio.create_udp_socket(local_host="127.0.0.1") as udp:
                work.ready(udp.extra(anyio.abc.SocketAttribute.local_address))
                async for data, (host, port) in udp:
                    await udp.sendto(data, host, port)
        else:
            handler = {"lines": lines, "blocks": blocks, "once": once}[work.what]
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=BACKLOG)
            work.ready(listener.extra(anyio.abc.SocketAttribute.local_address))
            await listener.serve(handler)

    anyio.run(main, backend_options={"use_uvloop": True})


def trio_(work: Work) -> None:
    import trio

    async def lines(stream: Any) -> None:
        pending = b""
        async for chunk in stream:
            *whole, pending = (pending + chunk).split(b"\n")
            for line in whole:
                await stream.send_all(line + b"\n")

    async def blocks(stream: Any) -> None:
        async for block in stream:
            await stream.send_all(block)

    async def once(stream: Any) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += await stream.receive_some()
        await stream.send_all(line)

    async def main() -> None:
        if work.what == "datagrams":
            udp = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
            await udp.bind(("127.0.0.1", 0))
            work.ready(udp.getsockname())
            while True:
                data, peer = await udp.recvfrom(CHUNK)
                await udp.sendto(data, peer)
        handler = {"lines": lines, "blocks": blocks, "once": once}[work.what]
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(work.listen()))
        await trio.serve_listeners(handler, [listener])

    trio.run(main)


def gevent_(work: Work) -> None:
    from gevent.server import DatagramServer, StreamServer

    def lines(sock: Any, _: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock.makefile("rb") as file:
            for line in file:
                sock.sendall(line)

    def blocks(sock: Any, _: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while block := sock.recv(CHUNK):
            sock.sendall(block)

    def once(sock: Any, _: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock.makefile("rb") as file:
            sock.sendall(file.readline())

    class Datagrams(DatagramServer):
        def handle(self, data: bytes, address: Any) -> None:
            self.socket.sendto(data, address)

    if work.what == "datagrams":
        server: Any = Datagrams(("127.0.0.1", 0))
    else:
        handler = {"lines": lines, "blocks": blocks, "once": once}[work.what]
        server = StreamServer(("127.0.0.1", 0), handler, backlog=BACKLOG)
    server.start()
    work.ready((server.server_host, server.server_port))
    server.serve_forever()


def easynetwork_(work: Work) -> None:
    import asyncio

    import uvloop
    from easynetwork.protocol import DatagramProtocol, StreamProtocol
    from easynetwork.serializers import StringLineSerializer
    from easynetwork.servers import AsyncTCPNetworkServer, AsyncUDPNetworkServer
    from easynetwork.servers.handlers import AsyncDatagramRequestHandler, AsyncStreamRequestHandler

    # "latin-1" carries every byte. keep_end, because an echo sends the newline back.
    serializer = StringLineSerializer("LF", encoding="latin-1", limit=LINE_LIMIT)

    class Lines(AsyncStreamRequestHandler[str, str]):
        async def handle(self, client: Any) -> Any:
            request = yield
            await client.send_packet(request)
            if work.what == "once":
                await client.aclose()

    class Datagrams(AsyncDatagramRequestHandler[str, str]):
        async def handle(self, client: Any) -> Any:
            request = yield
            await client.send_packet(request)

    async def main() -> None:
        server: Any
        if work.what == "datagrams":
            server = AsyncUDPNetworkServer(
                "127.0.0.1", 0, DatagramProtocol(serializer), Datagrams()
            )
        else:
            server = AsyncTCPNetworkServer(
                "127.0.0.1", 0, StreamProtocol(serializer), Lines(), backlog=BACKLOG
            )
        async with server:
            ready = asyncio.Event()
            serving = asyncio.create_task(server.serve_forever(is_up_event=ready))
            await ready.wait()
            address = server.get_addresses()[0]
            work.ready((address.host, address.port))
            await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def tornado_(work: Work) -> None:
    import asyncio

    from tornado.iostream import StreamClosedError
    from tornado.tcpserver import TCPServer

    class Lines(TCPServer):
        async def handle_stream(self, stream: Any, address: Any) -> None:
            stream.set_nodelay(True)
            try:
                while True:
                    line = await stream.read_until(b"\n")
                    await stream.write(line)
                    if work.what == "once":
                        stream.close()
                        return
            except StreamClosedError:
                pass

    async def main() -> None:
        server = Lines()
        server.add_socket(work.listen())
        await asyncio.Event().wait()

    asyncio.run(main())


def twisted_(work: Work) -> None:
    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import protocol, reactor
    from twisted.protocols.basic import LineReceiver

    class Lines(LineReceiver):
        delimiter = b"\n"
        MAX_LENGTH = LINE_LIMIT

        def connectionMade(self) -> None:  # noqa: N802
            self.transport.setTcpNoDelay(True)

        def lineReceived(self, line: bytes) -> None:  # noqa: N802
            self.sendLine(line)
            if work.what == "once":
                self.transport.loseConnection()

    class Blocks(protocol.Protocol):
        def dataReceived(self, data: bytes) -> None:  # noqa: N802
            self.transport.write(data)

    class Datagrams(protocol.DatagramProtocol):
        def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802
            self.transport.write(datagram, addr)

    loop: Any = reactor
    if work.what == "datagrams":
        port = loop.listenUDP(0, Datagrams(), interface="127.0.0.1")
    else:
        factory = protocol.Factory.forProtocol(Blocks if work.what == "blocks" else Lines)
        port = loop.listenTCP(0, factory, backlog=BACKLOG, interface="127.0.0.1")
    work.ready((port.getHost().host, port.getHost().port))
    loop.run()
