"""A node that stands for several: they are run, cached and shown as if they stood in the graph."""

from comfy_execution.graph_utils import GraphBuilder


def start_graph() -> GraphBuilder:
    """An empty graph to fill with `node(class_type, **inputs)`; `finalize()` is its expansion."""
    return GraphBuilder()
