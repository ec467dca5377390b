"""Write the table of Kraken's errors into `docs/KRAKEN.md`, from the data the program uses."""

from pathlib import Path

from exchange.kraken_errors import TABLE_BEGIN, TABLE_END, error_table

DOCUMENT = Path(__file__).parent.parent / "docs" / "KRAKEN.md"


def main() -> None:
    """Replace what stands between the markers. Raises ValueError where there are none."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE_BEGIN)
    _, marker, after = rest.partition(TABLE_END)
    if not marker:
        raise ValueError(f"{DOCUMENT} lacks the markers {TABLE_BEGIN} and {TABLE_END}")
    DOCUMENT.write_text(before + error_table() + after, encoding="utf-8")
    print(f"{DOCUMENT.name} is written")


if __name__ == "__main__":
    main()
