"""The paper exchange: durable at every step, exact in what the bot may know, and in time order."""

import shutil
from collections.abc import Callable
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

import config
from accounting import orders
from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction, RequestReconcile
from core.commands import AddLayer, RemoveLayer
from core.domain import FeeRates, Instrument, OrderState, OrderStatus, Role, Side, TradeId
from core.market import Evidence
from core.params import Params
from core.ports import Commit, Loaded, Message, StoreError
from core.record import replace
from engine.books import ExchangeBooks, canonical_text, verify
from engine.clock import Pacer
from engine.loop import Loop
from engine.runtime import Runtime
from engine.wiring import open_parts, take_up
from exchange.matching import MatchingConfig
from exchange.paper import PaperExchange, read_books
from exchange.paper_file import Cursor, PaperFile
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from store.memory import MemoryStore
from store.sqlite import SqliteStore
from tests.helpers import write_candles
from tests.world import GOLDEN_PARAMS

D = Decimal


class Finite(SyntheticSource):
    """The first items of a synthetic market."""

    limit = 400

    def read(self, skip: int) -> "islice[Evidence]":  # type: ignore[override]  # an iterator
        """Yield the evidence up to the limit."""
        return islice(super().read(skip), max(0, self.limit - skip))


def exchange(path: Path | str, source: SyntheticSource | ReplaySource) -> PaperExchange:
    """Return a paper exchange with 500 USD worth of each."""
    return PaperExchange(
        path, source, Instrument(), MatchingConfig(), start_base=D(5000), start_quote=D(500)
    )


def placing(name: str, side: Side, price: str, at: float) -> PlaceOrderAction:
    """Return a request to place an order of 100."""
    order = OrderState(
        client_order_id=name, trade_id=TradeId.B, role=Role.ENTRY, side=side, price=D(price),
        volume=D(100), cycle=1, attempt=1, placed_at=at,
    )  # fmt: skip
    return PlaceOrderAction(slot_id=1, order=order, chain=(), deadline=at + 10)


def script(made: PaperExchange, step: int) -> None:
    """Send requests at fixed steps of a run."""
    at = made.now()
    if step == 3:
        made.place(placing("one", Side.BUY, "0.0995", at))
        made.place(placing("two", Side.SELL, "0.1012", at))
    elif step == 60:
        made.cancel(CancelOrderAction(client_order_id="one", txid=None, reason="test"))
    elif step == 90:
        made.reconcile(RequestReconcile(reason="test", client_order_ids=("one", "two", "three")))


def run(path: Path, *, reopen: bool) -> list[Message]:
    """Run to the end of the market, reopening the file at every step if asked to."""
    source = Finite(1, instrument=Instrument())
    made = exchange(path, source)
    messages: list[Message] = []
    for step in range(5000):
        script(made, step)
        if reopen:
            made.close()
            made = exchange(path, Finite(1, instrument=Instrument()))
            assert made.pending(messages[-1].seq if messages else 0) == ()
        at = made.next_time()
        if at is None:
            break
        got = made.advance(at)
        if reopen and got:
            made.close()
            made = exchange(path, Finite(1, instrument=Instrument()))
            assert made.pending(got[0].seq - 1) == got
        messages.extend(got)
        if got:
            made.acknowledge(got[-1].seq)
            if reopen:
                made.advance(made.now())
    made.close()
    return messages


@pytest.mark.slow
def test_reopened_at_every_step_it_tells_the_same_story(tmp_path: Path) -> None:
    """Message for message, a run interrupted everywhere equals one left alone."""
    calm = run(tmp_path / "calm.db", reopen=False)
    assert run(tmp_path / "torn.db", reopen=True) == calm
    kinds = {type(x.event) for x in calm}
    assert {e.OrderAccepted, e.PriceTick, e.BalancesReported, e.MarketEnded} <= kinds
    assert [x.seq for x in calm] == list(range(1, len(calm) + 1))
    times = [x.event.time for x in calm]
    assert times == sorted(times)


