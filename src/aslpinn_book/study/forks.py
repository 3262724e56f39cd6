"""Processes of notebooks as copies of one that has imported everything: a start costs milliseconds, not seconds.

    python -m aslpinn_book.study.forks

reads a JSON line for each job from stdin, forks a process that runs it, and writes JSON lines to stdout: the sections
that begin and how each process ended. It never starts a thread, computes nothing, and ends when stdin is closed. A
notebook still gets a kernel of its own: a fork that waits for its connection file instead of a new interpreter.

Only where forking a process that has loaded compiled libraries is safe (FORKS); elsewhere, and for a single notebook,
runner.py starts new interpreters.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NoReturn

FORKS = sys.platform == "linux"
#: What papermill, a kernel and the figures import, beside the package's own modules.
_MODULES = (
    "IPython",
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "jupytext",
    "matplotlib.backends.backend_agg",
    "matplotlib.colorbar",
    "nbclient",
    "nbformat.v4",
    "papermill",
    "papermill.engines",
    "jupyter_client.manager",
    "jupyter_client.provisioning.local_provisioner",
)


class Forks:
    """The one process with everything imported, and the jobs that its copies run; used from several threads."""

    def __init__(self, environment: dict[str, str]) -> None:
        # Read when matplotlib is imported; ipykernel sets it too late for a process that has imported it already.
        self._environment = environment | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        self._lock = Lock()
        self._server: subprocess.Popen[str] | None = None
        self._waiting: dict[int, tuple[subprocess.Popen[str], SimpleQueue[dict[str, Any] | None]]] = {}
        self._count = 0
        self._closed = False

    def run(self, job: Path, log: Path, hear: Callable[[dict[str, Any]], None]) -> None:
        """Run a job file to its end; hear gets what it tells, the log what it writes to stderr."""
        told: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        with self._lock:
            if self._closed:
                return
            if self._server is None or self._server.poll() is not None:
                self._start()
            assert self._server is not None
            assert self._server.stdin is not None
            self._count += 1
            number = self._count
            self._waiting[number] = self._server, told
            try:
                self._server.stdin.write(json.dumps({"number": number, "job": str(job), "log": str(log)}) + "\n")
                self._server.stdin.flush()
            except OSError:  # it has just ended: no result, as where the job's own process has
                told.put(None)
        while (message := told.get()) is not None and "exit" not in message:
            hear(message)
        with self._lock:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """End the process and what it still runs."""
        with self._lock:
            server, self._server, self._closed = self._server, None, True
        if server is not None:
            assert server.stdin is not None
            with suppress(OSError):
                server.stdin.close()
            server.wait()

    def _start(self) -> None:
        command = [sys.executable, "-m", "aslpinn_book.study.forks"]
        self._server = subprocess.Popen(
            command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        Thread(target=self._listen, args=(self._server,), daemon=True).start()

    def _listen(self, server: subprocess.Popen[str]) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            with suppress(ValueError, KeyError, TypeError):
                message = json.loads(line)
                self._waiting[message["number"]][1].put(message)
        server.wait()
        with self._lock:  # without it nothing more is heard; a new one may run jobs already
            for runner, told in self._waiting.values():
                if runner is server:
                    told.put(None)
        server.stdout.close()


def main() -> int:
    """Import everything, then fork a process for each line of stdin until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the study closes stdin
    # Whatever a library prints goes to stderr; stdout is for messages.
    out = os.dup(1)
    os.dup2(2, 1)
    _import_all()
    gc.collect()
    gc.freeze()  # so that no collection writes to the pages that all copies share
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    running: dict[int, int] = {}
    buffer = b""
    while True:
        ready = select.select([0, wake], [], [])[0]
        if wake in ready:
            with suppress(BlockingIOError):
                os.read(wake, 4096)
        for pid, code in _ended():
            _tell(out, {"number": running.pop(pid), "exit": code})
        if 0 in ready:
            given = os.read(0, 1 << 16)
            if not given:
                break
            *lines, buffer = (buffer + given).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _end_after(partial(_work, request, out, (wake, woken)))
                running[pid] = request["number"]
    for pid in running:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in running:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return 0


