"""Asked to stop: by Ctrl-C, by a scheduler that wants the machine back, or by a terminal that is closed."""

import contextlib
import errno
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ClassVar

EXIT_CODE = 75  # "temporary failure; try again" of sysexits.h: not an error, and not the end

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE_SECONDS = 2.0
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """Stopped early because it was asked to; the message says where. No error, and so no `Exception`."""


def how_to_go_on(stopped: Interrupted) -> str:
    """The last line of a command that was asked to stop."""
    return f"{stopped}; the same command goes on"


class Interruption:
    """A context in which a first SIGINT, SIGTERM or SIGHUP is only noted; a second one has its usual effect at once.

    Within the context of another one, `with` gives that other one: what it has noted is known to all. Python hands
    signals to the main thread alone: in another thread nothing is noted. Under `nohup`, SIGHUP stays ignored.

    Attributes:
      requested: a signal has come.
    """

    _outermost: ClassVar["Interruption | None"] = None

    def __init__(self):
        self.requested = False
        self._before: dict[int, Any] = {}
        self._stops: str | None = None

    def __enter__(self) -> "Interruption":
        if Interruption._outermost is not None:
            return Interruption._outermost
        if threading.current_thread() is threading.main_thread():
            Interruption._outermost = self
            ours = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in ours}
        return self

    def __exit__(self, *_: Any) -> None:
        if Interruption._outermost is self:
            Interruption._outermost = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self, when: str, undo: Callable[[], None] = lambda: None) -> Iterator[None]:
        """A context in which nothing is worth finishing: a signal that has come, or comes, ends it.

        Code in other languages, such as the training of a tokenizer, does not hear of signals until it returns. If
        that takes more than some seconds, the process ends without it.

        Args:
          when: as in "stopped before the first step".
          undo: what else the end of the context undoes, to be called where the process ends in the middle of it.

        Raises:
          Interrupted: a signal has come.
        """
        before, stopped = self._stops, f"stopped {when}"
        self._stops = stopped
        try:
            if self.requested:
                raise Interrupted(stopped)
            with _watched(stopped, undo) if before is None and self._before else contextlib.nullcontext():
                yield
        except Exception as error:
            if self.requested:  # what `Interrupted` has become on its way through other code
                raise Interrupted(stopped) from error
            raise
        finally:
            self._stops = before

    def _note(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)
        _leave_closed_terminal()
        if self._stops is not None:
            raise Interrupted(self._stops)
        name = signal.Signals(number).name
        print(f"{name}: stopping after this step; send it again to stop at once", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _watched(stopped: str, undo: Callable[[], None]) -> Iterator[None]:
    """Within the context, a thread ends the process if a signal has come and the main thread does not leave."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reader, stopped, undo), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        watch.join()
        os.close(reader)


def _watch(reader: int, stopped: str, undo: Callable[[], None]) -> None:
    """Reads the signals as they come, up to the end of the context, and waits for that after the first."""
    while (signals := os.read(reader, 1)) and signals[0] not in _SIGNALS:
        pass
    if not signals or (select.select([reader], [], [], _PATIENCE_SECONDS)[0] and not (signals := os.read(reader, 1))):
        return
    # The main thread has not come to its handler, after which a second signal is none of ours.
    undo()
    if os.isatty(1):
        os.write(1, _SHOW_CURSOR)
    os.write(2, f"{how_to_go_on(Interrupted(stopped))}\n".encode())
    os._exit(EXIT_CODE)


def _leave_closed_terminal() -> None:
    """Drops what is printed from now on, where it would be an error: the terminal is no more."""
    for number in (1, 2):
        try:
            termios.tcgetattr(number)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
