"""Jodi without a host: model, autoencoder, roles, labels, sampling, checkpoints, pipeline."""