def _import_all() -> None:
    """Import what notebooks use; what cannot be imported fails in the notebook that needs it, with its own message."""
    import aslpinn

    own = [module.name for module in walk_packages(aslpinn.__path__, "aslpinn.")]
    for name in [*_MODULES, *own]:
        if name != "aslpinn_book.study.forks":
            with suppress(Exception):
                import_module(name)


def _ended() -> list[tuple[int, int]]:
    """Processes that have ended since the last call, with their exit codes."""
    found = []
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((ended[0], os.waitstatus_to_exitcode(ended[1])))
    return found


def _tell(out: int, message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        os.write(out, (json.dumps(message) + "\n").encode())  # one write of a short line is never torn


def _work(request: dict[str, Any], out: int, others: tuple[int, int]) -> int:
    """In the copy: run the job; returns its exit code."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for end in others:
        os.close(end)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from . import execute

    waiting = WaitingKernel(out)

    def tell(section: str, cell: int, cells: int) -> None:
        _tell(out, {"number": request["number"], "section": section, "cell": cell, "cells": cells})

    return execute.main(request["job"], tell, kernel_manager(waiting))


def _end_after(work: Callable[[], int]) -> NoReturn:
    """In a copy: do the work and end with its exit code, whatever happens, as an interpreter does.

    The frames of the process that this one is a copy of are never returned to.
    """
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class WaitingKernel:
    """A fork of this process that becomes a kernel when it is told its arguments; to jupyter_client it is a Popen.

    It has to be made before this process starts a thread or an event loop.
    """

    stdin = stdout = stderr = None

    def __init__(self, out: int) -> None:
        parent = os.getpid()
        reader, self._writer = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writer)
            os.close(out)
            _end_after(partial(_become_kernel, reader, parent))
        os.close(reader)

    def begin(self, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
        """Let it become a kernel with the arguments of ipykernel_launcher."""
        text = json.dumps({"arguments": arguments, "folder": folder, "environment": environment})
        with os.fdopen(self._writer, "w") as stream:
            stream.write(text)

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Exit code, once it has ended."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal where it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _become_kernel(reader: int, parent: int) -> int:
    """In the copy of a copy: wait for the arguments of a kernel and be one; returns its exit code."""
    os.setsid()  # jupyter_client signals the group
    with os.fdopen(reader) as stream:
        text = stream.read()
    if not text:  # the process that it waits for has gone
        os._exit(0)
    told = json.loads(text)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    sys.argv = ["ipykernel_launcher", *told["arguments"]]
    from ipykernel.kernelapp import IPKernelApp

    application = IPKernelApp.instance(parent_handle=parent)
    application.initialize(told["arguments"])
    if "matplotlib.pyplot" in sys.modules:  # which asks for this when it is imported in a kernel
        from matplotlib_inline.backend_inline import configure_inline_support

        configure_inline_support(application.shell, "inline")
    application.start()
    return 0


def kernel_manager(waiting: WaitingKernel) -> type:
    """The class of a kernel manager that starts its kernel from a waiting fork."""
    from uuid import uuid4

    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning.local_provisioner import LocalProvisioner

    class ForkedKernel(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
            arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
            waiting.begin(arguments, str(options.get("cwd") or Path.cwd()), dict(options.get("env") or os.environ))
            self.process = waiting  # type: ignore[assignment]
            self.pid = self.pgid = waiting.pid
            return self.connection_info

    class Manager(AsyncKernelManager):
        async def _async_pre_start_kernel(self, **options: Any) -> Any:
            self.kernel_id = self.kernel_id or str(uuid4())
            self.provisioner = ForkedKernel(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
            return await super()._async_pre_start_kernel(**options)

    return Manager


if __name__ == "__main__":
    sys.exit(main())
