"""Run a command that ends when whoever started it does, however that dies: ``tied.py COMMAND …``.

The starter holds the other end of standard input. Once that is closed, the whole process group is
asked to end and, after a grace period, made to. To be started in a session of its own.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

GRACE_S = 10.0
POLL_S = 0.2


def main() -> int:
    """The command's exit code; with the starter gone, this process is killed with the rest."""
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is asked to end below is all but this
    while (code := command.poll()) is None:
        closed, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if closed:
            os.killpg(0, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                command.wait(GRACE_S)
            os.killpg(0, signal.SIGKILL)
    return code


if __name__ == "__main__":
    sys.exit(main())
