"""What a site writes on average at each token, summed up over a corpus."""
