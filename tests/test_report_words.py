"""What a backtest's report says in words: the outcome first, and why there is none."""

import re
from pathlib import Path

import pytest

from market.columns import ColumnSource
from sim import report, report_tables
from sim.cases import PRESETS, Case, Findings, own_matching, run_case
from sim.coverage import Coverage, coverage
from sim.metrics import Trials
from sim.observed import RegimeWatch
from sim.report_words import WORDS, days_words, headline, idle_words, spacing_words
from sim.verdict import BETTER, Verdict
from tests.test_coverage import hours, write_days
from tests.test_skipping import LIVELY, settings_of

HEAD = {"data": "a market"}


def case_of(folder: Path, name: str = "default", **more: str) -> Case:
    """Run the market of a folder once."""
    path = folder / "market.csv"
    settings = settings_of(folder, path, **{**LIVELY, **more})
    return run_case(name, settings, ColumnSource(path), own_matching(settings, name))


@pytest.fixture(name="found", scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Return a few hours under both presets."""
    folder = tmp_path_factory.mktemp("words")
    write_days(folder / "market.csv", (0.2, 0.7))
    cases = tuple(case_of(folder, x) for x in PRESETS)
    return Findings(cases, (), (), Trials(count=0, variance=0.0))


def test_the_outcome_is_said_first(found: Findings) -> None:
    """Both presets beside holding and USD, the days, the verdict; nowhere a promise."""
    said = headline(found)
    for line, case in zip(said, found.cases, strict=False):
        own = report_tables.figures(case.observed, case.comparison.fixed.equity).total_return
        assert own is not None
        assert f"Under {case.name}, fixed sizes made {100 * own:+.2f} % in 11.9 h" in line
        assert "(0 whole days with prices)" in line
        assert "USD (0 %)" in line
    assert said[2].startswith("0 whole UTC days with prices: volatility, ratios and intervals need")
    assert said[-1].startswith("Cannot tell whether Kelly's sizes would have been better or worse")
    assert report.short(HEAD, found).startswith("\n".join(said))


def test_a_verdict_is_said_by_its_sizing_and_preset(found: Findings) -> None:
    """What one preset says is not what both say."""
    first, second = found.cases
    better = Verdict(word=BETTER, sentence="BETTER: x.", days=30)
    said = headline(
        found._replace(cases=(first._replace(verdicts=(better, *first.verdicts[1:])), second))
    )
    assert "Kelly aggregate, under default: BETTER than fixed sizes as large; no promise." in said
    assert said[-1].startswith("Cannot tell whether the other sizes of Kelly would")


def test_every_verdict_stands_in_plain_words_below_its_table(found: Findings) -> None:
    """As in the JSON."""
    table = report.tables(found)[0]
    assert table.sentences == tuple(x.sentence for x in found.cases[0].verdicts)
    assert all(x in report.short(HEAD, found) for x in table.sentences)


def test_data_too_coarse_mark_every_table(found: Findings) -> None:
    """Not the head alone."""
    first = found.cases[0]
    assert first.spacing is not None
    coarse = first._replace(spacing=first.spacing._replace(to_exit=1.2), verdicts=())
    made = report.tables(found._replace(cases=(coarse, found.cases[1])))
    assert len(made) > 8
    assert all(x.title.endswith(" (needs finer data)") for x in made)
    assert not any("finer" in x.title for x in report.tables(found))
    assert "No verdict on Kelly's sizes" in headline(found._replace(cases=(coarse,)))[-1]


def test_stress_that_changed_no_fill_says_so(found: Findings) -> None:
    """It is not robustness; what did change a fill says nothing of the kind."""
    first = found.cases[0]
    other = first._replace(
        name="other", observed=first.observed._replace(
            fills=first.observed.fills._replace(cycles=first.observed.fills.cycles[1:])
        ),
    )  # fmt: skip
    table = report_tables.stress([first, first._replace(name="same"), other])
    assert [x[-1] for x in table.rows] == ["", "nothing changed in the fills", ""]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"PAPER_START_QUOTE": "1", "PAPER_START_BASE_USD": "1"},
         "no order was placed; what kept entries back: not enough free funds."),
        ({"ORDER_SIZE_USD": "4"}, "what kept entries back: the order would be below the exchange"),
        ({"PAIR_ENTRY_PCT": "15", "PAIR_REFRESH_PCT": "15"}, "placed, the price reached none."),
    ],
)  # fmt: skip
def test_a_run_without_a_trade_says_why(tmp_path: Path, more: dict[str, str], words: str) -> None:
    """By what the daemon counted."""
    write_days(tmp_path / "market.csv", (0.2, 0.3))
    said = idle_words(case_of(tmp_path, **more))
    assert said is not None
    assert said.startswith("No order was filled under default: ")
    assert words in said


def test_a_run_with_cycles_needs_no_excuse(found: Findings) -> None:
    """And one with fills alone says what is open."""
    first = found.cases[0]
    assert first.observed.fills.cycles
    assert idle_words(first) is None
    fills = first.observed.fills._replace(cycles=(), held=first.observed.fills.held[:1])
    said = idle_words(first._replace(observed=first.observed._replace(fills=fills)))
    assert said is not None
    assert said.startswith("No cycle was completed under default: ")


@pytest.mark.parametrize(
    ("closes", "words"),
    [
        (["0.1"] * 2, "not known: 2 bars are too few"),
        (["0.1"] * 9, "not known: all bars end at the same price"),
    ],
)
def test_a_spacing_that_is_not_known_says_why(
    tmp_path: Path, closes: list[str], words: str
) -> None:
    """Bars there are."""
    rows = [f"{1_700_006_400 + 60 * n},{x},{x},{x},{x},9" for n, x in enumerate(closes)]
    path = tmp_path / "market.csv"
    path.write_text("\n".join(["time,open,high,low,close,volume", *rows]))
    assert spacing_words(case_of(tmp_path).spacing, ColumnSource(path)) == words


def test_a_bar_that_makes_most_of_the_variance_is_named(tmp_path: Path) -> None:
    """One false print of ten times the price: the bar, its move, the ratio without; no verdict."""
    path = tmp_path / "market.csv"
    write_days(path, (0, 1), bar_sec=300)
    before = case_of(tmp_path).spacing
    lines = path.read_text().splitlines()
    cells = lines[151].split(",")
    cells[2], cells[4] = (f"{10 * float(cells[n]):.7f}" for n in (4, 4))
    path.write_text("\n".join([*lines[:151], ",".join(cells), *lines[152:]]))
    case = case_of(tmp_path)
    assert before is not None
    assert case.spacing is not None
    assert before.heavy == ()
    assert case.spacing.to_exit_without == pytest.approx(before.to_exit, rel=0.02)
    assert case.verdicts == ()
    said = spacing_words(case.spacing, ColumnSource(path))
    assert "needs finer data" in said
    assert re.search(r"2 bars, closed \(UTC\): 2023-11-15 12:35 \+8\d\d\.\d %, 2023-11-15 12:40 "
                     r"-9\d\.\d %; without them the exit is 4\.\d dev", said)  # fmt: skip


def test_what_a_gap_moved_by_is_no_bars_move(tmp_path: Path) -> None:
    """A price that has doubled over a gap makes bars no wilder."""
    path = tmp_path / "market.csv"
    write_days(path, (0, 0.5))
    before = case_of(tmp_path).spacing
    last = path.read_text().splitlines()[-1].split(",")
    row = [f"{float(last[0]) + 86_400:.0f}", *(f"{2 * float(x):.7f}" for x in last[1:5]), "9"]
    with path.open("a") as out:
        out.write(",".join(row) + "\n")
    after = case_of(tmp_path).spacing
    assert before is not None
    assert after == before


def test_the_head_says_which_days_gaps_take_away() -> None:
    """Their number, the longest, the days; one is one."""
    spans = [(0.0, 1.5), (11.5, 13.0), (13.0 + 2 / 24, 15.0)]
    assert days_words(coverage(hours(*spans)), 3) == (
        "3 whole UTC days with prices in 23 hours or more; 2 stretches of an hour or more without, "
        "the longest 240 hours; 12 days they take away: 2023-11-16 to 2023-11-26, 2023-11-28"
    )
    assert days_words(Coverage(frozenset({1}), (), 1, 1), 1) == (
        "1 whole UTC day with prices in 23 hours or more; 1 stretch of an hour or more without, "
        "the longest 1 hour: no day is lost"
    )


@pytest.mark.slow
def test_the_page_has_every_title_once_and_explains_its_words(
    found: Findings, tmp_path: Path
) -> None:
    """Bands of regimes have a legend; nothing is loaded."""
    watch = RegimeWatch()
    start = found.cases[0].observed.fills.mark_times[0]
    watch.times, watch.labels = [start, start + 3_600, start + 7_200], [0, 2, None]
    cases = tuple(x._replace(regimes=watch) for x in found.cases)
    report.write(tmp_path, HEAD, found._replace(cases=cases))
    page = (tmp_path / "report.html").read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(titles) == len(set(titles))
    assert titles[-1] == "Words"
    assert all(f"<dt>{word}</dt>" in page for word, _ in WORDS)
    assert "band: bearish" in page
    assert "band: bullish" in page
    assert "band: ranging" not in page
    assert "http" not in page
