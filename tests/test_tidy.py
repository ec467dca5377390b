"""The tree keeps its shape: layers, sizes, banned calls, links, words."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from benchmarks.peers_engines import ENGINES
from core.commands import ACTION_NAMES
from core.state import LockName
from engine.version import RULES

ROOT = Path(__file__).parent.parent
FUNCTION_MAX, MODULE_MAX, BOT_MAX = 60, 600, 350
DECISIONS = ("state_machine", "leg", "grid_strategy", "regime_policy", "risk", "accounting", "grid")
MODELS = (
    "kelly_sizer", "kelly_bankroll", "kelly_samples", "hmm_regime_detector", "regime",
    "ai_advisor", "win_probability",
)  # fmt: skip
PURE = ("core", *DECISIONS, *MODELS)
PROGRAMS = (
    "bot.py",
    "engine/backfill.py",
    "engine/candle_history.py",
    "engine/cli.py",
    "engine/counter.py",
    "engine/live.py",
    "engine/live_books.py",
    "engine/models.py",
    "engine/replication.py",
    "engine/restore.py",
    "engine/second_opinion.py",
    "engine/wiring.py",
    "sim/",
    "tools/",
    "benchmarks/",
    "tests/",
)
ADAPTERS = ("exchange", "store", "market", "web", "dashboard")
OWN = (*PURE, "config", "settings", "engine", *ADAPTERS, "bot", "sim", "tools", "benchmarks")
SOCKETS = {
    "exchange/kraken.py", "exchange/sandbox.py", "market/public.py", "store/supabase.py",
    "engine/llm.py", "engine/notify.py", "dashboard.py", "engine/cli.py",
}  # fmt: skip
CALLED = {
    "dotenv": "python-dotenv", "kraken": "python-kraken-sdk",
    "prometheus_client": "prometheus-client", "sqlalchemy": "SQLAlchemy",
}  # fmt: skip
BOUNDARIES = {
    "bot.py", "web/connection.py", "engine/publish.py", "engine/notify.py", "engine/telegram.py",
    "engine/trainer.py",
    "engine/advisor.py", "exchange/kraken_exchange.py", "regime/worker.py", "store/replica.py",
    "store/candle_replica.py", "web/stream.py", "sim/storm_run.py",
}  # fmt: skip


def tracked() -> list[str]:
    """Return the tracked and new files of the tree."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return [name for name in names.splitlines() if (ROOT / name).is_file()]


MODULES = [name for name in tracked() if name.endswith(".py")]


@cache
def tree(name: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse((ROOT / name).read_text())


def imports(name: str) -> Iterator[str]:
    """Yield the modules that a module imports."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def packages(name: str) -> set[str]:
    """Return the packages of others that a module imports, by the names they are pinned by."""
    tops = {x.split(".")[0] for x in imports(name)}
    return {CALLED.get(x, x) for x in tops - sys.stdlib_module_names - {*OWN, "tests"}}


def pinned(name: str) -> set[str]:
    """Return the packages that a list of requirements pins."""
    return set(
        re.findall(r"^([\w-]+)(?:\[\w+\])?==[\w.]+$", (ROOT / name).read_text(), re.MULTILINE)
    )


def calls(name: str) -> Iterator[str]:
    """Yield dotted names that a module uses, such as time.time."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def check_layers(name: str) -> None:
    """Imports point one way: core, decisions, runtime, adapters, programs."""
    if name.startswith(PROGRAMS):
        return
    top = name.split("/", maxsplit=1)[0].removesuffix(".py")
    allowed: tuple[str, ...] = PURE
    if top == "core":
        allowed = ("core",)
    elif top in DECISIONS:
        allowed = ("core", *DECISIONS)
    elif top in MODELS:
        allowed = ("core", *MODELS)
    elif top == "engine":
        allowed = (*PURE, "engine")
    elif top in ("config", "settings"):
        allowed = (*PURE, "settings")
    elif top == "dashboard":
        allowed = (*PURE, "web")
    elif top in ADAPTERS:
        allowed = (*PURE, top)
    own = [x for x in imports(name) if x.split(".")[0] in OWN]
    wrong = [x for x in own if x.split(".")[0] not in allowed]
    assert wrong == []


def check_sizes_and_docstrings(name: str) -> None:
    """Functions up to 60 lines, modules up to 600, a docstring in each module."""
    lines = (ROOT / name).read_text().count("\n")
    assert lines <= (BOT_MAX if name == "bot.py" else MODULE_MAX)
    parsed = tree(name)
    assert ast.get_docstring(parsed)
    long = [
        node.name
        for node in ast.walk(parsed)
        if isinstance(node, ast.FunctionDef)
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_MAX
    ]
    assert long == []


def check_time_environment_chance_and_sockets_have_one_home(name: str) -> None:
    """Clocks, the environment, randomness and sockets only where the architecture says."""
    used = set(calls(name))
    if name != "engine/clock.py" and not name.startswith("benchmarks/"):
        assert not {x for x in used if x in ("time.time", "time.monotonic", "time.sleep")}
        assert not {x for x in used if x in ("datetime.now", "datetime.utcnow", "date.today")}
    if name not in ("config.py", "bot.py") and not name.startswith("benchmarks/"):
        assert "os.environ" not in used
    drawn = {x for x in used if x.startswith("random.") and x != "random.Random"}
    assert not {x for x in drawn if not x.startswith("random.Random")} or name.startswith("tests/")
    found = {x.split(".")[0] for x in imports(name)}
    if name not in SOCKETS and not name.startswith("benchmarks/"):
        assert not found & {"socket", "requests", "urllib3", "krakenex", "http"} or name.startswith(
            "web/"
        )


def test_every_decision_counts_for_the_version_of_the_rules() -> None:
    """A journal is folded by the rules it was made with: all of them are in their digest."""
    counted = {p.relative_to(ROOT).as_posix() for x in RULES for p in ROOT.glob(x)}
    wanted = {x for x in MODULES if x.split("/")[0].removesuffix(".py") in ("core", *DECISIONS)}
    assert wanted <= counted


def check_broad_exception_handlers_stand_at_boundaries_only(name: str) -> None:
    """`except Exception` only at the top of the program, a worker, a request."""
    broad = [
        node
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ExceptHandler)
        and isinstance(node.type, ast.Name)
        and node.type.id == "Exception"
    ]
    assert not broad or name in BOUNDARIES


