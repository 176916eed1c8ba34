"""Runs a suite of CPython's own, and prints how each of its tests ended.

    python tests/cpython.py standard|install|swap MODULE [TEST-CLASS-OR-METHOD...]

`install` patches the standard library's classes; `swap` puts ours under the name `socketserver`
before the suite, and whatever it imports, looks for them.
"""

import io
import json
import sys
import traceback
import types
import unittest

import compat


class Outcomes(unittest.TextTestResult):
    """How each test ended, in one word."""

    def __init__(self, *args):
        super().__init__(*args)
        self.outcomes = {}

    def describe(self, err):
        return "".join(traceback.format_exception(*err))

    def stopTest(self, test):
        super().stopTest(test)
        self.outcomes.setdefault(test.id(), "passed")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.outcomes[test.id()] = "skipped"

    def addError(self, test, err):
        super().addError(test, err)
        self.outcomes[test.id()] = self.describe(err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.outcomes[test.id()] = self.describe(err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.outcomes[test.id()] = self.describe(err)


def swap() -> None:
    import socketserver

    names = {name: getattr(compat, name) for name in dir(compat) if name in socketserver.__all__}
    module = types.ModuleType("socketserver")
    vars(module).update(vars(socketserver) | names)
    sys.modules["socketserver"] = module


def main() -> None:
    how, module, *names = sys.argv[1:]
    if how == "install":
        compat.install()
    elif how == "swap":
        swap()
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames([f"{module}.{name}" for name in names] or [module])
    assert not loader.errors, loader.errors
    result = unittest.TextTestRunner(io.StringIO(), resultclass=Outcomes).run(suite)
    assert isinstance(result, Outcomes)
    print("outcomes", json.dumps(result.outcomes))  # noqa: T201


if __name__ == "__main__":
    main()
