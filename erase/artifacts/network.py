"""Whether the network answers: asked once and briefly, before a library asks it again and again."""

import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable

PATIENCE = 4.0  # seconds: a name server or a server that never answers is given up


def failure(attempt: Callable[[], object]) -> str | None:
    """Why `attempt` failed, in few words; None where it did not.

    One that is not done after PATIENCE has failed too: it goes on in a thread that nobody waits
    for, since looking up a name cannot be broken off.
    """
    said: list[str | None] = []

    def run() -> None:
        try:
            attempt()
        except Exception as error:  # whatever the network's many libraries raise
            said.append(str(error).split(" (")[0].strip() or type(error).__name__)
        else:
            said.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return said[0] if said else f"no answer within {PATIENCE:.0f} seconds"


def connection_failure(url: str) -> str | None:
    """Why nothing can be fetched from an address, or its proxy; None where something answers."""
    where = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(where.scheme)
    if proxy and not urllib.request.proxy_bypass(where.hostname or ""):
        where = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = where.port or (443 if where.scheme == "https" else 80)

    def connect() -> None:
        socket.create_connection((where.hostname or "", port), timeout=PATIENCE - 1).close()

    return failure(connect)
