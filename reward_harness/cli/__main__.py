"""``python -m reward_harness.cli`` is the ``harness`` command."""

from reward_harness.cli import main

main()
