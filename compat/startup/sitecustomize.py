"""What Python imports first in a program that `python -m compat` runs, and in its children.

It waits until the program imports `socketserver`, and then has compat installed. Until then, and in
children that serve nothing, it costs nothing; what the program sees is what it would see without it.
May be read by any Python, since children may be of another one; knows the standard library only.
"""

import os
import sys
from importlib.machinery import ModuleSpec

VARIABLE = "ASYNCSERVER_COMPAT"  # the settings, in the environment
PYTHON_2 = "SocketServer"  # the module's name there


class Hook:
    """Looks for `socketserver`, and for `compat`, as the import system asks all that stand in line."""

    def __init__(self, settings):
        self.home, threads = settings
        self.threads = int(threads) if threads else None
        self.ours = None

    def find_spec(self, name, path=None, target=None):
        if name == "compat" and self.ours is not None:
            return self.find_compat()
        if name == PYTHON_2:
            if self.ask_others(name) is not None:
                return None  # the program's own
            import socketserver

            sys.modules.pop(
                name, None
            )  # or the import system takes that one's spec, and loads it anew
            return ModuleSpec(name, Existing(socketserver))  # type: ignore[arg-type]
        if name != "socketserver":
            return None
        spec = self.ask_others(name)
        loader = getattr(spec, "loader", None)
        if loader is not None:
            execute = loader.exec_module

            def execute_and_install(module):
                execute(module)
                self.install()

            loader.exec_module = execute_and_install
        return spec

    def ask_others(self, name):
        for finder in sys.meta_path:
            ask = getattr(finder, "find_spec", None)  # which very old ones have not
            spec = ask(name, None) if ask is not None and finder is not self else None
            if spec is not None:
                return spec
        return None

    def install(self):
        """Import compat, although the program may have another one, and leave that to the program."""
        if self.ours is not None:
            return
        theirs = take("compat")
        sys.path.insert(0, self.home)
        try:
            import compat
            from compat import late

            compat.install(threads=self.threads)
            self.ours, self.late = compat, late
            late.hide(self.home)
        finally:
            sys.path.remove(self.home)
            sys.modules.update(theirs)

    def find_compat(self):
        """Answer with ours, if that is what the program would have found."""
        spec = self.ask_others("compat")
        if spec is None or spec.origin != self.ours.__file__:  # type: ignore[union-attr]
            return spec
        self.late.show()
        del sys.modules["compat"]  # as above
        return ModuleSpec("compat", Existing(self.ours), origin=spec.origin, is_package=True)  # type: ignore[arg-type]


class Existing:
    """A loader of a module that there is already."""

    def __init__(self, module):
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        module.__spec__ = self.spec  # the import system has put another one there


def take(package):
    """Take a package and what is in it out of the modules."""
    names = [name for name in sys.modules if (name + ".").startswith(package + ".")]
    return {name: sys.modules.pop(name) for name in names}


def leave_no_trace():
    """Go from the path, and give way to the `sitecustomize` that there would be without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [each for each in sys.path if each != here]
    this = sys.modules.pop(__name__, None)
    try:
        __import__(__name__)
    except ImportError as exc:
        if exc.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, this)  # type: ignore[arg-type]


def start():
    """Stand in line, if this is the Python that the settings are for."""
    # Lines, since a module for anything better might be what the program has one of its own of.
    settings = os.environ.get(VARIABLE, "").split("\n")
    if settings[2:] == [sys.prefix, "%d.%d" % sys.version_info[:2]]:
        sys.meta_path.insert(0, Hook(settings[:2]))


if __name__ == "sitecustomize":
    start()
    leave_no_trace()
