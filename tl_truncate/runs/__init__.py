"""How long work is kept and resumed: its folder, its record."""
