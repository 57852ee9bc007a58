"""Words that appear on a node in the browser. The host itself shows the text of its own preview nodes only."""

from __future__ import annotations

from server import PromptServer


def tell_node(text: str, node_id: str) -> None:
    """Show `text` on the node of the canvas that has this id."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(text, node_id)


def tell(text: str, hidden) -> None:
    """Show `text` on the node that runs; copies that a loop has made speak on the node of the canvas.

    hidden: the node's cls.hidden, whose schema asks for unique_id and dynprompt; None when a program calls the node.
    """
    node_id = getattr(hidden, "unique_id", None)
    if node_id is None:
        return
    prompt = getattr(hidden, "dynprompt", None)
    tell_node(text, node_id if prompt is None else prompt.get_display_node_id(node_id))
