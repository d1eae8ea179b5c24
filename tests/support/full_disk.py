"""A disk that is full: no file of this process may grow beyond a size, as a quota would have it."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """Let writes beyond ``num_bytes`` of any file fail with "file too large".

    A context, not a fixture: the limit must be gone before the test's result is written, for
    the runner's own output may be a longer file, and a runner that cannot write stops for good.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
