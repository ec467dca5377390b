"""Which host an address names, and whether that is this machine. Pure: no name is looked up."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def host_of(url: str) -> str:
    """Return the host of an address, "" where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_here(host: str) -> bool:
    """Tell whether a host is this machine by its name or number."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_link_local(host: str) -> bool:
    """Tell whether a host is the number of a cloud machine's own metadata, or alike."""
    try:
        return ip_address(host).is_link_local
    except ValueError:
        return False
