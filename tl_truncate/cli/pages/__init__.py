"""Commands that make a picture or a page of what a run found."""
