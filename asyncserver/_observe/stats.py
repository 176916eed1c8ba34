"""Counting what happens: the observer behind `Server.stats`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asyncserver import events

__all__ = ("Stats", "Tally")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A snapshot of a server's counters. All but `active` only ever grow.

    Attributes:
        accepted: connections admitted.
        active: connections open now, handshakes included.
        refused: connections closed at once, by the name of the limit.
        handshakes_failed: TLS handshakes that failed or timed out.
        handler_errors: exceptions that handlers let out.
        disconnects: peers that went away, or broke the rules, in the middle of a handler.
        expired: connections ended by a deadline, by its name.
        bytes_in: bytes received on streams, as the handlers see them (TLS taken off).
            A protocol factory's bytes go past the server and are not counted.
        bytes_out: bytes sent likewise.
        datagrams_in: datagrams given to a handler.
        datagrams_out: replies sent.
        datagrams_dropped: datagrams lost: `Limits.datagrams`, or the peer's part of it, was reached,
            or (on Linux, UDP) the kernel's receive buffer was full.
        datagrams_truncated: datagrams longer than `Limits.datagram_size`.
        accept_backoffs: pauses for want of descriptors or memory.

    """

    accepted: int
    active: int
    refused: dict[str, int]
    handshakes_failed: int
    handler_errors: int
    disconnects: int
    expired: dict[str, int]
    bytes_in: int
    bytes_out: int
    datagrams_in: int
    datagrams_out: int
    datagrams_dropped: int
    datagrams_truncated: int
    accept_backoffs: int


class Tally:
    """An observer that counts. Bytes are those of connections that are gone."""

    def __init__(self) -> None:
        self.accepted = 0
        self.refused: dict[str, int] = {}
        self.handshakes_failed = 0
        self.handler_errors = 0
        self.disconnects = 0
        self.expired: dict[str, int] = {}
        self.bytes_in = 0
        self.bytes_out = 0
        self.accept_backoffs = 0
        self._count: dict[type, Callable[[Any], None]] = {
            events.ConnectionOpened: self._opened,
            events.ConnectionClosed: self._closed,
            events.ConnectionRefused: self._refused,
            events.HandshakeFailed: self._handshake_failed,
            events.HandlerFailed: self._failed,
            events.PeerDisconnected: self._disconnected,
            events.DeadlineExpired: self._expired,
            events.ResourcesExhausted: self._exhausted,
        }

    def __call__(self, event: events.Event) -> None:
        count = self._count.get(type(event))
        if count is not None:
            count(event)

    def _opened(self, _: events.ConnectionOpened) -> None:
        self.accepted += 1

    def _closed(self, event: events.ConnectionClosed) -> None:
        self.bytes_in += event.received
        self.bytes_out += event.sent

    def _refused(self, event: events.ConnectionRefused) -> None:
        self.refused[event.limit] = self.refused.get(event.limit, 0) + 1

    def _handshake_failed(self, _: events.HandshakeFailed) -> None:
        self.handshakes_failed += 1

    def _failed(self, _: events.HandlerFailed) -> None:
        self.handler_errors += 1

    def _disconnected(self, _: events.PeerDisconnected) -> None:
        self.disconnects += 1

    def _expired(self, event: events.DeadlineExpired) -> None:
        self.expired[event.deadline] = self.expired.get(event.deadline, 0) + 1

    def _exhausted(self, _: events.ResourcesExhausted) -> None:
        self.accept_backoffs += 1
