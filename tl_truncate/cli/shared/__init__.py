"""What the commands share: the app, options, tasks by name, cuts as text, tables."""
