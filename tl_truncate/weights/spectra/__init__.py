"""Spectra: exact factors of a weight, remembered by its content, and what they say."""
