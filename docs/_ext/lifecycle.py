"""The lives of a server and of a connection, shown from the tables that they themselves obey.

The server's is a picture. States stand in a row, in the order of `ServerState`. A move to the next one
is an arrow, a move that leaves some out an arc above. What brings a move about is written here, and a
test demands that every move of the table has its words, and no other. A connection has too many moves
for a picture: they are listed.
"""  # noqa: INP001 - conf.py says where it is

from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from asyncserver._lifecycle import MOVES, ServerState
from asyncserver._stream import states

CAUSES: Final = {
    (ServerState.NEW, ServerState.SERVING): "start()",
    (ServerState.NEW, ServerState.CLOSED): "close(), or an address cannot be bound",
    (ServerState.SERVING, ServerState.DRAINING): "close(grace)",
    (ServerState.DRAINING, ServerState.CLOSED): "nobody is left",
}

WIDTH, HEIGHT, GAP, TOP = 110, 44, 120, 90  # of a box, between boxes, and above them
STEP = WIDTH + GAP
STYLE = """
svg { background: #fff }
text { font-family: "DejaVu Sans", sans-serif; font-size: 13px; text-anchor: middle; fill: #444 }
text.state { font-weight: bold; dominant-baseline: middle; fill: #111 }
rect { fill: #dbe9f6; stroke: #27578c; stroke-width: 1.5 }
path { fill: none; stroke: #27578c; stroke-width: 1.5; marker-end: url(#head) }
marker path { fill: #27578c; stroke: none; marker-end: none }
"""


def moves() -> list[tuple[ServerState, ServerState]]:
    """All moves of the table, in the order of the states."""
    order = list(ServerState)
    return sorted(
        ((state, to) for state, following in MOVES.items() for to in following),
        key=lambda move: (order.index(move[0]), order.index(move[1])),
    )


def svg() -> str:
    """Draw it."""
    order = list(ServerState)
    width = len(order) * STEP - GAP + 20
    boxes = "".join(_box(state, 10 + number * STEP) for number, state in enumerate(order))
    arrows = "".join(
        _arrow(order.index(state), order.index(to), CAUSES[state, to]) for state, to in moves()
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + 10}">'
        f"<title>The life of a server</title><style>{STYLE}</style>"
        '<defs><marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0 0 L9 4 L0 8 z"/></marker></defs>'
        f"{boxes}{arrows}</svg>\n"
    )


def _box(state: ServerState, x: int) -> str:
    return (
        f'<rect x="{x}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
        f'<text class="state" x="{x + WIDTH // 2}" y="{TOP + HEIGHT // 2}">{state.value}</text>'
    )


def _arrow(start: int, end: int, cause: str) -> str:
    if end == start + 1:
        x, y = 10 + start * STEP + WIDTH, TOP + HEIGHT // 2
        way, middle, above = f"M{x} {y} H{x + GAP - 2}", x + GAP // 2, y - 8
    else:
        left, right = (10 + each * STEP + WIDTH // 2 for each in (start, end))
        way = f"M{left} {TOP} C{left} 10 {right} 10 {right} {TOP - 2}"
        middle, above = (left + right) // 2, 22
    return f'<path d="{way}"/><text x="{middle}" y="{above}">{cause}</text>'


def listed(kind: type[Enum], moves: Mapping[Enum, Collection[Enum]]) -> str:
    """List the states of one kind, and what may follow each, as a table."""
    lines = [f"| {kind.__name__.lower()} | may become |", "|---|---|"]
    for state in kind:
        following = (each.value for each in kind if each in moves[state])
        lines.append(f"| {state.value} | {', '.join(following) or 'nothing else'} |")
    return "\n".join(lines) + "\n"


def write(directory: Path) -> None:
    """Write the picture and the lists into this directory."""
    directory.mkdir(exist_ok=True)
    (directory / "lifecycle.svg").write_text(svg())
    for kind in (states.Receiving, states.Sending):
        path = directory / f"{kind.__name__.lower()}.md"
        path.write_text(listed(kind, states.MOVES))
