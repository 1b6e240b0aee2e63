"""Quality and cost: stored vectors, the accuracy of answers, counts of evaluations."""
