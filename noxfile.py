"""The verbs: `nox -l` lists them, `nox -s tests-3.13 -- -k drain` runs one with arguments of yours."""

import glob
import os

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests"]

PACKAGES = ("asyncserver", "compat")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests; `-- -m "not slow"` runs those that are quick."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests, and tell which branches none of them takes, in programs that they start too."""
    session.install("-e", ".[test]", "coverage>=7.11")
    session.run("coverage", "erase")
    # An exception of a signal handler's leaves coverage's own lock locked: no test of ours can help that.
    storm = "tests/test_compat_engine.py::test_a_storm_of_signals_leaves_nothing_behind"
    session.run("coverage", "run", "-m", "pytest", f"--deselect={storm}", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the form."""
    session.install("-e", ".[lint]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, and that whoever imports us is told all of them."""
    session.install("-e", ".[lint]")
    session.run("mypy")
    session.run("pytest", "-q", "-n0", "tests/test_typing.py")
    for package in PACKAGES:
        session.run("pyright", "--verifytypes", package, "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; what Sphinx warns of is an error."""
    if not os.path.exists("docs/conf.py"):
        session.skip("there is no docs/conf.py")
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "docs", *(session.posargs or [session.create_tmp()]))


@nox.session
def bench(session: nox.Session) -> None:
    """Compare with the neighbours; takes a machine that nobody else uses."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def mutate(session: nox.Session) -> None:
    """Change the code one place at a time, and tell which changes no test minds.

    `-- 'asyncserver._stream.buffer*'` is for one module; all of them take hours.
    """
    session.install("-e", ".[test]", "mutmut>=3.8")
    session.run("mutmut", "run", *session.posargs)
    session.run("mutmut", "results")


@nox.session
def build(session: nox.Session) -> None:
    """Build what is published, and have the wheel serve the README's first program."""
    session.install("build", "twine")
    place = session.create_tmp()
    for old in glob.glob(f"{place}/*.whl") + glob.glob(f"{place}/*.tar.gz"):
        os.unlink(old)
    session.run("python", "-m", "build", "--outdir", place)
    session.run("twine", "check", "--strict", *glob.glob(f"{place}/asyncserver-*"))
    bare = os.path.join(place, "bare")
    session.run("python", "-m", "venv", "--clear", bare)
    session.run(f"{bare}/bin/pip", "install", "-q", *glob.glob(f"{place}/*.whl"), external=True)
    session.run(f"{bare}/bin/python", "-I", "-W", "error", ".ci/first_program.py", external=True)
