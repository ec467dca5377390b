"""The sub-commands beside `run`: check, verify, backup, backfill, status, export, refold.

They print for people and return exit codes; each opens what it needs and leaves no trace.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import requests

import config
from core.ports import Loaded, StartRefused, StoreError, Unavailable
from engine.books import (
    Check,
    canonical,
    canonical_text,
    conserved,
    describe,
    digest,
    refold,
    verify,
)
from engine.clock import sleep
from engine.live import checks as live_checks
from engine.live import mode_word, no_answer, open_trial_account, read_account
from engine.replication import replica_checks
from engine.runtime import Runtime
from engine.second_opinion import advisor_checks
from engine.start_check import start_checks
from engine.wiring import exchange_books, open_parts, open_store, open_trial
from exchange.paper import PaperExchange
from settings.variable import path_is
from sim.arguments import number

DAYS_MIN, DAYS_MAX, DAYS = 0.1, 400.0, 14.0  # of a backfill
LAG_SEC = 6.0  # more than what Kraken tells of an account may lag
EXIT_OK, EXIT_FAILED, EXIT_REFUSED = 0, 1, 3
COMMANDS = {
    "run": "trade until stopped or the market ends (default)",
    "check": "check configuration, market, minimums and database; places no order",
    "verify": "prove the books: refold the journal, compare with the exchange",
    "backup": "copy the running database to FILE",
    "backfill": "read deeper candles from Kraken's public trades; the daemon may run",
    "status": "show the status of the running daemon",
    "export": "print history and final state as JSON",
    "refold": "fold the journal anew and compare every action",
}


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the parsed command line; `command` is "run" when none is given."""
    parser = argparse.ArgumentParser(
        prog="bot.py", description="A grid trading daemon for one Kraken spot pair."
    )
    _add_choices(parser, default=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if name == "run":
            _add_choices(sub, default=False)
        if name == "backup":
            sub.add_argument("file", type=Path, help="where to write the copy; must not exist")
        if name == "backfill":
            sub.add_argument(
                "--days", type=number(DAYS_MIN, DAYS_MAX), default=DAYS, metavar="DAYS",
                help=f"how far back, {DAYS_MIN:g} to {DAYS_MAX:g} (default {DAYS:g})",
            )  # fmt: skip
        if name == "export":
            sub.add_argument(
                "--canonical", action="store_true", help="sorted keys, on one line, with its hash"
            )
    args = parser.parse_args(argv)
    args.command = args.command or "run"
    return args


def _add_choices(parser: argparse.ArgumentParser, *, default: bool) -> None:
    """Add what decides, once, where a start would have to ask; not `default`: it may stand here."""
    none = None if default else argparse.SUPPRESS
    parser.add_argument(
        "--state",
        choices=("local", "remote"),
        default=none,
        help="go on with the database, or with its copy at Supabase, where the two disagree",
    )
    parser.add_argument(
        "--adopt-epoch",
        action="store_true",
        default=False if default else argparse.SUPPRESS,
        help="bind open orders that another database of this bot placed to this one",
    )


def run(args: argparse.Namespace, settings: config.Settings) -> int:
    """Run the sub-command of `args`; return its exit code."""
    commands = {
        "check": _check,
        "verify": _verify,
        "backup": _backup,
        "backfill": _backfill,
        "status": _status,
        "export": _export,
        "refold": _refold,
    }
    code: int = commands[args.command](args, settings)
    return code


def _out(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def _current(store: Any) -> Loaded:
    """Return the state with the journal's tail folded. Raises StoreError for an empty store."""
    runtime = Runtime(store, None, None)
    if not runtime.restore():
        raise StoreError("the database holds no run yet: start the daemon first (make run)")
    return Loaded(seq=runtime.seq, state=runtime.state, params=runtime.params)


def _progress(count: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{count:,} events folded")
        sys.stderr.flush()


def _check(_args: argparse.Namespace, settings: config.Settings) -> int:
    try:
        return _check_parts(settings)
    except Unavailable as error:
        _out(f"FAILED {'market':<16} {no_answer(settings, error)}")
        return EXIT_REFUSED
    finally:  # what is spelt wrong may be why it fails
        for warning in settings.warnings:
            _out(f"warning {warning}")


def _check_parts(settings: config.Settings) -> int:
    if settings.mode == "live":
        return _check_account(settings)
    if not path_is(settings.state_db, "there"):
        exchange = open_trial(settings)
        try:
            return _check_paper(exchange, settings, _new_database(settings.state_db))
        finally:
            exchange.close()
    parts = open_parts(settings)
    try:
        if not isinstance(parts.exchange, PaperExchange):
            raise AssertionError("a check on paper needs the paper exchange")
        return _check_paper(parts.exchange, settings, _old_database(settings.state_db))
    finally:
        parts.close()


def _check_account(settings: config.Settings) -> int:
    is_new = not path_is(settings.state_db, "there")
    account = open_trial_account(settings)
    try:
        found = live_checks(read_account(account, settings), settings)
    except StartRefused as error:
        _out(f"FAILED {'account':<16} {error}")
        return EXIT_REFUSED
    finally:
        account.close()
    name = f"{mode_word(settings)} at {settings.kraken_api_url}"
    database = _new_database if is_new else _old_database
    return _show(name, found, settings, database(settings.state_db))


def _old_database(path: Path) -> Check:
    return Check(name="database", is_ok=True, detail=f"{path}: intact, not in use")


def _new_database(path: Path) -> Check:
    """Tell whether the database, and folders above it, can be created; nothing is."""
    folder = next(x for x in path.absolute().parents if path_is(x, "there"))
    why = ""
    if not path_is(folder, "dir"):
        why = f"{folder} is no folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = f"this user may not write into {folder}"
    detail = f"cannot be created: {why}; mend that, or set STATE_DB" if why else "will be created"
    return Check(name="database", is_ok=not why, detail=f"{path}: {detail}")


def _check_paper(exchange: PaperExchange, settings: config.Settings, database: Check) -> int:
    venue, price = exchange.describe(), exchange.source.first_price()
    found = start_checks(settings.params, venue, price)
    return _show(exchange.source.name, found, settings, database)


def _show(market: str, found: list[Check], settings: config.Settings, database: Check) -> int:
    """Print the table of checks; return the exit code."""
    count = len(settings.effective)
    checks = [
        Check(name="configuration", is_ok=True, detail=f"{count} settings, all valid"),
        Check(name="market", is_ok=True, detail=market),
        *found,
        database,
        *replica_checks(settings, market),
        *advisor_checks(settings),
    ]
    for check in checks:
        _out(f"{'ok    ' if check.is_ok else 'FAILED'} {check.name:<16} {check.detail}")
    return EXIT_OK if all(check.is_ok for check in checks) else EXIT_REFUSED


def _verify(_args: argparse.Namespace, settings: config.Settings) -> int:
    store = open_store(settings, must_exist=True)
    try:
        current = _current(store)
        books = exchange_books(settings, store, current.state)
        if settings.mode == "live" and not conserved(store, current.state, books).is_ok:
            sys.stderr.write(f"its answers may lag: it is read again in {LAG_SEC:.0f} s\n")
            sleep(LAG_SEC)
            books = exchange_books(settings, store, current.state)
        checks = verify(store, current, books, _progress)
    finally:
        store.close()
    for check in checks:
        _out(f"{'ok    ' if check.is_ok else 'FAILED'} {check.name}: {check.detail}")
    return EXIT_OK if all(check.is_ok for check in checks) else EXIT_FAILED


def _backup(args: argparse.Namespace, settings: config.Settings) -> int:
    from engine.model_files import copy_models  # noqa: PLC0415 - only this command needs them
    from store.candles import candles_db  # noqa: PLC0415
    from store.sqlite import backup  # noqa: PLC0415

    source: Path = settings.state_db
    pairs = {
        settings.paper_db(): config.paper_db(args.file),
        candles_db(source): candles_db(args.file),
    }
    pairs = {old: new for old, new in pairs.items() if old.exists()}
    backup(source, args.file, pairs)
    for file in (args.file, *pairs.values()):
        _out(f"{file}: {file.stat().st_size:,} bytes, integrity checked")
    if settings.params.hmm_enabled and not candles_db(source).exists():
        _out(f"{candles_db(source)}: not there, and not copied; its candles are fetched again")
    for file in copy_models(source, args.file):
        _out(f"{file}: a trained model")
    if pairs:
        _out("they belong together: restore all or none")
    return EXIT_OK


def _backfill(args: argparse.Namespace, settings: config.Settings) -> int:
    from engine.backfill import backfill  # noqa: PLC0415 - only this command needs numpy

    return backfill(args, settings)


def _status(_args: argparse.Namespace, settings: config.Settings) -> int:
    url = settings.page_url(settings.port) + "/api/status"
    token = settings.dashboard_token
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = requests.get(url, headers=headers, timeout=3)
        answer.raise_for_status()
        status = answer.json()
    except requests.HTTPError as error:
        answer = error.response
        wrong = "DASHBOARD_TOKEN is not the daemon's" if answer.status_code == 401 else answer.text
        sys.stderr.write(f"{url} answers {answer.status_code}: {wrong[:200]}\n")
        return EXIT_FAILED
    except (requests.RequestException, ValueError) as error:
        sys.stderr.write(f"No daemon answers at {url}: {type(error).__name__}. Is it running?\n")
        return EXIT_FAILED
    _out(json.dumps(status, indent=2, ensure_ascii=False))
    return EXIT_OK


def _export(args: argparse.Namespace, settings: config.Settings) -> int:
    store = open_store(settings, must_exist=True)
    try:
        state = _current(store).state
        if args.canonical:
            text = canonical_text(store, state)
            _out(text)
            sys.stderr.write(f"sha256 {digest(text)}\n")
        else:
            _out(json.dumps(canonical(store, state), indent=2, sort_keys=True))
    finally:
        store.close()
    return EXIT_OK


def _refold(_args: argparse.Namespace, settings: config.Settings) -> int:
    store = open_store(settings, must_exist=True)
    try:
        folded = refold(store, _progress)
    finally:
        store.close()
    _out(f"{'FAILED' if folded.differences else 'ok    '} {describe(folded)}")
    return EXIT_FAILED if folded.differences else EXIT_OK
