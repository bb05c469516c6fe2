"""The library's training worker with its log sent through Dagster Pipes: ``python -m
harness_resources.worker``.

Takes the same arguments as ``python -m reward_harness.training.worker`` and does the same; outside
Dagster use that one.
"""

import logging
import os
import sys

from dagster_pipes import PipesContext, open_dagster_pipes

from reward_harness.training import worker

LEVELS = {logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}


class PipesHandler(logging.Handler):
    """Sends the library's log records to the run's log."""

    def __init__(self, pipes: PipesContext) -> None:
        super().__init__(logging.INFO)
        self.pipes = pipes

    def emit(self, record: logging.LogRecord) -> None:
        """Forward one record at its own level."""
        getattr(self.pipes.log, LEVELS.get(record.levelno, "info"))(self.format(record))


def main() -> int:
    """Run the worker; rank 0 alone opens the session."""
    if os.environ.get("RANK", "0") != "0":
        return worker.main()
    with open_dagster_pipes() as pipes:
        logger = logging.getLogger("reward_harness")
        logger.setLevel(logging.INFO)
        logger.addHandler(PipesHandler(pipes))
        logging.getLogger(worker.__name__).setLevel(logging.WARNING)  # steps: the launcher's
        return worker.main()


if __name__ == "__main__":
    sys.exit(main())
