"""What components and parts are worth, from a few passes."""
