"""The study of a sweep: who tries what, and what came out. What was ever tried: `sim/ledger.py`.

A study is Optuna's, in SQLite for one process or in PostgreSQL for any number of them, on any
machines. A trial is claimed under a lock of the database, so that the count of the whole study is
exact; one whose process has died, or was interrupted, is given back with its parameters. What a
trial draws depends on the seed and on the trials before it, not on who makes it.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from core.ports import ConfigError, StoreError, StoreInUse
from engine.clock import sleep, wall_now
from sim.ledger import (
    ENDED,
    IDENTITY,
    REFUSED,
    SCORE,
    TRIED,
    Identity,
    Row,
    check_free,
    engine_options,
    ledger_of,
    parsed,
    unreachable,
)  # fmt: skip
from sim.score import Score
from sim.space import Space, suggest
from store.lock import StoreLock

HEARTBEAT_SEC, GRACE_SEC = 5, 30  # a trial that is silent for longer is given back
LOOK_SEC = 1.0  # between two looks at what others are doing
CLAIM_LOCK = 7_301_448_100_733  # of PostgreSQL's advisory locks: any number of our own
STARTUP_TRIALS = 10  # drawn at random before TPE has something to go by
LIVE = (TrialState.RUNNING, TrialState.WAITING)
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

warnings.filterwarnings("ignore", category=ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")


class Trials:
    """A study that is open; `close` lets go of it.

    Raises ConfigError for an address that is none, and StoreError when the study cannot be reached
    or holds trials of something else.
    """

    def __init__(self, address: str, name: str, identity: Identity, space: Space) -> None:
        self.address, self.name = parsed(address), name
        self.shown = self.address.render_as_string(hide_password=True)
        self._identity, self._space = identity, space
        self._retry = RetryHeartbeatStaleTrialCallback()
        self._open = ExitStack()
        self._engine = sa.create_engine(self.address, **engine_options(self.address))
        self._open.callback(self._engine.dispose)
        try:
            if self.is_local:
                self._lock_file(Path(str(self.address.database)))
            with self._exclusive():
                self.storage = self._opened()
                self._open.callback(self.storage.engine.dispose)
                self.study = self._joined()
            if self.is_local:  # nobody else is there: what runs has died
                self._give_back_all()
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            self.close()
            raise self.unreachable(error) from None
        except StoreError:
            self.close()
            raise

    @property
    def is_local(self) -> bool:
        """Tell whether the study is in a file of this machine, for one process."""
        return self.address.get_backend_name() == "sqlite"

    def close(self) -> None:
        """Let go of the database."""
        self._open.close()

    def unreachable(self, error: BaseException) -> StoreError:
        """Return what went wrong with the database, without its password."""
        return unreachable(self.address, error)

    # ---- making trials --------------------------------------------------------------------------

    def run(
        self,
        count: int,
        attempt: Callable[[dict[str, str]], Score],
        *,
        on_done: Callable[[int], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        """Make trials until the whole study has `count`, by all processes together.

        `attempt` scores settings and raises ConfigError where the daemon refuses them; a
        KeyboardInterrupt from it gives the trial back. Raises StoreError.
        """
        seen: set[int] = set()
        try:
            while not is_stopped():
                trial = self._claim(count)
                if trial is not None:
                    self._make(trial, attempt)
                elif self.count(DONE) >= count:
                    return
                else:
                    self._watch_others(seen)
                    sleep(LOOK_SEC)
                on_done(self.count(DONE))
        except (SQLAlchemyError, StorageInternalError) as error:
            raise self.unreachable(error) from None

    def count(self, states: tuple[TrialState, ...]) -> int:
        """Return how many trials of the study are in one of these states."""
        return len(self.study.get_trials(deepcopy=False, states=states))

    def best(self) -> FrozenTrial | None:
        """Return the trial with the largest excess, the earliest of equals."""
        found = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(found, key=lambda x: (x.value, -x.number), default=None)

    def _claim(self, count: int) -> Trial | None:
        """Return a trial that nobody else makes; None when all are made or in hand."""
        with self._exclusive():
            fail_stale_trials(self.study)
            if self.count((TrialState.WAITING,)) or self.count((*DONE, *LIVE)) < count:
                return self.study.ask()
        return None

    def _make(self, trial: Trial, attempt: Callable[[dict[str, str]], Score]) -> None:
        changes = suggest(self._space, trial)
        try:
            with self._heartbeat(trial.number):
                found = attempt(changes)
        except ConfigError as error:
            self._settle(trial, {TRIED: changes, REFUSED: "; ".join(error.problems)}, None)
        except KeyboardInterrupt:
            with self._exclusive():
                self._give_back(trial.number)
            raise
        else:
            self._settle(trial, {TRIED: changes, SCORE: found.to_dict()}, found.excess)

    def _settle(self, trial: Trial, attributes: dict[str, Any], value: float | None) -> None:
        """Write what came of a trial, unless it was given to another meanwhile."""
        try:
            for name, attribute in {**attributes, ENDED: wall_now()}.items():
                trial.set_user_attr(name, attribute)
            state = TrialState.COMPLETE if value is not None else TrialState.PRUNED
            self.study.tell(trial, value, state=state, skip_if_finished=True)
        except UpdateFinishedTrialError:
            pass

    def _give_back_all(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._give_back(trial.number)

    def _give_back(self, number: int) -> None:
        """Put a running trial, with the parameters it has drawn, back into the queue."""
        try:
            self.study.tell(number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            return  # it was finished, or given to another
        self._retry(self.study, self.storage.get_trial(self._id(number)))

    def _watch_others(self, seen: set[int]) -> None:
        """Have every running trial a heartbeat to miss: its process may have died before the first.

        `seen` are those that were given one by this process.
        """
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in seen:
                seen.add(trial.number)
                self.storage.record_heartbeat(self._id(trial.number))

    @contextmanager
    def _heartbeat(self, number: int) -> Iterator[None]:
        """Tell the others, while something is done, that a trial is in hand."""
        over, trial_id = threading.Event(), self._id(number)

        def beat() -> None:
            while not over.wait(HEARTBEAT_SEC):
                try:
                    self.storage.record_heartbeat(trial_id)
                except (SQLAlchemyError, StorageInternalError):
                    continue  # the end of the trial will tell

        self.storage.record_heartbeat(trial_id)
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    # ---- opening --------------------------------------------------------------------------------

    def _exclusive(self) -> AbstractContextManager[Any]:
        """Keep the other processes of all studies here waiting."""
        if self.is_local:
            return nullcontext()
        return self._locked()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CLAIM_LOCK)))
            yield

    def _lock_file(self, path: Path) -> None:
        try:
            self._open.callback(StoreLock(path, "another sweep").release)
        except StoreInUse:
            raise StoreInUse(
                f"{path} is in use by another sweep; processes share a study in PostgreSQL only"
            ) from None
        check_free(path, is_written=True)

    def _opened(self) -> RDBStorage:
        return RDBStorage(
            self.address.render_as_string(hide_password=False),
            engine_kwargs=engine_options(self.address),
            heartbeat_interval=HEARTBEAT_SEC,
            grace_period=GRACE_SEC,
            heartbeat_stale_trial_callback=self._retry,
        )

    def _joined(self) -> Study:
        """Return the study, made where there is none. Raises StoreError for one of other trials."""
        study = optuna.create_study(
            storage=self.storage, study_name=self.name, direction="maximize", load_if_exists=True,
            sampler=SteadySampler(self._identity.seed),
        )  # fmt: skip
        told = study.user_attrs.get(IDENTITY)
        if told is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(IDENTITY, self._identity.to_dict())
            return study
        if told is None:
            raise StoreError(f"study {self.name!r} is no sweep's; take another --name")
        differing = [
            f"{name} there {told.get(name)!r}, here {value!r}"
            for name, value in self._identity.to_dict().items()
            if told.get(name) != value
        ]
        if differing:
            raise StoreError(
                f"study {self.name!r} at {self.shown} holds trials of something else; take "
                f"another --name: {'; '.join(differing)}"
            )
        return study

    # ---- the ledger -----------------------------------------------------------------------------

    def held_out(self, winner: int) -> dict[str, Score] | None:
        """Return what was found after the search for this winner, if it was."""
        told = self.study.user_attrs.get(f"after {winner}")
        return None if told is None else msgspec.convert(told["scores"], dict[str, Score])

    def keep_held_out(self, winner: int, scores: Mapping[str, Score]) -> None:
        """Keep it: "winner held out", "defaults held out", "defaults searched"."""
        told = {"scores": {k: v.to_dict() for k, v in scores.items()}, ENDED: wall_now()}
        self.study.set_user_attr(f"after {winner}", told)

    def ledger(self) -> list[Row]:
        """Return all that was ever tried on these data, in any study of this database."""
        return ledger_of(self.storage, self._identity.data)


class SteadySampler(BaseSampler):
    """TPE whose draws follow from the seed and the count of earlier trials that were not lost.

    So a sweep of one process ends alike whether it was interrupted or not, and processes that share
    a study and a seed do not draw the same.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed the draws of a trial."""
        earlier = study.get_trials(deepcopy=False, states=(*DONE, *LIVE))
        rank = sum(x.number < trial.number for x in earlier)
        self._tpe = TPESampler(
            seed=(self._seed * 1_000_003 + rank) % 2**32, n_startup_trials=STARTUP_TRIALS,
            multivariate=True, constant_liar=True,
        )  # fmt: skip

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what is drawn together."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw them."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one alone."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)
