"""The sandbox's account keeps its books whatever is asked of it, over restarts too."""

import json
import random
from decimal import Decimal
from pathlib import Path

import pytest

from core.domain import Side
from exchange.sandbox_file import read_truth
from exchange.sandbox_venue import SandboxVenue
from tests.sandbox_client import Caller, make_venue


def check(venue: SandboxVenue) -> None:
    """Compare orders, trades, ledger, holds and engine with each other, exactly."""
    truth, account = venue.truth(), venue.account
    base, quote = account.engine.totals()
    assert (truth.balances["XXDG"], truth.balances["ZUSD"]) == (base, quote)
    held_base, held_quote = account.books.held(venue.now)
    assert held_base <= base
    assert held_quote <= quote
    assert min(held_quote, quote) == account.engine.reserved()[1]
    assert held_base == account.engine.reserved()[0]
    resting = {x.client_order_id: x for x in account.engine.orders()}
    assert set(resting) == {x.txid for x in truth.orders if x.is_open} == set(account.books.open)
    for order in truth.orders:
        trades = [x for x in truth.trades if x.txid == order.txid]
        last = order.last
        assert last.executed == sum(x.volume for x in trades)
        assert last.cost == sum(x.cost for x in trades)
        assert last.fee == sum(x.fee for x in trades)
        assert last.executed <= last.volume
        assert (last.status == "closed") is (last.executed == last.volume)
        if order.is_open:
            assert resting[order.txid].remaining == last.volume - last.executed
        assert [x.at for x in order.changes] == sorted(x.at for x in order.changes)
    moved = {"XXDG": Decimal(0), "ZUSD": Decimal(0)}
    for trade in truth.trades:
        way = 1 if trade.side is Side.BUY else -1
        moved["XXDG"] += way * trade.volume
        kept = account.instrument.kept
        moved["ZUSD"] -= way * kept(trade.cost) + kept(trade.fee)
    for row in truth.ledger:
        if row.kind != "trade":
            moved[row.asset] += row.amount
    assert moved == truth.balances


def step(caller: Caller, rng: random.Random) -> None:
    """Do one thing at random; what is refused is refused."""
    truth = caller.venue.truth()
    open_ids = [x.txid for x in truth.orders if x.is_open] or ["OAAAAA-AAAAA-AAAAAA"]
    caller.now += rng.choice((0.0, 0.1, 5.0))
    quote = caller.venue.account.engine.quote()
    assert quote is not None
    near = quote.last * (1 + Decimal(rng.randint(-30, 30)) / 1000)
    price = f"{near:.{rng.choice((5, 7))}f}"
    volume = str(rng.choice((50, 60, 500, 3000, Decimal("77.12345678"))))
    side = rng.choice(("buy", "sell"))
    match rng.randint(0, 9):
        case 0 | 1 | 2:
            flags = rng.choice(("post,fciq", "fciq"))
            more = rng.choice(
                ({}, {"timeinforce": "IOC"}, {"timeinforce": "GTD", "expiretm": "+9"})
            )
            caller.raw("AddOrder", **caller.order(side, price, volume=volume, oflags=flags, **more))
        case 3:
            market = caller.order(side, ordertype="market", oflags="fciq", volume=volume)
            caller.raw("AddOrder", **market)
        case 4:
            caller.raw("CancelOrder", txid=rng.choice(open_ids))
        case 5:
            caller.raw("AmendOrder", txid=rng.choice(open_ids), limit_price=price)
        case 6:
            caller.raw("AmendOrder", txid=rng.choice(open_ids), order_qty=volume)
        case 7 | 8:
            caller.trade(price, rng.choice(("20", "333.3", "9000")), rng.choice(("buy", "sell")))
        case _:
            caller.venue.deposit(rng.choice(("ZUSD", "XXDG")), Decimal(rng.randint(1, 50)))


@pytest.mark.parametrize("seed", range(8))
def test_the_books_agree_after_every_step(seed: int) -> None:
    """250 random steps: amendments, takers, partial fills, expiries, deposits."""
    rng = random.Random(f"account/{seed}")
    caller = Caller(make_venue(assumed_queue=Decimal(200), open_order_limit=30))
    for _ in range(250):
        step(caller, rng)
        check(caller.venue)
    assert len(caller.venue.truth().trades) > 10


def test_a_restart_at_any_step_changes_nothing(tmp_path: Path) -> None:
    """The same steps with and without restarts in between end in the same truth."""

    def run(path: Path | str, *, is_broken: bool) -> SandboxVenue:
        rng = random.Random("restart")
        caller = Caller(make_venue(path=path))
        for n in range(120):
            step(caller, rng)
            if is_broken and n % 7 == 0:
                caller.venue.close()
                caller.venue = make_venue(path=path, now=caller.now)
        check(caller.venue)
        return caller.venue

    whole, broken = run(":memory:", is_broken=False), run(tmp_path / "s.db", is_broken=True)
    assert whole.truth() == broken.truth() == read_truth(tmp_path / "s.db")
    assert whole.account.engine.state() == broken.account.engine.state()


def test_a_refused_request_changes_nothing_but_the_nonce() -> None:
    """State of the engine and all rows are equal before and after a refusal."""
    caller = Caller(make_venue())
    txid = caller.place(volume="5000")
    before = caller.venue.truth()
    for method, params in (
        ("AddOrder", caller.order(volume="9000")),
        ("AmendOrder", {"txid": txid, "limit_price": "0.3"}),
        ("AmendOrder", {"txid": txid, "order_qty": "90000"}),
        ("CancelOrder", {"txid": "OAAAAA-AAAAA-AAAAAA"}),
        ("AddOrderBatch", {"pair": "XDGUSD"}),
    ):
        _, body = caller.raw(method, **params)
        assert json.loads(body)["error"]
        assert caller.venue.truth() == before
        assert caller.venue.account.engine.order(txid) is not None
    check(caller.venue)
