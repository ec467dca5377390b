"""`/metrics` over a real socket, read by Prometheus' own parser."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.status import Published
from engine.loop import StepTimes
from tests.test_dashboard import TOKEN, World

GOLDEN = Path(__file__).parent / "golden"
Samples = dict[tuple[str, str], float]


@pytest.fixture(name="world")
def make_world() -> Iterator[World]:
    """Give a dashboard with a token that publishes the golden status."""
    world = World(token=TOKEN)
    publish(world, golden())
    yield world
    world.app.stop()


def golden(name: str = "status.json") -> dict[str, Any]:
    """Return a golden status."""
    status: dict[str, Any] = json.loads((GOLDEN / name).read_text())
    return status


def publish(world: World, status: dict[str, Any]) -> None:
    """Publish that status."""
    body = json.dumps(status).encode()
    world.published = Published(body=body, gzip_body=gzip.compress(body), etag='W/"g"', version=1)


def scrape(world: World) -> str:
    """Return what Prometheus reads."""
    status, headers, body = world.ask("GET", "/metrics", Authorization=f"Bearer {TOKEN}")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    return body.decode()


def samples(text: str) -> Samples:
    """Return the samples by name and label value; each series once."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, ",".join(sample.labels.values()))
            assert key not in found
            found[key] = sample.value
    return found


def test_status_is_told_in_base_units(world: World) -> None:
    """Money, shares of one, seconds, counters and states, each as the status says."""
    status, told = golden(), samples(scrape(world))
    equity, room = status["equity"], status["capacity_fill_health"]
    for name, value in (
        (("grid_equity_usd", ""), float(equity["equity"])),
        (("grid_cash_usd", ""), float(equity["cash"])),
        (("grid_drawdown_ratio", ""), float(equity["drawdown_pct"]) / 100),
        (("grid_price_usd", "bid"), float(status["market"]["bid"])),
        (("grid_market_data_age_seconds", ""), status["bot"]["now"] - status["market"]["time"]),
        (("grid_status_timestamp_seconds", ""), status["bot"]["published_wall"]),
        (("grid_open_orders", ""), room["open_orders"]),
        (("grid_orders_total", ""), room["orders"]),
        (("grid_partial_fills_total", ""), room["partial_fills"]),
        (("grid_orders_rejected_total", "post_only"), room["rejected"]["post_only"]),
        (("grid_journal_seq", ""), status["persistence"]["journal_seq"]),
        (("grid_mode", status["bot"]["mode"]), 1.0),
        (("grid_condition", "ok"), float(status["bot"]["condition"] == "ok")),
        (("grid_risk_level", "EMERGENCY"), 0.0),
        (("grid_exchange_status", "online"), 1.0),
        (("grid_up", ""), 1.0),
        (("grid_ready", ""), 1.0),
    ):
        assert told[name] == pytest.approx(value), name
    parts = [value for (name, _), value in told.items() if name == "grid_equity_change_usd"]
    assert len(parts) == 5
    assert sum(parts) == pytest.approx(float(equity["change"]["total"]))
    cycles = [value for (name, _), value in told.items() if name == "grid_cycles_total"]
    assert sum(cycles) == equity["economics"]["cycles"]
    locks = {label: value for (name, label), value in told.items() if name == "grid_lock"}
    held = {lock["name"] for lock in status["risk"]["locks"]}
    assert {name for name, value in locks.items() if value} == held
    assert len(locks) > len(held)


def test_names_and_types_follow_the_conventions(world: World) -> None:
    """Each has a help line, is ours or the process's, and only counters end in _total."""
    publish(world, full())
    families = list(text_string_to_metric_families(scrape(world)))
    assert len(families) > 60
    for family in families:
        assert family.name.startswith(("grid_", "process_"))
        assert len(family.documentation) > 3
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert len(sample.labels) <= 1 or sample.name == "grid_build_info"


def full() -> dict[str, Any]:
    """Return a status with account, replica, models and Kelly."""
    status = golden("status_regimes.json")
    status["exchange"]["account"] = {
        "foreign_orders": 2, "in_doubt": 1, "rest_used_pct": "40", "engine_used_pct": "12.5",
        "paused_until": None, "pause_reason": "", "last_error": "EAPI:Invalid key canary",
    }  # fmt: skip
    status["persistence"]["replica"] = {
        "is_checked": True, "queue": 7, "lag_sec": 3.5, "sent": 9, "dropped": 0, "attempts": 1,
        "last_error": "canary", "failing": [],
    }  # fmt: skip
    status["kelly"] = {"enabled": True, "multiplier_now": 0.75}
    status["exchange"]["status"] = "a word nobody knows"
    return status


