"""The ledger: all that was ever tried on some data, in the studies of a database.

Nothing is ever deleted from it. What looks best of many trials has been lucky; how lucky, their
number and the spread of their Sharpe ratios tell (`sim/metrics.py`).
"""

import gzip
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from statistics import variance
from typing import Any

import msgspec
import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from core.ports import ConfigError, StoreError, StoreInUse
from core.record import Record
from market.columns import ColumnSource
from sim import metrics
from sim.score import Score

IDENTITY, TRIED, SCORE, REFUSED, ENDED = "sweep", "tried", "score", "refused", "ended"
PATIENCE_SEC = 3.0  # with a file that another process has locked


class Identity(Record, frozen=True, kw_only=True):
    """What all trials of a study have in common; a study is never continued with another."""

    data: str  # digest of the file, and the symbol
    window: str
    code: str
    settings: dict[str, str]  # given by --set
    space: dict[str, Any]
    seed: int


class Row(Record, frozen=True, kw_only=True):
    """One line of the ledger."""

    study: str
    trial: str  # its number, or "defaults"
    part: str  # searched or held out
    state: str
    ended: float | None  # seconds since the epoch
    identity: Identity
    parameters: dict[str, str]
    score: Score | None
    note: str = ""


def unreachable(address: sa.URL, error: BaseException) -> StoreError:
    """Return what went wrong with a database, without its password."""
    text = str(error.__cause__ or error).strip().split("\n", maxsplit=1)[0]
    if address.password:
        text = text.replace(str(address.password), "***")
    return StoreError(f"{address.render_as_string(hide_password=True)}: {text}")


def check_free(file: Path, *, is_written: bool) -> None:
    """Raise StoreInUse where another process keeps a file of studies locked for some seconds.

    StoreError where it is none.
    """
    if not file.is_file():
        return
    try:
        with closing(sqlite3.connect(file, timeout=PATIENCE_SEC, isolation_level=None)) as db:
            if is_written:
                db.execute("BEGIN IMMEDIATE")
            db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise StoreInUse(
                f"{file}: another process has had it locked for {PATIENCE_SEC:g} s; try again when "
                "that is done"
            ) from None
        raise StoreError(f"{file}: {error}") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{file}: {error}") from None


def read_ledger(address: str, data: str) -> list[Row]:
    """Return all that was ever tried on the data; nothing where no file of studies is.

    Raises ConfigError for an address that is none, StoreError where it cannot be read.
    """
    url = parsed(address)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        return []
    text = url.render_as_string(hide_password=False)
    if url.get_backend_name() == "sqlite":
        check_free(Path(str(url.database)), is_written=False)
    try:
        storage = RDBStorage(text, engine_kwargs=engine_options(url), skip_table_creation=True)
        try:
            return ledger_of(storage, data)
        finally:
            storage.engine.dispose()
    except (SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        raise unreachable(url, error) from None


def ledger_of(storage: RDBStorage, data: str) -> list[Row]:
    """Return all that was ever tried on the data, in any study there."""
    rows: list[Row] = []
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        told = summary.user_attrs.get(IDENTITY)
        if told is None or told["data"] != data:
            continue
        identity = msgspec.convert(told, Identity)
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        trials = study.get_trials(deepcopy=False)
        rows += [_row(study.study_name, identity, x) for x in trials]
        rows += _later(study, identity, {x.number: tried(x) for x in trials})
    return rows


def attempts(rows: list[Row]) -> metrics.Trials:
    """Return how many different trials there were, and the variance of their Sharpe ratios.

    One that was made again, with the same code, window and settings, is the same.
    """
    sharpe_of = {
        (x.identity.window, x.identity.code, assigned(x.identity.settings),
         assigned(x.parameters)): x.score.sharpe
        for x in rows
        if x.score is not None and x.part == "searched" and x.trial != "defaults"
    }  # fmt: skip
    sharpes = list(sharpe_of.values())
    return metrics.Trials(
        count=len(sharpes), variance=variance(sharpes) if len(sharpes) > 1 else 0.0
    )


def data_id(source: ColumnSource) -> str:
    """Return what data are known by in the ledger: a digest, and which of the file's symbols.

    Compressed or not makes no difference.
    """
    digest = source.fingerprint.partition(" ")[0]
    if source.path.suffix == ".gz":
        with gzip.open(source.path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()[: len(digest)]
    return f"{digest} {source.symbol}" if len(source.symbols) > 1 else digest


def assigned(values: dict[str, str]) -> str:
    """Return settings as text."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def tried(trial: FrozenTrial) -> dict[str, str]:
    """Return the settings of a trial that is done, as texts."""
    found: dict[str, str] = trial.user_attrs.get(TRIED, {})
    return found


def parsed(address: str) -> sa.URL:
    """Return the database that is meant: an address, or a file of SQLite. Raises ConfigError."""
    text = address if "://" in address else f"sqlite:///{address}"
    problem = ConfigError([
        "--study: must be postgresql://USER@HOST/DATABASE, or the name of a file for SQLite"
    ])  # fmt: skip
    try:
        url = sa.make_url(text.replace("postgres://", "postgresql://", 1))
    except ArgumentError:
        raise problem from None
    if url.get_backend_name() == "postgresql" and url.database:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    raise problem


def engine_options(address: sa.URL) -> dict[str, Any]:
    """Return how to connect there."""
    if address.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    # Statements are not prepared: poolers between us and the server lose them.
    return {"pool_pre_ping": True, "connect_args": {"prepare_threshold": None,
                                                    "connect_timeout": 10}}  # fmt: skip


def _row(name: str, identity: Identity, trial: FrozenTrial) -> Row:
    told = trial.user_attrs
    words = {
        TrialState.COMPLETE: "tried", TrialState.PRUNED: "refused", TrialState.FAIL: "given back",
        TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
    }  # fmt: skip
    return Row(
        study=name, trial=str(trial.number), part="searched", state=words[trial.state],
        ended=told.get(ENDED), identity=identity, parameters=tried(trial),
        score=msgspec.convert(told[SCORE], Score) if SCORE in told else None,
        note=told.get(REFUSED, ""),
    )  # fmt: skip


def _later(study: Study, identity: Identity, params: Mapping[int, dict[str, str]]) -> Iterator[Row]:
    """Yield what was tried after a search: the winner and the defaults on what was held out."""
    for key, told in study.user_attrs.items():
        if not key.startswith("after "):
            continue
        winner = int(key.removeprefix("after "))
        for what, found in told["scores"].items():
            who, part = what.split(" ", 1)
            yield Row(
                study=study.study_name, trial=str(winner) if who == "winner" else who, part=part,
                state="tried", ended=told[ENDED], identity=identity,
                parameters=params[winner] if who == "winner" else {},
                score=msgspec.convert(found, Score),
            )  # fmt: skip
