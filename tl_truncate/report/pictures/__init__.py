"""Small pictures in SVG: what a page shows before anything is loaded.

They are drawn here and not by the library of the interactive charts, which takes a browser more than a
second before it draws its first line. Colours are the page's own variables, so that a picture is light
on a light page, dark on a dark one, and white on paper; and without JavaScript it is there too.
"""
