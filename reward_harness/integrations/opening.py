"""Where a trainer's reward comes from: a server, or an artifact in this process."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from reward_harness.errors import SpecError
from reward_harness.rewards.base import BaseRM
from reward_harness.rewards.load import load_rm
from reward_harness.rewards.remote import RemoteRM

URL_ENV = "HARNESS_REWARD_URL"
FOLDER_ENV = "HARNESS_REWARD_FOLDER"
KEY_ENV = "HARNESS_SERVER_KEY"


def open_reward(
    url: str | None = None,
    folder: Path | str | None = None,
    *,
    key: str | None = None,
    expect_digest: str | None = None,
    device: str = "cpu",
) -> BaseRM:
    """The reward at ``url`` or in ``folder``; ``SpecError`` for none, both, or another artifact."""
    if (url is None) == (folder is None):
        raise SpecError(
            "a reward needs one source", expected="a server's url or an artifact folder"
        )
    if url is not None:
        return RemoteRM(url, key, expect_digest=expect_digest)
    rm = load_rm(Path(str(folder)), device)
    if expect_digest is not None and rm.digest != expect_digest:
        raise SpecError(
            "not the artifact that was asked for",
            where=str(folder),
            got=rm.digest,
            expected=expect_digest,
        )
    return rm


def reward_of_process(
    url: str | None = None,
    folder: str | None = None,
    key: str | None = None,
    expect_digest: str | None = None,
) -> BaseRM:
    """One reward for all calls of a process; what is not given comes from the environment.

    ``HARNESS_REWARD_URL`` or ``HARNESS_REWARD_FOLDER``, and ``HARNESS_SERVER_KEY``.
    """
    if url is None and folder is None:
        url, folder = os.environ.get(URL_ENV), os.environ.get(FOLDER_ENV)
        if url is None and folder is None:
            raise SpecError(
                "which reward?", expected=f"url or folder, or {URL_ENV} or {FOLDER_ENV} set"
            )
    return _opened(url, folder, key or os.environ.get(KEY_ENV), expect_digest)


@lru_cache(maxsize=8)
def _opened(
    url: str | None, folder: str | None, key: str | None, expect_digest: str | None
) -> BaseRM:
    return open_reward(url, folder, key=key, expect_digest=expect_digest)
