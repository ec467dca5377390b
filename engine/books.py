"""Proofs over a finished or running store: refold, verify, and the canonical export.

Everything here only reads. The journal must fold to the stored state; debits must equal credits;
our base and quote must equal the exchange's own books, to the last digit but for its rounding.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from accounting import breakdown, trial_balance
from core import events as e
from core.params import Params
from core.ports import Loaded, Store, StoreError
from core.record import Record, plain
from core.state import BotState
from engine.runtime import comparable, fold, initial_state
from engine.version import code_version
from grid.auditing import in_words
from grid.invariants import check_invariants

# Fields that equal runs may differ in: how often something was told twice, and when it was asked.
_VOLATILE_COUNTERS = ("duplicate_fills", "unknown_fills")
_VOLATILE_BALANCES = ("reported_base", "reported_quote", "reported_at", "flows_until")


class Check(Record, frozen=True, kw_only=True):
    """One proof: what was checked, whether it holds, and the figures."""

    name: str
    is_ok: bool
    detail: str


class ExchangeBooks(Record, frozen=True, kw_only=True):
    """The exchange's own view of the account, to be compared with ours.

    `effects` are what each execution did to base and quote; `untold` those whose message is still
    on its way to the bot. Executions booked up to step `since_seq` it does not know any more.
    """

    base: Decimal
    quote: Decimal
    effects: Mapping[str, tuple[Decimal, Decimal]]
    untold: frozenset[str]
    since_seq: int = 0


class Folded(Record, frozen=True, kw_only=True):
    """What folding the kept journal gave; `state` None when none of it could be judged."""

    seq: int = 0
    state: BotState | None = None
    count: int = 0
    differences: tuple[str, ...] = ()  # at most ten
    foreign: int = 0  # rows in segments of other programs, which have other rules
    programs: tuple[str, ...] = ()


def refold(
    store: Store, progress: Callable[[int], None] = lambda _: None, *, code: str | None = None
) -> Folded:
    """Fold the kept journal anew by the rules of this program (`code`: another's, for tests).

    Begins at the first event, or at the oldest snapshot where that is gone. Segments from one
    `Started` to the next that another program wrote are counted, not judged; folding goes on at
    the next snapshot of our own. Every snapshot passed must equal the state folded so far.
    """
    own = code or code_version()
    seats = {snapshot.seq: snapshot for snapshot in store.snapshots()}
    first = next(iter(store.journal(after=0)), None)
    is_whole = first is None or first.seq == 1
    state: BotState | None = initial_state() if is_whole else None
    params, count, foreign = Params(), 0, 0
    seq = 0 if is_whole else min(seats, default=0)
    differences: list[str] = []
    programs: set[str] = set()
    program = own
    for row in store.journal(after=seq):
        if row.seq != seq + 1:
            raise StoreError(f"the journal jumps from {seq} to {row.seq}")
        seq, seat = row.seq, seats.get(row.seq - 1)
        if isinstance(row.event, e.Started):
            program = row.event.code_version
        elif seat is not None:
            program = seat.state.code_version
        if program != own:
            state = None
        elif state is None and seat is not None:
            state, params = seat.state, seat.params
        elif state is not None and seat is not None and comparable(state) != comparable(seat.state):
            differences.append(f"the snapshot at {seat.seq}")
        if state is None:
            foreign += 1
            programs.add(program)
            continue
        state, params, actions = fold(state, params, row.event)
        if actions != row.actions:
            differences.append(f"row {row.seq} ({type(row.event).__name__})")
        count += 1
        if count % 1000 == 0:
            progress(count)
    return Folded(
        seq=seq, state=state if count else None, count=count, differences=tuple(differences[:10]),
        foreign=foreign, programs=tuple(sorted(programs)),
    )  # fmt: skip


def verify(
    store: Store,
    current: Loaded,
    exchange: ExchangeBooks | None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Check]:
    """Return every proof over the books; `current` is the state with the journal's tail folded."""
    state = current.state
    checks = [_refolded(store, current, progress)]
    broken = check_invariants(state)
    checks.append(
        Check(name="safety invariants", is_ok=not broken, detail="; ".join(broken) or "all hold")
    )
    balance = trial_balance(state.accounts)
    checks.append(
        Check(
            name="debits equal credits", is_ok=balance == 0, detail=f"difference {plain(balance)}"
        )
    )
    checks.append(_executions(store, current))
    parts = breakdown(state)
    if parts is not None:
        checks.append(
            Check(
                name="equity explained",
                is_ok=parts.unexplained == 0,
                detail=f"unexplained {plain(parts.unexplained)}",
            )
        )
    if exchange is not None:
        checks.append(conserved(store, state, exchange))
    return checks


def _refolded(store: Store, current: Loaded, progress: Callable[[int], None]) -> Check:
    folded = refold(store, progress)
    name = "journal folds to the stored state"
    if not folded.seq:
        return Check(name=name, is_ok=True, detail="the journal is empty")
    is_same = folded.seq == current.seq and (
        folded.state is None or comparable(folded.state) == comparable(current.state)
    )
    detail = describe(folded) + ("" if is_same else "; the state differs")
    return Check(name=name, is_ok=is_same and not folded.differences, detail=detail)


def describe(folded: Folded) -> str:
    """Return what folding has shown, in plain words."""
    text = f"{folded.count:,} events, to journal number {folded.seq:,}"
    if folded.foreign:
        text += (
            f"; {folded.foreign:,} more were written by {', '.join(folded.programs)} and are not "
            "judged by the rules of this program"
        )
    if folded.differences:
        text += f"; it differs at {', '.join(folded.differences)}"
    return text


def _executions(store: Store, current: Loaded) -> Check:
    audit, own = store.audit(current), current.state.balances
    return Check(
        name="balances, ledger and cycles follow from the executions",
        is_ok=audit.agrees,
        detail=f"{in_words(audit)}; {plain(own.base)} base, {plain(own.quote)} quote",
    )


def conserved(store: Store, state: BotState, exchange: ExchangeBooks) -> Check:
    """Compare balances and executions; what is still on its way to the bot is allowed for.

    So is that the exchange rounds what each execution moves, where it keeps balances in units.
    """
    known = frozenset(store.execution_ids(exchange.since_seq))
    untold = exchange.untold - known
    lost = exchange.effects.keys() - known - untold
    invented = known - exchange.effects.keys()
    own = state.balances
    base = exchange.base - sum(exchange.effects[x][0] for x in untold) - own.base
    quote = exchange.quote - sum(exchange.effects[x][1] for x in untold) - own.quote
    text = (
        f"difference {plain(base)} base, {plain(quote)} quote; "
        f"{len(exchange.effects)} executions there, {len(known)} here"
    )
    if untold:
        text += f", {len(untold)} on their way to the bot"
    for what, ids in (("not booked here", lost), ("unknown there", invented)):
        if ids:
            text += f"; {what}: {', '.join(sorted(ids)[:5])}"
    count = len(exchange.effects)
    most_base, most_quote = state.instrument.rounding(count)
    is_same = abs(base) <= most_base and abs(quote) <= most_quote
    if is_same and (base or quote):
        text += f"; within the rounding of {count} executions, {plain(most_quote)} quote at most"
    if own.reported_at is None and not known:  # the run has begun and heard nothing yet
        is_same = True
        text += "; our own books are not open yet"
    is_ok = is_same and not lost and not invented
    name = "base and quote conserved against the exchange"
    return Check(name=name, is_ok=is_ok, detail=text)


def canonical(store: Store, state: BotState) -> Mapping[str, Any]:
    """Return history and final state in canonical form: no wall times, no host facts."""
    final = comparable(state).to_dict()
    del final["code_version"]
    final["counters"] = {
        name: count for name, count in final["counters"].items() if name not in _VOLATILE_COUNTERS
    }
    for name in _VOLATILE_BALANCES:
        del final["balances"][name]
    return {**store.export(), "final_state": _plain(final)}


def canonical_text(store: Store, state: BotState) -> str:
    """Return the canonical export as JSON with sorted keys."""
    return json.dumps(canonical(store, state), sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """Return the SHA-256 of a canonical export."""
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str) and "E" in value:
        try:
            return plain(Decimal(value))
        except ArithmeticError:
            return value
    return value
