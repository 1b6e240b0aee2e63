"""How well it does: stored vectors, answer accuracy, evaluations counted."""
