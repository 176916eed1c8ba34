"""What Python imports first in a program that `python -m compat` runs, and in its children.

It waits until the program imports `socketserver`, and then has compat installed. Until then, and in
children that serve nothing, it costs nothing; what the program sees is what it would see without it.
That goes for its modules too, whatever their names are: what is imported for us is looked for where
the program keeps none of its own, and is taken out of `sys.modules` again, until the program asks for
it and would have found the same.

May be read by any Python, since children may be of another one; knows the standard library only.
"""

import _thread
import os
import sys

VARIABLE = "ASYNCSERVER_COMPAT"  # the settings, in the environment
OURS = ("compat", "asyncserver")
PYTHON_2 = "SocketServer"  # the module's name there


class Hook:
    """Looks for modules before the import system asks all others that stand in line.

    As a context manager it is the length of time in which this thread imports for us. `importlib` is
    not imported for it, nor anything else that the program might have one of its own of.
    """

    def __init__(self, settings):
        self.home, threads = settings
        self.threads = int(threads) if threads else None
        self.library = standard_library()
        self.path = self.library + [self.home] + sys.path
        self.hidden = {}  # modules by name, which were imported for us alone
        self.installed = False
        self.frozen = sys.modules["_frozen_importlib"]
        self.external = sys.modules["_frozen_importlib_external"]
        self.lock = _thread.RLock()
        self.get_ident = _thread.get_ident
        self.thread = None  # that imports for us now
        self.depth = 0

    # -- importing for us ----------------------------------------------------------------------

    def __enter__(self):
        self.lock.acquire()
        self.depth += 1
        if self.depth == 1:
            theirs = [
                name for name, module in list(sys.modules.items()) if self.is_foreign(name, module)
            ]
            self.theirs = {name: sys.modules.pop(name) for name in theirs}
            self.before = set(sys.modules)
            self.asked = []
            self.thread = self.get_ident()

    def __exit__(self, *exc):
        self.depth -= 1
        if self.depth == 0:
            self.thread = None
            # Nothing else: other threads may import at the same time.
            asked = {name.partition(".")[0] for name in self.asked} - self.before
            for name, module in list(sys.modules.items()):
                if name.partition(".")[0] in asked and not is_being_imported(module):
                    self.hidden[name] = sys.modules.pop(name)
            sys.modules.update(self.theirs)
        self.lock.release()

    def begin_anew(self):
        """In a child process, which has no thread that imports for us."""
        if self.thread != self.get_ident():
            sys.modules.update(self.theirs if self.depth else {})
            self.depth, self.thread = 0, None
            self.lock = _thread.RLock()

    def is_foreign(self, name, module):
        """Whether a module of the program's own goes by a name under which we look for another."""
        name = name.partition(".")[0]
        places = self.places_of(name)
        spec = getattr(module, "__spec__", None)
        if not places or spec is None:
            return False
        if not spec.has_location:
            return name in OURS  # a folder without __init__.py
        return not any(str(spec.origin).startswith(os.path.join(each, name)) for each in places)

    def places_of(self, name):
        """Return where a package must be that is ours or the standard library's."""
        if name in OURS:
            return [self.home]
        return self.library if name in sys.stdlib_module_names else []

    def find_for_us(self, name, path):
        known = self.hidden.get(name)
        if known is not None:
            return existing(known)
        for finder in (self.frozen.BuiltinImporter, self.frozen.FrozenImporter):
            spec = finder.find_spec(name)
            if spec is not None:
                return spec
        spec = self.external.PathFinder.find_spec(name, self.path if path is None else path)
        if spec is None and path is None and self.places_of(name):
            # Nobody else is asked, who would look among what is the program's.
            raise ModuleNotFoundError("No module named %r" % name, name=name)
        return spec

    # -- what the program imports --------------------------------------------------------------

    def find_spec(self, name, path=None, target=None):
        if self.thread == self.get_ident():
            self.asked.append(name)
            return self.find_for_us(name, path)
        if name == PYTHON_2:
            return self.find_python_2()
        if name in self.hidden:
            return self.find_hidden(name, path)
        if name != "socketserver":
            return None
        spec = self.ask_others(name)
        loader = getattr(spec, "loader", None)
        # Unless it is the program's own.
        if loader is not None and spec.origin == self.find_for_us(name, None).origin:
            execute = loader.exec_module

            def execute_and_install(module):
                execute(module)
                self.install()

            loader.exec_module = execute_and_install
        return spec

    def ask_others(self, name, path=None):
        for finder in sys.meta_path:
            ask = getattr(finder, "find_spec", None)  # which very old ones have not
            spec = ask(name, path) if ask is not None and finder is not self else None
            if spec is not None:
                return spec
        return None

    def install(self):
        if self.installed:
            return
        self.installed = True
        with self:
            # And not from `compat` itself, which the program may be about to import.
            from compat import late
            from compat.install import install

            late.at_home = self
            install(threads=self.threads)
            late.prepare()  # there may be other threads, which import, by the time of the first server
            if PYTHON_2 not in self.before:
                del sys.modules[PYTHON_2]  # we answer for it

    def find_hidden(self, name, path):
        """Answer with ours, if that is what the program would have found."""
        spec = self.ask_others(name, path)
        module = self.hidden.get(name)
        if spec is None or module is None or spec.origin != module.__spec__.origin:
            return spec
        return existing(module, self.show)

    def show(self, name):
        """Leave a module, with all that is in it, to the program as well, which imports it now."""
        for each in [each for each in self.hidden if each.startswith(name + ".")]:
            sys.modules[each] = self.hidden.pop(each)
        self.hidden.pop(name, None)

    def find_python_2(self):
        if self.ask_others(PYTHON_2) is not None:
            return None  # the program's own
        module = __import__("socketserver")
        sys.modules.pop(
            PYTHON_2, None
        )  # or the import system takes that one's spec, and loads it anew
        spec = type(__spec__)(PYTHON_2, None)
        spec.loader = Existing(module, str)  # type: ignore[assignment]
        return spec


def is_being_imported(module):
    """Whether a thread is at it."""
    return getattr(getattr(module, "__spec__", None), "_initializing", False)


class Existing:
    """A loader of a module that there is already; its own one, to whoever asks for more."""

    def __init__(self, module, loaded):
        self.module = module
        self.spec = module.__spec__
        self.loaded = loaded

    def __getattr__(self, name):
        return getattr(self.spec.loader, name)

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        module.__spec__ = self.spec  # the import system has put another one there
        self.loaded(self.spec.name)


def existing(module, loaded=str):
    """Return the way to a module that there is already; call `loaded` with its name if it is gone."""
    spec = module.__spec__
    same = type(__spec__)(spec.name, None, origin=spec.origin)
    same.loader = Existing(module, loaded)  # type: ignore[assignment]
    same.submodule_search_locations = getattr(module, "__path__", None)
    same.has_location = spec.has_location
    return same


def standard_library():
    """Return where the standard library is, in the order in which Python looks there."""
    home = os.path.dirname(os.__file__)
    names = (home, os.path.join(home, "lib-dynload"))
    parts = ("lib-dynload", "python%d%d.zip" % sys.version_info[:2])
    return [each for each in sys.path if each in names or os.path.basename(each) in parts]


def give_way():
    """Import the `sitecustomize` that there would be without this one."""
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
        hook = Hook(settings[:2])
        sys.meta_path.insert(0, hook)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=hook.begin_anew)


if __name__ == "sitecustomize":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [each for each in sys.path if each != here]
    start()
    give_way()
