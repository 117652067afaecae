"""What can be cut: sites, their spectra, and the rules that say how much of one stays."""
