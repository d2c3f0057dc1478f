"""Simulations side by side, each in a process of its own, so that they use several cores.

The parent hands out runs, hears how far they are, and passes Ctrl-C on; each child closes its own
records, however it ends. Processes are started afresh (`spawn`), the same on every platform.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, cast

from twin.failures import Failure, Interrupted, RunFailed, as_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from pathlib import Path

    from traces.workload import Workload


LISTENING_S = 0.2
"""How long to wait for children before looking whether Ctrl-C was pressed."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run to make: what a child process has to be told."""

    name: str
    folder: Path
    workload: Workload
    config: Mapping[str, Any]
    records: Sequence[str]
    overwrite: bool
    strict: bool
    leap: bool
    policy_files: tuple[str, ...]
    modules: tuple[str, ...]


def run_all(tasks: Sequence[Task], jobs: int, on_progress: Callable[[str, int, int], None]) -> None:
    """Make runs, at most `jobs` at a time.

    Args:
        tasks: the runs; each is started when there is room.
        jobs: processes at a time.
        on_progress: called with a run's name, its requests ended, and their total.

    Raises:
        Failure: where a run failed; the others are stopped, their records closed.
        Interrupted: on Ctrl-C, after every run has closed its records.
    """
    waiting = list(tasks)
    live: dict[Connection, tuple[Task, SpawnProcess]] = {}
    started: list[Task] = []
    failures: list[Failure] = []
    stopping = False
    with _noting_interrupts() as interrupts:
        while live or (waiting and not stopping):
            if (interrupts or failures) and not stopping:
                stopping = True
                for _, process in live.values():
                    _interrupt(process)
            while waiting and len(live) < jobs and not stopping:
                started.append(waiting.pop(0))
                connection, process = _start(started[-1])
                live[connection] = (started[-1], process)
            for ready in wait(list(live), timeout=LISTENING_S):
                connection = cast("Connection", ready)
                task, process = live[connection]
                message = _next_message(connection, task, process)
                if isinstance(message, tuple):
                    on_progress(task.name, *message)
                    continue
                del live[connection]
                connection.close()
                process.join()
                if message is not None:
                    failures.append(message)
    if interrupts:
        names = ", ".join(task.name for task in started)
        folders = ", ".join(str(task.folder) for task in started)
        raise Interrupted(
            f"{names}: what was recorded is kept in {folders}"
            if started
            else "nothing was recorded"
        )
    if failures:
        raise failures[0]  # the others were stopped for its sake


def _next_message(
    connection: Connection, task: Task, process: SpawnProcess
) -> tuple[int, int] | Failure | None:
    """Requests ended and their total; or, last of all, how the run ended: None if it went well."""
    try:
        message: tuple[int, int] | Failure | None = connection.recv()
    except EOFError:
        process.join()
        return RunFailed(
            f"{task.name}: its process ended with exit code {process.exitcode} before its run did; "
            f"{task.folder} holds what it had recorded"
        )
    return message


def _start(task: Task) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(task, theirs), name=f"twin {task.name}")
    # Inherited: Ctrl-C waits in a child until it is ready for it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return ours, process


def _child(task: Task, parent: Connection) -> None:
    """In the child: make the run; the last message is None, or the failure."""
    last: Failure | None = None
    signal.signal(signal.SIGINT, _interrupt_once)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _simulate(task, parent)
    except KeyboardInterrupt:
        last = Interrupted(task.name)
    except Failure as failure:
        last = type(failure)(f"{task.name}: {failure.message}")
    except Exception as error:
        known = as_failure(error)
        if known is None:
            raise  # a fault of the program: its traceback goes to stderr
        last = type(known)(f"{task.name}: {known.message}")
    parent.send(last)


def _simulate(task: Task, parent: Connection) -> None:
    from simulator.simulation import simulate
    from twin.plugins import load_plugins

    percent = -1

    def tell(ended: int, total: int | None) -> None:
        nonlocal percent
        assert total is not None  # a task's workload is a whole one
        if ended * 100 // total != percent:
            percent = ended * 100 // total
            parent.send((ended, total))

    load_plugins(task.policy_files, task.modules)
    simulate(
        task.workload,
        task.config,
        out=task.folder,
        overwrite=task.overwrite,
        records=task.records,
        strict=task.strict,
        leap=task.leap,
        progress=tell,
    )


def _interrupt_once(signum: int, frame: object) -> None:  # noqa: ARG001
    """Ctrl-C reaches a child from the terminal and from its parent: the second must not hurt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Ctrl-C is noted in the list rather than raised, so that it cannot cut a message in half."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda signum, _frame: noted.append(signum))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(process: SpawnProcess) -> None:
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGINT)
