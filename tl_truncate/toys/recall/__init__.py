"""Noisy in-context recall: data, model, training, probes."""
