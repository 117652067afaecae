"""Prompts that begin alike, batched and scored together."""
