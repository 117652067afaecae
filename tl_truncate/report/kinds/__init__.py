"""What each kind of page has below its first screen."""
