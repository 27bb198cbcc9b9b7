"""Which particles live on, with what weight, and which answer is chosen? Pure: no model, clock or thread."""
