"""Ways to the view: a page on localhost, and a widget in a notebook."""
