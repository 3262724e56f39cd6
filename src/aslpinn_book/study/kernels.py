"""Kernels of notebooks as processes of multiprocessing: copies of one that has imported everything, where that is safe.

Such a copy starts in milliseconds, a new interpreter in seconds. Only on Linux is forking a process that has loaded
compiled libraries safe (FORKS); elsewhere, and for a single notebook, kernels are new interpreters.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread
from types import ModuleType
from typing import Any

FORKS = sys.platform == "linux"
#: Seconds that an interrupted kernel has to clean up, and one that is asked to end has to say what it used.
GRACE, SHUTDOWN = 5.0, 60.0
_LOCK = Lock()  # multiprocessing looks at all processes when it starts one, from whatever thread


class Kernels:
    """The kernels of notebooks that run side by side, so that an interrupted study leaves none behind."""

    def __init__(self, environment: Mapping[str, str], fork: bool) -> None:
        """environment: variables beside those of this process; fork: copies of one process, not new interpreters."""
        self.environment, self.stopped = dict(environment), False
        self._running: set[Kernel] = set()
        self._context: Any = multiprocessing.get_context("forkserver" if fork else "spawn")
        if fork:
            self._context.set_forkserver_preload(["aslpinn_book.study.preloaded"])

    def start(self, arguments: list[str], folder: str, log: Path, usage: Path) -> Kernel:
        """A kernel with the arguments of ipykernel: its output goes to log, what it used to usage as JSON."""
        with _LOCK, _beginning(self.environment):
            if self.stopped:
                raise RuntimeError("the study was stopped")
            environment = dict(os.environ)
            process = self._context.Process(target=_be_kernel, args=(arguments, folder, environment, log, usage))
            process.start()
            kernel = Kernel(process)
            self._running = {one for one in self._running if one.returncode is None} | {kernel}
        return kernel

    def manager(self, folder: Path, log: Path, usage: Path) -> type:
        """The class of jupyter_client's kernel managers whose kernels are started here, in folder."""
        from uuid import uuid4

        from jupyter_client.manager import AsyncKernelManager
        from jupyter_client.provisioning.local_provisioner import LocalProvisioner

        kernels = self

        class Provisioner(LocalProvisioner):
            async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
                assert self.parent is not None
                arguments = ["-f", self.parent.connection_file, "--HistoryManager.hist_file=:memory:"]
                kernel = kernels.start(arguments, str(folder), log, usage)
                self.process = kernel  # type: ignore[assignment]
                self.pid = self.pgid = kernel.pid
                return self.connection_info

        class Manager(AsyncKernelManager):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                self.shutdown_wait_time = SHUTDOWN

            async def _async_pre_start_kernel(self, **options: Any) -> Any:
                self.kernel_id = self.kernel_id or str(uuid4())
                self.provisioner = Provisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
                return await super()._async_pre_start_kernel(**options)

        return Manager

    def stop(self) -> None:
        """Interrupt every kernel, so that it cleans up, and end those that go on; no other is started."""
        with _LOCK:
            self.stopped = True
            running = list(self._running)
        for kernel in running:
            kernel.send_signal(signal.SIGINT)
        limit = time.monotonic() + GRACE
        while any(kernel.poll() is None for kernel in running) and time.monotonic() < limit:
            time.sleep(0.05)
        for kernel in running:
            kernel.kill()


class Kernel:
    """A process that is a kernel; to jupyter_client it is a Popen."""

    stdin = stdout = stderr = None

    def __init__(self, process: Any) -> None:
        self.pid = int(process.pid)
        self.returncode: int | None = None
        self._process = process

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        with _LOCK:
            if self.returncode is None and (code := self._process.exitcode) is not None:
                self.returncode = code
                self._process.close()  # a study of thousands would run out of file descriptors
        return self.returncode

    def wait(self) -> int | None:
        """Exit code, once it has ended."""
        while self.poll() is None:
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal where it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))  # of which Windows has one


@contextmanager
def _beginning(variables: Mapping[str, str]) -> Iterator[None]:
    """What a process is started with: these environment variables, since libraries read the number of threads when
    they are loaded; and no main module, which it would run again (a script that calls a study as well).
    """
    before = {name: os.environ.get(name) for name in variables}
    main = sys.modules["__main__"]
    os.environ.update(variables)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _be_kernel(arguments: list[str], folder: str, environment: dict[str, str], log: Path, usage: Path) -> None:
    """In a process of its own: be a kernel until it is asked to end, then say what that took."""
    code = 1
    try:
        Thread(target=_end_with_study, daemon=True).start()
        if hasattr(os, "setsid"):
            os.setsid()  # jupyter_client signals the group; Ctrl-C in a terminal reaches the study only
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        backend = os.environ.get("MPLBACKEND")
        os.environ.clear()
        os.environ.update(environment)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
        os.chdir(folder)
        sys.argv = ["ipykernel_launcher", *arguments]
        from ipykernel.kernelapp import IPKernelApp

        application = IPKernelApp.instance(parent_handle=os.getppid())  # whose end ends it too
        application.initialize(arguments)
        if "matplotlib.pyplot" in sys.modules:  # which asks for this when it is imported in a kernel
            from matplotlib_inline.backend_inline import configure_inline_support

            configure_inline_support(application.shell, "inline")
        application.start()
        usage.write_text(json.dumps(_used()), encoding="utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # no thread that a notebook has left running keeps it


def _end_with_study() -> None:
    """End when the study that started this process has gone (kill -9): its next run must not meet this one."""
    study = multiprocessing.parent_process()
    if study is not None:
        study.join()
        os._exit(1)


def _used() -> dict[str, float | None]:
    """Largest resident set in MB, where the system tells, and seconds of processor of this process and its children."""
    cpu = round(sum(os.times()[:4]), 2)
    try:
        import resource
    except ImportError:  # Windows
        return {"peak_memory_mb": None, "cpu_seconds": cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_memory_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1), "cpu_seconds": cpu}
