"""The daemon: wires settings, ports, threads, signals and exit codes. Never a decision.

`python bot.py` runs; `python bot.py --help` lists the sub-commands, which live in `engine/cli.py`.
"""

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from sdnotify import SystemdNotifier  # type: ignore[import-untyped]  # no stubs

import config
from core.order_id import bot_tag
from core.params import Params
from core.ports import (
    ConfigError,
    MarketError,
    StartRefused,
    StoreError,
    StoreInUse,
    Unavailable,
    Venue,
)
from core.record import replace
from dashboard import Dashboard
from engine import cli, heap, log
from engine.clock import LiveClock, Pacer, cpu_seconds, monotonic, wall_now
from engine.counter import Counter, prepare
from engine.live import no_answer, venue_problems
from engine.loop import Loop
from engine.notices import obstacle
from engine.progress import ProgressLine
from engine.publish import Publisher
from engine.restore import AS_IT_IS, Choice
from engine.runtime import Runtime
from engine.second_opinion import advisor_view
from engine.start_check import start_checks
from engine.status_view import Facts, build_status
from engine.summary import BannerFacts, banner, summary
from engine.version import VERSION
from engine.wiring import (
    Parts,
    attach,
    await_first_look,
    await_prints,
    begin,
    exchange_mode,
    open_models,
    open_notices,
    open_run,
    open_source,
    regimes_view,
    take_up,
)

if TYPE_CHECKING:
    from engine.models import RegimeModels

EXIT_OK, EXIT_CONFIG, EXIT_REFUSED, EXIT_STORE, EXIT_IN_USE, EXIT_INTERNAL = 0, 2, 3, 4, 5, 70
IN_USE_RUN = "; a run of another account or on paper may set STATE_DB to another file."
IN_USE_OTHER = "; meanwhile bot.py status shows what it does."
DOTENV = Path(__file__).resolve().parent / ".env"

logger = logging.getLogger("bot")


