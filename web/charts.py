"""The chart library of the page: one file of the package `litecharts`, kept packed in memory.

Of the package nothing else is used, and it is never imported; the file's digest is known.
"""

import gzip
import hashlib
import logging
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from core.record import Record

log = logging.getLogger("charts")

CHARTS_SHA256 = "756b0ba9f58930226d6b8b9d47ad310448ab85d799ea1f7c2c02304777c10b52"
_FILE = Path("js") / "lightweight-charts.js"
_LEVEL = 9


class Charts(Record, frozen=True, kw_only=True):
    """The script, plain and packed."""

    body: bytes
    gzip_body: bytes
    etag: str


@cache
def read_charts(package: str = "litecharts") -> Charts | None:
    """Return the script, read once; None with a warning where it is not the one we know."""
    spec = find_spec(package)
    for folder in () if spec is None else spec.submodule_search_locations or ():
        try:
            body = (Path(folder) / _FILE).read_bytes()
        except OSError:
            continue
        digest = hashlib.sha256(body).hexdigest()
        if digest == CHARTS_SHA256:
            packed = gzip.compress(body, _LEVEL, mtime=0)
            return Charts(body=body, gzip_body=packed, etag=f'W/"{digest[:32]}"')
    log.warning(
        "the page has no charts: %s is missing or not the version that is pinned; run: "
        "python -m pip install -r requirements.txt",
        package,
    )
    return None
