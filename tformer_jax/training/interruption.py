"""Asked to stop: by Ctrl-C, or by a scheduler that wants the machine back."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, ClassVar

EXIT_CODE = 75  # "temporary failure; try again" of sysexits.h: not an error, and not the end


class Interrupted(RuntimeError):
    """Training stopped early because it was asked to; the message says how to go on."""


class Interruption:
    """Within its context, the first SIGINT or SIGTERM is only noted; a second one has its usual effect at once.

    Within the context of another one, `with` gives that other one: what it has noted is known to all. Python hands
    signals to the main thread alone: in another thread nothing is noted.

    Attributes:
      requested: a signal has come.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)
    _outermost: ClassVar["Interruption | None"] = None

    def __init__(self):
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if Interruption._outermost is not None:
            return Interruption._outermost
        if threading.current_thread() is threading.main_thread():
            Interruption._outermost = self
            self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        if Interruption._outermost is self:
            Interruption._outermost = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        for other in self._SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        name = signal.Signals(number).name
        print(f"{name}: stopping after this step; once more leaves at once", file=sys.stderr, flush=True)
