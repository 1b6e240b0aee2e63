"""The DC-AE, the autoencoder that the models share."""