def check_every_package_that_is_imported_is_pinned(name: str) -> None:
    """What runs needs `requirements.txt` alone; research, tests, tools and benchmarks need more."""
    allowed = pinned("requirements.txt")
    if name.startswith("sim/"):
        allowed |= pinned("requirements-research.txt")
    if name.startswith(("tests/", "tools/", "benchmarks/")):
        allowed |= pinned("requirements-dev.txt") | pinned("requirements-research.txt")
    if name.startswith("benchmarks/peers_"):  # each in an environment of its own
        allowed |= {pin.split("==")[0] for engine in ENGINES for pin in engine.pins}
    if name == "regime/fast.py":
        allowed |= pinned("requirements-fast.txt")
    assert packages(name) <= allowed


OWN_MODULES = [x for x in MODULES if not x.startswith("tests/")]


@pytest.mark.parametrize(
    ("check", "names"),
    [
        (check_layers, MODULES),
        (check_sizes_and_docstrings, MODULES),
        (check_time_environment_chance_and_sockets_have_one_home, OWN_MODULES),
        (check_broad_exception_handlers_stand_at_boundaries_only, OWN_MODULES),
        (check_every_package_that_is_imported_is_pinned, MODULES),
    ],
)
def test_every_module_keeps_its_shape(check: Callable[[str], None], names: list[str]) -> None:
    """Each of these checks holds for every module."""
    wrong = []
    for name in names:
        try:
            check(name)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_package_that_is_pinned_is_explained() -> None:
    """Each has its line in the document."""
    text = (ROOT / "docs" / "DEPENDENCIES.md").read_text()
    told = {x for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for x in row.split(", ")}
    lists = (f"requirements{x}.txt" for x in ("", "-research", "-dev", "-fast"))
    assert set().union(*map(pinned, lists)) <= told


def test_links_in_documents_lead_somewhere() -> None:
    """Every relative link of every document exists."""
    missing = []
    for name in tracked():
        if name.endswith(".md"):
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / name).read_text()):
                if (
                    not target.startswith("http")
                    and not (ROOT / name).parent.joinpath(target).exists()
                ):
                    missing.append(f"{name}: {target}")
    assert missing == []


def test_no_unfinished_business() -> None:
    """No reminders and no paths of a machine in tracked text."""
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b|/ho" + r"me/|/ro" + r"ot/")
    found = []
    for name in tracked():
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {x.group()}" for x in words.finditer(text)]
    assert found == []


def test_the_fixed_files_are_at_the_top() -> None:
    """What the user fixed stands where it was fixed, as far as it is built."""
    for name in (
        "bot.py", "state_machine.py", "grid_strategy.py", "config.py", "dashboard.py",
        ".env.example", "requirements.txt", "README.md", "CHANGELOG.md", ".ci/run", "Makefile",
    ):  # fmt: skip
        assert (ROOT / name).exists()
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_every_action_is_in_the_operators_document() -> None:
    """What the program asks an operator to do, the document says how."""
    text = (ROOT / "docs" / "OPERATION.md").read_text()
    for name in ACTION_NAMES:
        assert f"`{name}`" in text, name
    for lock in (LockName.RECONCILIATION, LockName.SAFETY, LockName.FUNDS, LockName.DAILY_LOSS):
        assert f"Locked ({lock})" in text
