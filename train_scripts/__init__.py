"""Training entry points; each file only wires model, data and Trainer."""
