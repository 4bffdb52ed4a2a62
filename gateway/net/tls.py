"""OpenSSL is loaded only where TLS is configured: five megabytes that a plain road does without. Must not import ssl.

Python's asyncio, paho and hmac take ssl along where it is there, and do without where it is not. So a process whose
configuration nowhere speaks of TLS declares it absent before any of them is imported (`sys.modules[name] = None`, which
Python's import system documents). A configuration that is read later and wants it brings it back.
"""

from __future__ import annotations

import importlib
import re
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl
    from pathlib import Path
    from typing import TypeGuard

# All ways in which a configuration can ask for TLS have one of these in them; a comment that does costs memory only.
_WORDS: Final = re.compile(r"https:|mqtts:|wss:|\btls\b|_file\b", re.IGNORECASE)
# hashlib and hmac have their own code for what OpenSSL's is missing.
_MODULES: Final = ("ssl", "_ssl", "_hashlib")
# Loaded without ssl these lack classes, or have made a tuple of its errors; in the order in which they need each other.
_LACKING: Final = ("asyncio.sslproto", "http.client", "urllib.request")


def certificate_advice(why: str, *, named: str, whose: str) -> str:
    """Say what to do about a far side's certificate that OpenSSL does not accept, by its own words.

    `named` says where a configuration names the far side, `whose` part of it has the authority to be trusted.

    >>> certificate_advice("unable to get local issuer certificate", named="the host in endpoint", whose="uplink")
    'name the authority that signed it with tls.ca_file of this uplink'
    """
    if "not yet valid" in why or "expired" in why:
        return "is this box's clock right?"
    if "mismatch" in why:
        return f"name {named} as its certificate does"
    return f"name the authority that signed it with tls.ca_file of this {whose}"


def mentions_tls(text: str) -> bool:
    """Return whether a configuration may want TLS.

    >>> mentions_tls('endpoint = "http://otel"'), mentions_tls('endpoint = "https://otel"')
    (False, True)
    """
    return _WORDS.search(text) is not None


def may_want_tls(path: Path) -> bool:
    """Return whether a configuration file does; not one that cannot be read, which its loading says in words."""
    try:
        return mentions_tls(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def leave_out() -> bool:
    """Keep OpenSSL from being loaded from here on; return False where it is there already."""
    if any(sys.modules.get(name) is not None for name in _MODULES):
        return False
    absent: dict[str, None] = dict.fromkeys(_MODULES)
    sys.modules.update(absent)  # type: ignore[arg-type]
    return True


def is_left_out() -> bool:
    """Return whether `leave_out` has been done."""
    return "ssl" in sys.modules and sys.modules["ssl"] is None


def bring_back() -> None:
    """Load OpenSSL after all, for a configuration that wants it now, and hand it to those who did without."""
    if not is_left_out():
        return
    for name in _MODULES:
        del sys.modules[name]
    ssl = importlib.import_module("ssl")
    for module in list(sys.modules.values()):
        # What `try: import ssl` leaves where there is none: asyncio, paho and others all do it so.
        if getattr(module, "__dict__", {}).get("ssl", ssl) is None:
            vars(module)["ssl"] = ssl
    for name in _LACKING:
        lacking = sys.modules.get(name)
        if lacking is not None:
            importlib.reload(lacking)


def is_tls_error(error: BaseException | None) -> TypeGuard[ssl.SSLError]:
    """Return whether an error is OpenSSL's, without loading it to ask."""
    module = sys.modules.get("ssl")
    return module is not None and isinstance(error, module.SSLError)


def is_waiting(error: OSError) -> bool:
    """Return whether a socket that does not block, plain or TLS, has nothing now and may have later."""
    if isinstance(error, BlockingIOError):
        return True
    module = sys.modules.get("ssl")
    return module is not None and isinstance(error, module.SSLWantReadError | module.SSLWantWriteError)
