"""The server as a whole: addresses, handlers, and what can be seen of it."""

from tests.conftest import connect, serving, upper


async def test_lines_come_back_in_upper_case(url):
    async with serving(upper, url) as server, connect(server.addresses[0]) as (reader, writer):
        writer.write(b"hello\nworld\n")
        assert await reader.readline() == b"HELLO\n"
        assert await reader.readline() == b"WORLD\n"
