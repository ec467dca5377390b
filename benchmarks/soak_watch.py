"""What a soak measures: a sample each ten seconds, what has grown, and a picture of it."""

import csv
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
import requests

from tests.attack import Daemon

EVERY_SEC = 10.0
ASK_SEC = 5.0
MB = 1e6
GROWTH = {  # at the end no more than so many times the beginning, and so much on top of it
    "rss_mb": (1.0, 20.0),
    "threads": (1.0, 4.0),
    "descriptors": (1.0, 8.0),
    "status_kb": (1.5, 30.0),
}
WAL_MB_MAX = 70.0  # the log is cut back to 64 MB; more has not been given back


class Sample(NamedTuple):
    """One look at the daemon, from outside; None: it did not answer."""

    at_sec: float
    life: int  # of the daemon, from 1
    rss_mb: float
    workers_mb: float  # of the processes it has started
    threads: int
    descriptors: int
    database_mb: float
    wal_mb: float
    log_mb: float
    journal_rows: int
    outbox_rows: int
    status_kb: float | None
    exchange: str | None
    mode: str | None


class Watch:
    """Takes samples of a daemon on a thread of its own, and writes them to a file.

    `halts` are the reasons of all halts that were seen.
    """

    def __init__(self, daemon: Daemon, path: Path, every_sec: float = EVERY_SEC) -> None:
        self.samples: list[Sample] = []
        self.halts: set[str] = set()
        self._daemon, self._path, self._every_sec = daemon, path, every_sec
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._began

    def _watch(self) -> None:
        with self._path.open("w", newline="") as out:
            table = csv.writer(out)
            table.writerow(Sample._fields)
            while not self._stop.wait(self._every_sec):
                try:
                    self.samples.append(sample := self._look())
                except (psutil.Error, IndexError):  # killed meanwhile, or too young for tables
                    continue
                table.writerow(sample)
                out.flush()

    def _look(self) -> Sample:
        daemon, file = self._daemon, self._daemon.file
        process = psutil.Process(daemon.pid)
        with process.oneshot():
            rss, threads, descriptors = (
                process.memory_info().rss, process.num_threads(), process.num_fds(),
            )  # fmt: skip
        workers = sum(x.memory_info().rss for x in process.children())
        status, size = self._status()
        if status is not None and status["bot"]["mode"] == "halted":
            self.halts.add(status["bot"]["mode_reason"])
        return Sample(
            at_sec=round(self.now(), 1), life=daemon.starts, rss_mb=rss / MB,
            workers_mb=workers / MB, threads=threads, descriptors=descriptors,
            database_mb=_size(file), wal_mb=_size(file.with_name(f"{file.name}-wal")),
            log_mb=_size(daemon.log),
            journal_rows=daemon.rows("SELECT count(*) FROM journal")[0][0],
            outbox_rows=daemon.rows("SELECT count(*) FROM outbox")[0][0],
            status_kb=None if status is None else size / 1e3,
            exchange=None if status is None else status["exchange"]["status"],
            mode=None if status is None else status["bot"]["mode"],
        )  # fmt: skip

    def _status(self) -> tuple[dict[str, Any] | None, int]:
        try:
            answer = requests.get(f"{self._daemon.url}/api/status", timeout=ASK_SEC)
        except requests.RequestException:
            return None, 0
        return (answer.json(), len(answer.content)) if answer.status_code == 200 else (None, 0)


def _size(path: Path) -> float:
    return path.stat().st_size / MB if path.exists() else 0.0


class Grown(NamedTuple):
    """One figure at the beginning and at the end, each the median of a stretch."""

    name: str
    before: float
    after: float
    most: float | None  # None: it has no limit, and is told only


def grown(samples: Sequence[Sample], warm_sec: float, end_sec: float) -> list[Grown]:
    """Compare the second half of the warm-up with as long a stretch before `end_sec`."""
    first = [x for x in samples if warm_sec / 2 <= x.at_sec <= warm_sec]
    last = [x for x in samples if end_sec - warm_sec / 2 <= x.at_sec <= end_sec]
    found = []
    for name in Sample._fields[2:12]:
        before, after = (_middle(x, name) for x in (first, last))
        factor, more = GROWTH.get(name, (None, 0.0))
        most = None if factor is None else factor * before + more
        found.append(Grown(name, before, after, WAL_MB_MAX if name == "wal_mb" else most))
    return found


def _middle(samples: Sequence[Sample], name: str) -> float:
    values = [x for x in (getattr(sample, name) for sample in samples) if x is not None]
    return float(median(values)) if values else float("nan")


def too_large(found: Sequence[Grown]) -> list[str]:
    """Return what has grown more than it may; what was not measured is wrong, too."""
    return [
        f"{x.name} grew from {x.before:.1f} to {x.after:.1f}, allowed are {x.most:.1f}"
        for x in found
        if x.most is not None and not x.after <= x.most
    ]


# ---- the picture ----------------------------------------------------------------------------


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Draw the samples over the minutes as SVG; a dotted line where the daemon was killed."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import

    figure: Any = Figure(figsize=(11.0, 11.0), layout="constrained")
    panels: dict[str, tuple[str, ...]] = {
        "memory, MB": ("rss_mb", "workers_mb"),
        "threads, descriptors": ("threads", "descriptors"),
        "files, MB": ("database_mb", "wal_mb", "log_mb"),
        "rows": ("journal_rows",),
        "rows that wait for the replica": ("outbox_rows",),
        "size of the status, KB": ("status_kb",),
    }
    axes = figure.subplots(len(panels), 1, sharex=True)
    minutes = [x.at_sec / 60 for x in samples]
    kills = [b.at_sec / 60 for a, b in pairwise(samples) if b.life != a.life]
    for panel, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            panel.plot(minutes, [getattr(x, name) for x in samples], label=name)
        for at in kills:
            panel.axvline(at, color="#999999", linestyle=":", linewidth=0.8)
        panel.set_title(title, loc="left", fontsize=9)
        panel.set_ylim(bottom=0)
        if len(names) > 1:
            panel.legend(fontsize=8, loc="upper left")
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, format="svg")