def test_unknown_orders_never_arrived_and_prices_come_once_a_second(tmp_path: Path) -> None:
    """Reconciling an order it never saw says so; quotes are at least a second apart."""
    messages = run(tmp_path / "x.db", reopen=False)
    rejected = [x.event for x in messages if isinstance(x.event, e.OrderRejected)]
    assert [(x.client_order_id, x.reason) for x in rejected] == [("three", "never_arrived")]
    ticks = [x.event.time for x in messages if isinstance(x.event, e.PriceTick)]
    assert all(b - a >= 0.999 for a, b in pairwise(ticks))


def test_another_market_or_setting_is_refused(tmp_path: Path) -> None:
    """A file goes on only with the market it was made with."""
    exchange(tmp_path / "x.db", SyntheticSource(1, instrument=Instrument())).close()
    with pytest.raises(StoreError, match="market was synthetic market, seed 1"):
        exchange(tmp_path / "x.db", SyntheticSource(2, instrument=Instrument()))


def traded(tmp_path: Path, name: str) -> tuple[Runtime, PaperExchange]:
    """Trade a short replay to its end, in this process."""
    candles = tmp_path / "candles.csv"
    if not candles.exists():
        write_candles(candles, bars=1500, seed=4)
    made = exchange(tmp_path / name, ReplaySource(candles))
    runtime = Runtime(MemoryStore(epoch=3), made, None)
    params = GOLDEN_PARAMS.from_dict(
        {**GOLDEN_PARAMS.to_dict(), "order_size_usd": "40", "entry_pct": "0.4",
         "profit_pct": "1.2", "recon_interval_sec": 300.0, "stale_price_max_age_sec": 600.0}
    )  # fmt: skip
    loop = Loop(runtime, made, pacer=Pacer(None))
    runtime.start(made.describe(), params, now=made.now(), bot_tag=1)
    assert loop.run() == "ended"
    return runtime, made


def test_books_of_bot_and_exchange_agree_exactly(tmp_path: Path) -> None:
    """After a run both parties own the same, and every execution is booked once."""
    runtime, made = traded(tmp_path, "paper.db")
    made.close()
    books, own = read_books(tmp_path / "paper.db"), runtime.state.balances
    assert (books.base, books.quote) == (own.base, own.quote)
    assert books.executions == len(list(runtime.store.execution_ids())) > 20
    assert runtime.state.counters["cycles"] > 5
    assert runtime.state.counters.get("violations", 0) == 0


def test_timers_are_a_second_apart_so_that_time_moves_on(tmp_path: Path) -> None:
    """However often something is due, no instant is looked at twice by a timer."""
    runtime, made = traded(tmp_path, "paper.db")
    made.close()
    rows = runtime.store.journal(after=0)
    times = [row.event.time for row in rows if isinstance(row.event, e.TimerTick)]
    assert len(times) > 50
    assert all(b - a >= 1.0 for a, b in pairwise(times))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """Two runs over the same candles give the same canonical export."""

    texts = []
    for name in ("one.db", "two.db"):
        runtime, made = traded(tmp_path, name)
        made.close()
        texts.append(canonical_text(runtime.store, runtime.state))
    assert texts[0] == texts[1]


def test_first_cycle_on_the_default_market_within_twenty_hours() -> None:
    """With seed 1 and default settings a cycle completes within 20 simulated hours."""

    settings = config.load({}, Path("/nonexistent"))
    source = Finite(settings.seed, instrument=Instrument())
    source.limit = 20 * 60 * 12
    made = exchange(":memory:", source)
    runtime = Runtime(MemoryStore(epoch=3), made, None)
    loop = Loop(runtime, made, pacer=Pacer(None))
    loop.on_iteration = lambda _: loop.stop() if runtime.state.counters.get("cycles") else None
    runtime.start(made.describe(), settings.params, now=made.now(), bot_tag=1)
    loop.run()
    assert runtime.state.counters.get("cycles", 0) >= 1
    assert runtime.state.now - source.start_time() < 20 * 3600


