"""Colours that all figures share: those of pages, in the order that tells families apart."""

from tl_truncate.markup import LESS, MORE, PALETTE

_GREEN, _PINK, _ORANGE, _SKY = PALETTE[2:]
COLOURS = (MORE, _ORANGE, _GREEN, LESS, _PINK, _SKY)
#: Of the two answers.
GLOBAL, IN_CONTEXT = MORE, LESS
