"""The prompt that runs now, and when it is over."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from comfy_execution.utils import get_executing_context

POLL_SECONDS: Final = 0.2
"""ComfyUI tells nobody that a prompt has ended, so its queue is looked at."""


def running_prompt() -> str:
    """Id of the prompt that runs; empty where nodes are called without one."""
    context = get_executing_context()
    return "" if context is None else context.prompt_id


def when_prompt_ends(act: Callable[[], None]) -> None:
    """Call ``act`` once the running prompt is over, however it ends.

    Without a server there is no end to wait for: the process's own is the end then.
    """
    from server import PromptServer  # noqa: PLC0415

    queue = getattr(getattr(PromptServer, "instance", None), "prompt_queue", None)
    context = get_executing_context()
    if queue is None or context is None:
        atexit.register(act)
        return
    arguments = (queue, context.prompt_id, act)
    threading.Thread(target=_watch, args=arguments, name="mirage-prompt", daemon=True).start()


def _watch(queue: Any, prompt_id: str, act: Callable[[], None]) -> None:  # noqa: ANN401
    while any(item[1] == prompt_id for item in queue.get_current_queue_volatile()[0]):
        time.sleep(POLL_SECONDS)
    act()
