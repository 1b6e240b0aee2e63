"""How a node answers sockets that have nothing to give."""

from comfy_execution.graph_utils import ExecutionBlocker


def blocked(message: str) -> ExecutionBlocker:
    """A result that stops whoever takes it, with a message, and nobody else."""
    return ExecutionBlocker(message)