def fill_delivered_but_not_booked(tmp_path: Path) -> tuple[Runtime, PaperExchange]:
    """Trade until the exchange has delivered an execution, and kill the bot before it steps."""
    candles = tmp_path / "candles.csv"
    write_candles(candles, bars=1500, seed=4)
    made = exchange(tmp_path / "paper.db", ReplaySource(candles))
    runtime = Runtime(MemoryStore(epoch=3), made, None)
    params = GOLDEN_PARAMS.from_dict(
        {**GOLDEN_PARAMS.to_dict(), "order_size_usd": "40", "entry_pct": "0.4",
         "stale_price_max_age_sec": 600.0}
    )  # fmt: skip
    runtime.start(made.describe(), params, now=made.now(), bot_tag=1)
    loop = Loop(runtime, made, pacer=Pacer(None))
    deliver = loop._deliver

    def killed(seq: int, event: e.Event) -> None:
        if isinstance(event, e.FillEvent) and runtime.state.counters.get("fills", 0) >= 3:
            raise KeyboardInterrupt
        deliver(seq, event)

    loop._deliver = killed  # type: ignore[method-assign]  # the instant of the kill
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    return runtime, made


def test_verify_allows_for_executions_that_are_on_their_way(tmp_path: Path) -> None:
    """Killed between delivery and booking: not lost, not yet booked, and verify says so."""
    runtime, made = fill_delivered_but_not_booked(tmp_path)
    books = read_books(tmp_path / "paper.db", told=runtime.state.exchange_cursor)
    assert books.executions == len(list(runtime.store.execution_ids())) + 1
    there = ExchangeBooks(
        base=books.base, quote=books.quote, effects=books.effects, untold=books.untold
    )
    current = Loaded(seq=runtime.seq, state=runtime.state, params=runtime.params)
    checks = verify(runtime.store, current, there)
    assert [x.name for x in checks if not x.is_ok] == []
    assert "1 on their way to the bot" in checks[-1].detail
    lost = replace(there, untold=frozenset())
    (failed,) = [x for x in verify(runtime.store, current, lost) if not x.is_ok]
    assert "not booked here: TPAPER-" in failed.detail
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("fees", [None, ("0.003", "0.006")])
def test_an_account_too_small_for_its_slots_is_used_up_without_refusals(
    tmp_path: Path, fees: tuple[str, str] | None
) -> None:
    """What the bot thinks it can pay for, with the fee of the day, the exchange takes."""
    candles = tmp_path / "candles.csv"
    write_candles(candles, bars=500, seed=4)
    flat = FeeRates(maker=D(fees[0]), taker=D(fees[1])) if fees else None
    source = ReplaySource(candles)
    made = PaperExchange(
        tmp_path / "small.db", source, Instrument(), MatchingConfig(flat_fees=flat),
        start_base=D(5_000), start_quote=D(150),
    )  # fmt: skip
    runtime = Runtime(MemoryStore(epoch=3), made, None)
    params = Params(slot_count=14, slot_stagger_pct=D("0.1"), stale_price_max_age_sec=600.0)
    loop = Loop(runtime, made, pacer=Pacer(None))
    runtime.start(made.describe(), params, now=made.now(), bot_tag=1)
    assert loop.run() == "ended"
    counters = runtime.state.counters
    assert counters.get("rejected:insufficient_funds", 0) == 0
    assert counters["cycles"] > 0
    placed = [x for row in runtime.store.journal(after=0) for x in row.actions
              if isinstance(x, PlaceOrderAction)]  # fmt: skip
    assert any("free funds" in step.reason for x in placed for step in x.chain)
    made.close()


