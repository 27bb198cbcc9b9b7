"""How do questions reach the model, in batches? Knows nothing of HTTP."""
