"""How Sphinx builds these pages: `sphinx-build -W docs docs/_build`, with the extra `docs`."""  # noqa: INP001 - Sphinx reads it by its path

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import lifecycle  # noqa: E402 - the lines above say where it is
from sphinx.util.typing import stringify_annotation  # noqa: E402 - likewise

import asyncserver  # noqa: E402 - likewise
from asyncserver._handlers.kinds import Handler  # noqa: E402 - likewise
from asyncserver.events import Event, Observer  # noqa: E402 - likewise

project = "asyncserver"
author = "The asyncserver authors"
version = release = asyncserver.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_ext", "_generated"]
html_theme = "furo"
html_title = "asyncserver"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings are read in an editor, too: a name in `single backticks` is a link where there is a page.
default_role = "py:obj"
add_module_names = False
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", "(?s).*"),  # code in backticks that names nothing of ours
    (
        "py:.*",
        r"(anyio|asyncio|collections|contextvars|enum|os|socket|socketserver|ssl|typing)\..*",
    ),
    ("py:.*", r"asyncserver\._.*"),  # a type that has no name of its own in public
    ("py:exc", r"(OSError|SystemExit|TypeError|ValueError|Exception)"),
    ("py:class", r"(bool|bytes|bytearray|float|int|memoryview|object|str|tuple|type|dict|list)"),
    (
        "py:class",
        r"(Exception|BaseException|OSError|None|Event|Handler|Observer|TypedAttributeSet|.*\.E)",
    ),
]


# Unions that would fill half a page in every signature; the pages say what they are.
UNIONS = {
    stringify_annotation(union, "smart"): word
    for union, word in ((Handler, "Handler"), (Observer, "Observer"), (Event, "Event"))
}


def shorten(*signature: object) -> tuple[str | None, str | None]:
    """Write the name of a union instead of all that is in it."""
    arguments, returns = (text if isinstance(text, str) else None for text in signature[-2:])
    for union, word in UNIONS.items():
        arguments = arguments and arguments.replace(union, word)
    return arguments, returns


def read_docstring(
    _app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Make reStructuredText of what is written for people: backslashes, blocks of code, first colons."""
    for number, line in enumerate(lines):
        lines[number] = line.replace("\\", "\\\\")
        block = [*lines[number + 1 : number + 3], "", ""]
        if line.endswith(":") and not block[0] and block[1].startswith("    "):
            lines[number] += ":"
    if what == "property":  # napoleon would take what stands before the first colon for its type
        lines[:0] = ["..", ""]  # an empty comment, and no colon


def setup(app: Sphinx) -> None:
    """Draw the pictures before any page is read."""
    app.connect("builder-inited", lambda _: lifecycle.write(HERE / "_generated"))
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # before napoleon
