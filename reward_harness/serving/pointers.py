"""How to point a trainer at a running server: the lines that ``harness serve`` prints.

The key is named by its variable, never shown. Trainers' own clients send no header, so their
addresses carry it as the password of Basic.
"""

from __future__ import annotations


def pointers(url: str, key_env: str | None) -> list[str]:
    """Lines for TRL, verl and OpenRLHF; ``key_env`` is the variable with the key, None for none."""
    with_key = url.replace("://", f"://trainer:${key_env}@") if key_env else url
    argument = f', key=os.environ["{key_env}"]' if key_env else ""
    verl = "reward.custom_reward_function"
    shell_url = f'"{with_key}/get_reward"' if key_env else f"{url}/get_reward"
    keyed = [f'    +{verl}.reward_kwargs.key="${key_env}"'] if key_env else []
    return [
        "TRL, in Python:",
        "    from reward_harness.integrations.trl import RewardFunction",
        f'    GRPOTrainer(reward_funcs=RewardFunction(url="{url}"{argument}), ...)',
        "verl, on its command line (rows need extra_info.prompt):",
        f"    {verl}.path=pkg://reward_harness.integrations.verl",
        f"    {verl}.name=compute_score",
        f"    +{verl}.reward_kwargs.url={url}",
        *keyed,
        "OpenRLHF, on its command line:",
        f"    --reward.remote_url {shell_url}",
        "vLLM, TEI, LLaMA-Factory and slime clients: docs/trainers.md",
    ]
