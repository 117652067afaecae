"""Prompts that stand answered in front of the others."""
