"""The commands ``python -m reward_harness.rl.<command>`` of the original harness; each is one of
``harness runs`` with the original's flags.
"""
