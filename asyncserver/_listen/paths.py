"""Who owns the path of a Unix socket: a socket is a file, and stays behind when its server dies.

A path is taken over only from the dead, and given back only where it is still ours. What somebody
has bound is alive, even if nobody answers there yet.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Final

__all__ = ("Inode", "bind", "give_back")

Inode = tuple[int, int]
"""Device and number of a file: whether it is still the same one."""

LOCK_TRIES: Final = 40
LOCK_PAUSE: Final = 0.005  # seconds; a start holds the lock for some 0.0001 s

# The columns of /proc/net/unix, see proc_net(5) and net/unix/af_unix.c.
KERNELS_LIST: Final = "/proc/net/unix"
FLAGS, STATE, NAME = 3, 5, 7
LISTENING: Final = 0x10000  # __SO_ACCEPTCON
UNCONNECTED: Final = 1  # SS_UNCONNECTED; the connections of a server bear its name too


def bind(sock: socket.socket, path: str, *, mode: int | None, backlog: int | None) -> Inode | None:
    """Bind `sock` to `path`, in place of a dead socket; listen, if it has a `backlog`.

    Returns:
        The file that was made, for `give_back`.

    Raises:
        OSError: somebody lives there (EADDRINUSE), or it is not allowed.

    """
    with _alone_in(os.path.dirname(path)):
        _remove_stale(path, sock.type)
        if mode is not None:
            os.fchmod(sock.fileno(), mode)  # so that it is never wider, not even at first
        sock.bind(path)
        inode = _inode(path)
        try:
            if mode is not None:
                os.chmod(path, mode)  # and is exact, whatever the umask
            if backlog is not None:
                sock.listen(backlog)  # until then a second server might take it for stale
        except BaseException:
            give_back(path, inode)
            raise
    return inode


def give_back(path: str, inode: Inode | None) -> None:
    """Remove `path`, if it is still that file (cpython#121252)."""
    if inode is not None and _inode(path) == inode:
        with contextlib.suppress(OSError):
            os.unlink(path)


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Keep other servers from looking for stale sockets in `directory` at the same time.

    A courtesy among those that start at once, and no condition: whoever else has locked the
    directory, perhaps for ever, or may not read it, binds all the same.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # `bind` says what is wrong with it, if anything is
        return
    try:
        _lock(fd)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE)
        except OSError:
            return  # a file system without locks
        else:
            return


def _remove_stale(path: str, kind: int) -> None:
    """Unlink a socket that nobody has. Anything else stays, and `bind` says EADDRINUSE."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    found = _inode(path)
    if _refuses(path, kind) and not _is_bound(path):
        give_back(path, found)


def _refuses(path: str, kind: int) -> bool:
    """Whether no connection is to be had there, as with the dead and with those not yet born."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        # EAGAIN: alive, its backlog full; EPROTOTYPE: alive, of the other kind; EACCES
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _is_bound(path: str) -> bool:
    """Whether a socket has that name and does not listen yet, as far as the kernel tells.

    A name may be relative to a directory that we do not know: then its last part decides.
    """
    wanted, directory = os.fsencode(os.path.basename(path)), os.fsencode(os.path.dirname(path))
    try:
        with open(KERNELS_LIST, "rb") as file:
            rows = [line.split(None, NAME) for line in file.read().splitlines()[1:]]
    except OSError:
        return False
    for row in rows:
        if len(row) <= NAME or os.path.basename(row[NAME]) != wanted:
            continue
        if int(row[STATE], 16) != UNCONNECTED or int(row[FLAGS], 16) & LISTENING:
            continue
        there = os.path.dirname(row[NAME])
        if not os.path.isabs(there) or _is_same(there, directory):
            return True
    return False


def _is_same(one: bytes, other: bytes) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _inode(path: str) -> Inode | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