class Daemon:
    """One run of the bot, from its ports to its exit."""

    def __init__(self, settings: config.Settings, choice: Choice = AS_IT_IS) -> None:
        self.settings, self.choice = settings, choice
        self.counter = Counter()
        self.publisher = Publisher(
            recent_events=self.counter.recent_events,
            past_opinions=lambda: self.counter.past_opinions(settings.ai_history_size),
            on_urgent=lambda: self.dashboard.hurry(),  # noqa: PLW0108 - it comes later
        )
        self.parts: Parts | None = None
        self.models: RegimeModels | None = None
        self.waiting_for: str | None = "the market to open"
        self.stopping = threading.Event()
        self.started_wall = wall_now()
        self.dashboard = Dashboard(
            settings.host,
            settings.port,
            token=settings.dashboard_token,
            read_only=settings.dashboard_read_only, allowed_hosts=settings.dashboard_allowed_hosts,
            published=self.publisher.published,
            readiness=self._missing,
            liveness=self._is_alive,
            submit=self.counter.submit,
            monotonic=monotonic,
            step_age_sec=lambda: monotonic() - self._last_step,
            publisher_errors=lambda: self.publisher.errors,
            step_times=self.counter.step_times, state_db=settings.state_db,
        )  # fmt: skip
        self.notices = open_notices(
            settings, published=self.publisher.published, history=lambda: self.counter.history,
            submit=self.counter.submit,
        )  # fmt: skip
        self._service = SystemdNotifier()
        self._last_step = monotonic()

    def run(self) -> int:
        """Run until stopped or the market ends; return the exit code."""
        self.dashboard.start()
        self._catch_signals()
        if self.notices is not None:
            self.notices.begin()
        try:
            clock = LiveClock()
            source = open_source(self.settings, clock if self.settings.mode == "live" else None)
            if not await_first_look(source, self.settings, self.stopping, self._wait_for):
                return EXIT_OK
            ports = (self.settings, source, clock, self.stopping, self._wait_for)
            self.parts = open_run(*ports, choice=self.choice)
            if self.parts is None or not await_prints(source, self.stopping, self._wait_for):
                return EXIT_OK
            return self._trade(self.parts)
        except BaseException as error:
            if self.notices is not None:
                self.notices.say_failed(error)
            raise
        finally:
            self.waiting_for = "the daemon is stopping"
            self._service.notify("STOPPING=1")
            self.publisher.stop()
            self.dashboard.stop()
            if self.notices is not None:
                self.notices.stop()
            if self.models is not None:
                self.models.close()
            if self.parts is not None:
                self.parts.close()

    def _wait_for(self, what: str) -> None:
        """Say, once, what keeps the start waiting; the page is up and answers."""
        if self.waiting_for != what:
            self.waiting_for = what
            page = self.settings.page_url(self.dashboard.port)
            logger.info("waiting for %s; page %s", what, page)
        if self.notices is not None:
            self.notices.look(what)
        self._service.notify("READY=1\nWATCHDOG=1")

    def _trade(self, parts: Parts) -> int:
        notices = self.notices
        runtime = Runtime(parts.store, parts.exchange, notices.notifications if notices else None)
        is_old = runtime.restore()
        take_up(parts, runtime.state, self.settings)
        venue = parts.exchange.describe()
        params = replace(
            self.settings.params,
            stale_price_max_age_sec=self.settings.stale_after(parts.source.price_interval),
        )
        self._introduce(parts, venue, params)
        self.models = open_models(self.settings, parts)
        loop = Loop(
            runtime, parts.exchange, models=self.models,
            pacer=Pacer(None if parts.exchange.horizon() is not None else self.settings.speed),
            prepare=lambda command: prepare(runtime, command),
        )  # fmt: skip
        self.counter.history, self.counter.loop = parts.history, loop
        self.dashboard.history = parts.history
        attach(parts, runtime, loop, self.settings, self.models)
        runtime.start(
            venue,
            params,
            now=max(parts.exchange.now(), runtime.state.now),
            bot_tag=bot_tag(self.settings.bot_name, venue.instrument.pair),
        )
        begin(parts, runtime, self.models)
        logger.info("started from %s journal=%s", "disk" if is_old else "nothing", runtime.seq)
        if len(runtime.state.slots) != params.slot_count:
            logger.warning(
                "the run has %s slots, SLOT_COUNT=%s is for a new one: use add_slot or remove_slot",
                len(runtime.state.slots),
                params.slot_count,
            )
        self.publisher.start()
        progress = ProgressLine(
            sys.stderr,
            start=parts.source.start_time(),
            end=parts.source.end_time(),
            enabled=self.settings.speed is None,
        )
        loop.on_iteration = lambda is_urgent: self._after(runtime, parts, progress, is_urgent)
        self._after(runtime, parts, progress, True)
        if notices is not None:
            notices.listen()
        if self.stopping.is_set():
            loop.stop()
        self._service.notify("READY=1")
        began, cpu = monotonic(), cpu_seconds()
        outcome = loop.run()
        progress.end()
        self._finish(runtime, parts, outcome)
        if outcome == "ended":
            text = summary(runtime.state, wall_sec=monotonic() - began, cpu_sec=cpu_seconds() - cpu)
            sys.stdout.write(text + "\n")
        return EXIT_OK

    def _introduce(self, parts: Parts, venue: Venue, params: Params) -> None:
        sys.stdout.write(self._banner(venue, parts) + "\n\n")
        sys.stdout.flush()
        for check in start_checks(params, venue, parts.source.first_price()):
            if not check.is_ok:
                logger.warning("check failed: %s: %s", check.name, check.detail)

    def _finish(self, runtime: Runtime, parts: Parts, outcome: Literal["stopped", "ended"]) -> None:
        facts = self._facts(runtime, parts)
        self.publisher.offer(runtime.state, runtime.params, facts, at_once=True)
        if self.notices is not None:
            self._look(runtime, facts)
            self.notices.say_stopped(outcome, build_status(runtime.state, runtime.params, facts))
        runtime.stop()
        logger.info("%s journal=%s; resting orders stay", outcome, runtime.seq)

    # ---- what the loop tells --------------------------------------------------------------------

    def _after(
        self, runtime: Runtime, parts: Parts, progress: ProgressLine, is_urgent: bool
    ) -> None:
        now = monotonic()
        market = runtime.state.market
        self.waiting_for = None if market is not None else "the first price"
        self._last_step = now
        if is_urgent or now - self._offered >= 0.5:
            self._offered = now
            facts = self._facts(runtime, parts)
            self.publisher.offer(runtime.state, runtime.params, facts, at_once=is_urgent)
            self._look(runtime, facts)
            self._service.notify("WATCHDOG=1")
        progress.step(runtime.state)

    _offered = 0.0

    def _look(self, runtime: Runtime, facts: Facts) -> None:
        """Let the operator be told of a start, or of a wait that lasts."""
        if self.notices is not None:
            state, params = runtime.state, runtime.params
            what = obstacle(state, params, facts)
            self.notices.look(what, lambda: build_status(state, params, facts))

    def _facts(self, runtime: Runtime, parts: Parts) -> Facts:
        return Facts(
            version=VERSION,
            exchange_mode=exchange_mode(self.settings),
            is_real_time=parts.exchange.horizon() is not None,
            market_name=parts.source.name,
            speed=self.settings.speed,
            started_wall=self.started_wall,
            now_wall=wall_now(),
            journal_seq=runtime.seq,
            state_seq=runtime.state_seq,
            waiting_for=self.waiting_for,
            read_only=self.settings.dashboard_read_only,
            account=parts.account(),
            replica=parts.replication(runtime.state.now),
            regimes=regimes_view(parts, self.models, runtime.state.now),
            advisor=advisor_view(runtime.advisor),
        )

    def _banner(self, venue: Venue, parts: Parts) -> str:
        speed = self.settings.speed
        pace = "as fast as possible" if speed is None else f"at {speed:g}× speed"
        if parts.exchange.horizon() is not None:
            pace = f"every {parts.source.price_interval:g} s"
        facts = BannerFacts(
            mode=exchange_mode(self.settings), market=parts.source.name, speed=pace,
            dashboard=self.settings.page_url(self.dashboard.port),
            database=str(self.settings.state_db), price=parts.source.first_price(),
            base=venue.base, quote=venue.quote, version=VERSION,
        )  # fmt: skip
        return banner(self.settings.params, venue.instrument, venue.fees, facts)

    # ---- what the dashboard asks ----------------------------------------------------------------

    def _missing(self) -> str | None:
        """Return why the bot is not ready: what it waits for, or what keeps it; None if it is."""
        shown = self.publisher.published()
        return self.waiting_for or ("the first status" if shown is None else shown.obstacle)

    def _is_alive(self) -> bool:
        return monotonic() - self._last_step < 60.0 or self.counter.loop is None

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            if self.stopping.is_set():
                os._exit(EXIT_OK)  # asked twice: leave at once; everything committed is safe
            self.stopping.set()
            if self.counter.loop is not None:
                self.counter.loop.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)


