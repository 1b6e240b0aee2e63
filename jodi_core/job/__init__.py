"""The rules of a job. The command line and the nodes both call them."""
