"""Resource ``llm``: spend caps of LLM assets. Endpoint and models are hyper-parameters and stay in
the experiment.
"""

import dagster as dg
from pydantic import Field


class LLM(dg.ConfigurableResource):
    """Caps for one run; they can only lower what the experiment allows. The key is read from its
    variable alone.
    """

    max_calls: int | None = Field(
        default=None, description="stop, resumable, after this many paid calls"
    )
    max_tokens: int | None = Field(
        default=None, description="stop, resumable, after this many tokens of prompts and replies"
    )
    max_usd: float | None = Field(
        default=None, description="stop, resumable, at this cost, where the endpoint reports one"
    )

    def budget(self) -> dict[str, float]:
        """The caps that are set."""
        caps = {
            "max_calls": self.max_calls,
            "max_tokens": self.max_tokens,
            "max_usd": self.max_usd,
        }
        return {name: float(cap) for name, cap in caps.items() if cap is not None}
