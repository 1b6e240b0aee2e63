"""What every model here is built from; it knows no model."""
