"""Covariances of what linears read, write and are asked for, over a corpus, and cuts that go by them."""
