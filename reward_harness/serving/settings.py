"""What a scoring server is told: limits, key, log; and the rules for where it may listen."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from reward_harness.errors import SpecError


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond the first three the answer is 413, beyond ``in_flight`` 429, after ``read_s`` 408."""

    body_bytes: int = 16 * 1024 * 1024
    batch_items: int = 1024
    text_chars: int = 200_000
    in_flight: int = 256
    read_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """``key`` None means that anyone who reaches the port may ask.

    ``sign_key``: answers of the native routes carry an HMAC (``signing``). ``audit_bodies``: the
    audit log keeps what was asked, texts included.
    """

    key: str | None = None
    limits: Limits = Limits()
    audit_log: Path | None = None
    audit_bodies: bool = False
    sign_key: str | None = None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_safe_bind(host: str, key: str | None, key_env: str, insecure: bool) -> None:
    """``SpecError`` for a server that others could reach and that asks for no key."""
    if is_loopback(host) or key or insecure:
        return
    raise SpecError(
        "a server that other machines can reach needs a key",
        where=f"--host {host}",
        got=f"no key in {key_env}",
        fix=f"Set {key_env}, bind 127.0.0.1, or pass --insecure if the network is trusted.",
    )


def authorized(header: str | None, key: str | None) -> bool:
    """Whether an Authorization header carries the key, as Bearer or as the password of Basic.

    Trainers' clients send no header of their own, but ``http://any:KEY@host`` makes them send
    Basic.
    """
    if key is None:
        return True
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() == "bearer":
        return _same(value.strip(), key)
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return _same(decoded.partition(":")[2], key)
    return False


def _same(given: str, key: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode(), key.encode())
