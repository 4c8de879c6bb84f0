"""What it means to a site when a call to its coordinator fails, in words that help."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
from flwr.supercore.error import ApiErrorCode

from clients.supernode.answers import flower_error

_UNAUTHORIZED: Final = 401


class NotEnrolledError(Exception):
    """The coordinator does not know this node, or no longer; the text says what it answered."""


class RunOverError(Exception):
    """The run that a message belongs to has ended."""


def transport_reason(error: httpx.TransportError) -> tuple[str, bool]:
    """Why a call did not get through, and whether waiting alone will not help."""
    text = str(error)
    for sign, reason in _TLS_REASONS.items():
        if sign in text:
            return reason, True
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        # In TLS 1.3 a client learns of its refusal after its handshake, or not at all.
        return (
            "the coordinator closes the connection; if that goes on, it does not accept this "
            "site's certificate: taken off the roster, or expired",
            False,
        )
    return f"no connection to the coordinator ({text or type(error).__name__})", False


_TLS_REASONS: Final = {
    "CERTIFICATE_VERIFY_FAILED": "the coordinator's certificate is not valid here: see "
    "server.address and server.authority, and this machine's clock",
    "UNKNOWN_CA": "the coordinator does not accept this site's certificate: it is not, or no "
    "longer, among those it was told of",
    "CERTIFICATE_EXPIRED": "this site's certificate has expired: make a new identity, and send "
    "its public half to the coordinator",
    "CERTIFICATE_REQUIRED": "the coordinator asks for a certificate",
}


def refusal(response: httpx.Response) -> Exception:
    """What a coordinator's no means."""
    flower = flower_error(response.content)
    if response.status_code == _UNAUTHORIZED:
        return NotEnrolledError(
            f"the coordinator does not recognise this node{_clock_remark(response)}"
        )
    if flower is None:
        return NotEnrolledError(f"the coordinator answered {response.status_code}")
    if flower.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return NotEnrolledError(
            "the coordinator does not take this node: another process is online under its key, as "
            "from a copy of this site's folder, or its key is not enrolled"
        )
    return RunOverError(flower.message)


def _clock_remark(response: httpx.Response) -> str:
    """Flower's node authentication signs the time: a clock that is wrong looks like a wrong key."""
    try:
        ahead = time.time() - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return ""
    if abs(ahead) < 5:
        return ""
    way = "ahead of" if ahead > 0 else "behind"
    return f"; this machine's clock is {abs(ahead):.0f} seconds {way} the coordinator's"