def run(settings: config.Settings, choice: Choice) -> int:
    """Run the daemon; return its exit code."""
    heap.keep_small()
    log.configure(settings.log_level, settings.log_format, secrets=settings.secrets())
    for warning in settings.warnings:
        logger.warning("configuration: %s", warning)
    return Daemon(settings, choice).run()


def main(argv: list[str] | None = None) -> int:
    """Run a sub-command; return the exit code. Errors are told in plain words."""
    args = cli.parse(sys.argv[1:] if argv is None else argv)
    try:
        settings = config.load(os.environ, DOTENV, (venue_problems,))
        if args.command == "run":
            return run(settings, Choice(state=args.state, adopt_epoch=args.adopt_epoch))
        return cli.run(args, settings)
    except ConfigError as error:
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        sys.stderr.write(f"The configuration cannot be used:\n{lines}\n")
        return EXIT_CONFIG
    except MarketError as error:
        sys.stderr.write(f"The market data cannot be used: {error}\n")
        return EXIT_CONFIG
    except StartRefused as error:
        sys.stderr.write(f"The exchange refuses the start: {error}\n")
        return EXIT_REFUSED
    except Unavailable as error:
        sys.stderr.write(f"The exchange does not answer: {no_answer(settings, error)}\n")
        return EXIT_REFUSED
    except StoreInUse as error:
        sys.stderr.write(f"{error}{IN_USE_RUN if args.command == 'run' else IN_USE_OTHER}\n")
        return EXIT_IN_USE
    except StoreError as error:
        sys.stderr.write(f"The database cannot be used: {error}\n")
        return EXIT_STORE
    except Exception:  # boundary: the program's own errors end it with a code of their own
        logger.exception("internal error")
        return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
