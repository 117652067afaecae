"""Tasks from files and tables, and to files of others."""
