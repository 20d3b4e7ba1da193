"""The node's bar and text, and what ComfyUI says of node classes."""

from __future__ import annotations

from collections.abc import Callable

import comfy.utils

from .cancel import stop_when_cancelled


def progress(total: int) -> Callable[[float, float], None]:
    """A callback ``(done, total)`` that moves the node's bar, and stops when cancelled."""
    bar = comfy.utils.ProgressBar(total)

    def update(done: float, of: float) -> None:
        stop_when_cancelled()
        bar.update_absolute(done, of)

    return update


def show_text(text: str, node_id: str) -> None:
    """Show a line of text on a node while the queue runs; does nothing without a server."""
    from server import PromptServer  # noqa: PLC0415

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(text, node_id)


def is_output_node(class_type: str) -> bool:
    """True when ComfyUI runs nodes of this class for their own sake."""
    import nodes as comfy_nodes  # noqa: PLC0415

    return bool(getattr(comfy_nodes.NODE_CLASS_MAPPINGS.get(class_type), "OUTPUT_NODE", False))
