"""Cuts chosen on some prompts and reported on others."""
