"""Command lines as processes that start at once: forked from one that has imported what takes seconds to load.

Each is a process of its own, with its pipes, signals and exit code, that runs `python -m experiments.NAME` from its first
line to its last; only `import jax` and the like are done. Run as a program, this file is the process that they are
forked from: it reads requests, a line of JSON each, and starts no thread and no device of JAX's.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What commands import, apart from `experiments` itself, whose flags each process defines anew.
_IMPORTED = ("tformer_jax.training.running", "tformer_jax.sweeps.loop", "tformer_jax.sweeps.worker",
             "tformer_jax.sweeps.plots", "matplotlib.pyplot", "sacrebleu", "tensorboardX",
             "ml_collections.config_flags", "absl.app", "rich.console", "rich.progress", "alembic.config")  # fmt: skip


class Command:
    """A process as `subprocess.Popen` has it, as far as tests ask for it; text in UTF-8.

    Attributes:
      args: its command line, for messages.
      pid: its number.
      stdout, stderr: files to read from.
      returncode: None while it runs.
    """

    def __init__(self, server: "CommandServer", name: str, arguments: list[str]):
        self.args = [f"experiments.{name}", *arguments]
        out, err, (ours, theirs) = os.pipe(), os.pipe(), socket.socketpair()
        server.send({"name": name, "arguments": arguments}, (out[1], err[1], theirs.fileno()))
        theirs.close()
        for end in (out[1], err[1]):
            os.close(end)
        self.stdout, self.stderr = (open(end, encoding="utf-8") for end in (out[0], err[0]))
        self._news, self.returncode = ours.makefile("rb", buffering=0), None
        ours.close()
        self.pid = int(self._news.readline())

    def wait(self) -> int:
        """The exit code, once it has ended: minus the signal's number if that ended it."""
        if self.returncode is None:
            self.returncode = int(self._news.readline())
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, None while the process runs."""
        if self.returncode is None and select.select([self._news], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """All that it prints from now on, to stdout and to stderr, once it has ended."""
        read = {}
        streams = {"out": self.stdout, "err": self.stderr}
        threads = [threading.Thread(target=lambda n=n, s=s: read.update({n: s.read()})) for n, s in streams.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.wait()
        return read["out"], read["err"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class CommandServer:
    """The process that commands are forked from, in one environment."""

    def __init__(self, environment: dict[str, str]):
        ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno())]
        how = {"cwd": ROOT, "env": environment, "stdin": subprocess.DEVNULL, "pass_fds": (theirs.fileno(),)}
        self._process, self._socket, self._lock = subprocess.Popen(command, **how), ours, threading.Lock()
        theirs.close()

    def start(self, name: str, *arguments: object) -> Command:
        """The process of `python -m experiments.NAME ARGUMENTS`."""
        return Command(self, name, [str(argument) for argument in arguments])

    def send(self, request: dict, files: tuple[int, int, int]) -> None:
        """A request, with the ends of its pipes and of the socket that tells what becomes of it."""
        text = json.dumps(request).encode()
        with self._lock:
            socket.send_fds(self._socket, [len(text).to_bytes(4, "big")], files)
            self._socket.sendall(text)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def _serve(requests: socket.socket) -> tuple[str, list[str]] | None:
    """In each process of a command: what it is to run. In the server, once nobody asks any more: None."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for attendants
    while True:
        header, files, _, _ = socket.recv_fds(requests, 4, 3)
        if not header:
            return None
        request = json.loads(requests.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            return _attend(request, *files)
        for file in files:
            os.close(file)


def _attend(request: dict, out: int, err: int, news: int) -> tuple[str, list[str]]:
    """Forks the command, and stays behind to tell its number and its end."""
    pid = os.fork()
    if pid == 0:
        os.dup2(out, 1)
        os.dup2(err, 2)
        for file in (out, err, news):
            os.close(file)
        return request["name"], request["arguments"]
    os.close(out)
    os.close(err)
    with contextlib.suppress(BrokenPipeError):  # the test is over and does not want to know
        os.write(news, f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(news, f"{code}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # as `python -m` has it
    for imported in _IMPORTED:
        importlib.import_module(imported)
    if (asked := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        sys.argv = [asked[0], *asked[1]]
        runpy.run_module(f"experiments.{asked[0]}", run_name="__main__", alter_sys=True)