def test_account_replica_and_models_are_told_where_they_are(world: World) -> None:
    """Blocks that are off have no samples; those that are on tell their numbers."""
    off = samples(scrape(world))
    publish(world, full())
    told = samples(scrape(world))
    for name, value in (
        (("grid_orders_in_doubt", ""), 1.0),
        (("grid_foreign_orders", ""), 2.0),
        (("grid_rate_budget_used_ratio", "engine"), 0.125),
        (("grid_replica_queue_rows", ""), 7.0),
        (("grid_replica_lag_seconds", ""), 3.5),
        (("grid_kelly_multiplier", ""), 0.75),
        (("grid_regime", "bullish"), 1.0),
        (("grid_exchange_status", "other"), 1.0),
        (("grid_exchange_status", "online"), 0.0),
    ):
        assert told[name] == value, name
        assert name not in off or name[0] == "grid_exchange_status"
    assert ("grid_regime_tier", "mechanical") in told


def test_the_oldest_order_in_doubt_has_an_age(world: World) -> None:
    """On an account; 0 while there is none, so that an alarm ends."""
    status = full()
    publish(world, status)
    assert samples(scrape(world))["grid_order_in_doubt_seconds", ""] == 0.0
    orders = [leg["order"] for slot in status["slots"] for leg in slot["legs"] if leg["order"]]
    for order, age in zip(orders, (40, 90), strict=False):
        order |= {"status": "uncertain", "placed_at": int(status["bot"]["now"]) - age}
    publish(world, status)
    assert samples(scrape(world))["grid_order_in_doubt_seconds", ""] == pytest.approx(90, abs=1)


def test_steps_and_disk_are_told(world: World, tmp_path: Path) -> None:
    """A histogram of what the loop took, the file with its log, and what is free beside it."""
    times, path = StepTimes(), tmp_path / "bot.db"
    for seconds in (0.0002, 0.001, 0.003, 7.0):
        times.note(seconds)
    world.app._step_times, world.app._state_db = lambda: times, path
    assert ("grid_database_bytes", "") in samples(scrape(world))
    path.write_bytes(b"x" * 100)
    (tmp_path / "bot.db-wal").write_bytes(b"x" * 11)
    told = samples(scrape(world))
    for bound, count in (("0.001", 2.0), ("0.0025", 2.0), ("0.005", 3.0), ("5.0", 3.0)):
        assert told["grid_step_seconds_bucket", bound] == count
    assert told["grid_step_seconds_bucket", "+Inf"] == told["grid_step_seconds_count", ""] == 4.0
    assert told["grid_step_seconds_sum", ""] == pytest.approx(7.0042)
    assert told["grid_database_bytes", ""] == 111.0
    assert told["grid_disk_free_bytes", ""] > 0
    world.app._state_db = tmp_path / "none" / "bot.db"
    assert ("grid_disk_free_bytes", "") not in samples(scrape(world))


def test_no_ids_and_no_words_of_others(world: World) -> None:
    """Order ids, error texts, events and the token never get out."""
    status = full()
    publish(world, status)
    text = scrape(world)
    ids = [leg["order"]["id"] for slot in status["slots"] for leg in slot["legs"] if leg["order"]]
    assert ids
    for secret in (*ids, "canary", TOKEN, status["recent_events"][0]["text"]):
        assert secret not in text


def test_before_the_first_status_the_process_is_told(world: World) -> None:
    """A monitor sees that the daemon lives but is not ready."""
    world.published, world.reason, world.is_alive = None, "the first price", False
    told = samples(scrape(world))
    assert told["process_resident_memory_bytes", ""] > 1e6
    assert (told["grid_ready", ""], told["grid_up", ""]) == (0.0, 0.0)
    assert not [name for name, _ in told if name.startswith(("grid_equity", "grid_mode"))]


def test_absent_values_have_no_sample(world: World) -> None:
    """Before the first price nothing is told as nought or NaN."""
    status = golden()
    status["equity"] |= {"equity": None, "inventory": None, "change": None, "holding": None}
    status["market"] |= {"bid": None, "ask": None, "time": None}
    publish(world, status)
    text = scrape(world)
    told = samples(text)
    assert ("grid_equity_usd", "") not in told
    assert ("grid_price_usd", "bid") not in told
    assert ("grid_market_data_age_seconds", "") not in told
    assert "NaN" not in text


def test_metrics_need_the_token(world: World) -> None:
    """Prometheus sends it as Bearer; page and health stay open."""
    assert world.ask("GET", "/metrics")[0] == 401
    assert world.ask("POST", "/metrics", {}, Authorization=f"Bearer {TOKEN}")[0] == 405
    assert world.ask("HEAD", "/metrics", Authorization=f"Bearer {TOKEN}")[2] == b""
