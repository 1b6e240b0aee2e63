"""D-DiT: pictures, captions and answers from one network (arXiv 2501.00289)."""
