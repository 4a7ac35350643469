"""Threads for file work that may block: they are made once, and hand their answers back to the loop."""

from __future__ import annotations

import _queue
import _thread
import errno
import os

from sandbox.server import files
from sandbox.server.files import RefusedError
from sandbox.server.loop import EPOLLIN, Loop
from sandbox.wire import PathCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.server.channel import Stream

THREADS = 2


class Workers:
    """Begin them after the server took the owner's fs ids, which are each thread's own and inherited."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._tasks: Any = _queue.SimpleQueue()
        self._results: Any = _queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def begin(self) -> None:
        """Start the threads."""
        for _ in range(THREADS):
            _thread.start_new_thread(self._work, ())
        self._loop.watch(self._wake, EPOLLIN, lambda _: self._on_results())

    def do(self, stream: Stream, task: Callable[[], tuple[dict[str, Any], bytes]]) -> None:
        """Do it in a thread, and answer the stream with what came of it."""
        self._tasks.put((stream, task))

    def _work(self) -> None:
        while True:
            stream, task = self._tasks.get()
            try:
                answer: Any = task()
            except RefusedError as error:
                answer = (error.code, error.detail)
            except OSError as error:
                answer = (files.code_of(error), os.strerror(error.errno or errno.EIO))
            except Exception:  # noqa: BLE001  a thread never dies of a request
                answer = (PathCode.FAILED, "")
            task = None
            self._results.put((stream, answer))
            os.eventfd_write(self._wake, 1)

    def _on_results(self) -> None:
        os.eventfd_read(self._wake)
        while not self._results.empty():
            stream, answer = self._results.get()
            if stream.closed:
                continue
            if isinstance(answer[0], str):
                stream.fail(*answer)
            else:
                stream.done(*answer)