class Disk:
    """What a power cut leaves of the two files: each as its last synced commit has left it.

    Now and then the system writes an unsynced commit to the disk by itself.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.cuts: list[Path] = []
        self._synced = 0
        commit, snapshot, paper = SqliteStore.commit, SqliteStore.snapshot, PaperFile.commit

        def bot_commit(store: SqliteStore, made: Commit) -> None:
            commit(store, made)
            if made.is_critical or made.seq % 13 == 0:
                self.keep("bot.db")

        def bot_snapshot(store: SqliteStore, loaded: Loaded) -> None:
            snapshot(store, loaded)
            self.keep("bot.db")

        def paper_commit(file: PaperFile, cursor: Cursor, **parts: Any) -> None:
            paper(file, cursor, **parts)
            if parts["is_full"] or cursor.numbered % 11 == 0:
                self.keep("bot.paper.db")

        monkeypatch.setattr(SqliteStore, "commit", bot_commit)
        monkeypatch.setattr(SqliteStore, "snapshot", bot_snapshot)
        monkeypatch.setattr(PaperFile, "commit", paper_commit)

    def keep(self, name: str) -> None:
        """Take the present content as what the disk holds for good."""
        for suffix in ("", "-wal"):
            source, target = self.folder / (name + suffix), self.folder / f"kept-{name}{suffix}"
            target.unlink(missing_ok=True)
            if source.exists():
                shutil.copyfile(source, target)
        self._synced += 1
        if self._synced % 23 == 0 and (self.folder / "kept-bot.paper.db").exists():
            self._cut(self.folder.with_name(f"cut{len(self.cuts)}"))

    def _cut(self, into: Path) -> None:
        """Write what the disk holds to another folder."""
        into.mkdir()
        self.cuts.append(into)
        for name in ("bot.db", "bot.paper.db"):
            for suffix in ("", "-wal"):
                kept = self.folder / f"kept-{name}{suffix}"
                if kept.exists():
                    shutil.copyfile(kept, into / (name + suffix))


def go_on(folder: Path, until: Callable[[Runtime], bool]) -> Runtime:
    """Take a run up as the daemon does, and trade until told to stop; leaves both files open."""
    settings = config.load(
        {
            "STATE_DB": str(folder / "bot.db"),
            "SLOT_COUNT": "6",
            "SLOT_STAGGER_PCT": "0.05",
            "PAIR_ENTRY_PCT": "0.1",
            "PAIR_PROFIT_PCT": "1.0",
        },
        Path("/nonexistent"),
    )
    parts = open_parts(settings)
    runtime = Runtime(parts.store, parts.exchange, None)
    runtime.restore()
    take_up(parts, runtime.state, settings)
    coming = parts.exchange.next_time()
    assert coming is None or coming >= runtime.state.now  # nothing is told again from the past
    venue, now = parts.exchange.describe(), max(parts.exchange.now(), runtime.state.now)
    runtime.start(venue, settings.params, now=now, bot_tag=1)
    loop = Loop(runtime, parts.exchange, pacer=Pacer(None))
    loop.on_iteration = lambda _: loop.stop() if until(runtime) else None
    loop.run()
    current = Loaded(seq=runtime.seq, state=runtime.state, params=runtime.params)
    books = read_books(settings.paper_db(), told=runtime.state.exchange_cursor)
    there = ExchangeBooks(
        base=books.base, quote=books.quote, effects=books.effects, untold=books.untold
    )
    assert [x for x in verify(parts.store, current, there) if not x.is_ok] == []
    parts.close()
    return runtime


@pytest.mark.slow
def test_after_a_power_cut_at_any_time_both_files_go_on_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file falls back to its last synced commit; no answer and no execution is lost."""
    (tmp_path / "run").mkdir()
    disk = Disk(tmp_path / "run", monkeypatch)
    steps = 0

    def until(runtime: Runtime) -> bool:
        nonlocal steps
        steps += 1
        if steps % 40 == 0:  # a command is synced in the bot's file alone, in the quietest hour
            command = AddLayer() if steps % 80 else RemoveLayer()
            now = runtime.state.now
            runtime.step(e.CommandReceived(time=now, command_id=f"c{steps}", command=command))
        return len(disk.cuts) >= 16

    go_on(tmp_path / "run", until)
    monkeypatch.undo()
    for cut in disk.cuts:
        count = 0

        def enough(runtime: Runtime) -> bool:
            nonlocal count
            count += 1
            unsure = [x for x in orders(runtime.state) if x.status is not OrderStatus.OPEN]
            return count > 400 and not unsure

        state = go_on(cut, enough).state
        assert state.counters.get("violations", 0) == 0
