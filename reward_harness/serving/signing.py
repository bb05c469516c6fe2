"""Signed scores: who has the key can prove later which artifact gave which text which score.

The signature is the hex HMAC-SHA256 (RFC 2104) of four lines: request id, artifact digest, content
hash, and the score as JSON writes it. The content hash is the sha256 of the canonical JSON of the
conversation's ``[{content, role}, …]``.
"""

from __future__ import annotations

import hashlib
import hmac
import json

from reward_harness.hashing import digest_json
from reward_harness.rewards.base import Conversation


def content_hash(conversation: Conversation) -> str:
    """What is signed of the text: its hash, so that a signature gives none of it away."""
    return digest_json([{"role": m["role"], "content": m["content"]} for m in conversation])


def sign(key: str, request_id: str, digest: str, content: str, score: float) -> str:
    """The signature of one score; ``content`` is its conversation's hash."""
    lines = "\n".join((request_id, digest, content, json.dumps(score)))
    return hmac.new(key.encode(), lines.encode(), hashlib.sha256).hexdigest()


def verify(
    signature: str, key: str, request_id: str, digest: str, content: str, score: float
) -> bool:
    """Whether ``signature`` is that of these four, compared in constant time."""
    expected = sign(key, request_id, digest, content, score)
    return hmac.compare_digest(signature.encode(), expected.encode())
