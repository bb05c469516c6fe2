"""Quiet for the training libraries: no progress bars, no advice, no warnings that print prompts.

Progress is told by the project's own events, and the worker's log holds what is left.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache


@cache
def quiet_libraries() -> None:
    """Switch off progress bars and everything below ERROR of the training libraries."""
    from transformers.utils import logging as transformers_logging

    # transformers warns of its own use of a name it renamed, at every checkpointing-capable model
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("trl", "peft", "accelerate", "datasets", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_training_libraries() -> None:
    """``quiet_libraries``, and the progress bars of datasets too (imports it)."""
    quiet_libraries()
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
