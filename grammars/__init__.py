"""Which text is allowed, and which token may come next? Knows nothing of probabilities or models."""
