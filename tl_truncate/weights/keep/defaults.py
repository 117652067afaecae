"""How much is kept where nobody says it."""

#: Of a sweep or a search: from nothing to nearly everything, denser where effects turn.
KEEPS: tuple[float, ...] = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9)
#: Beside other ways of cutting, the gentlest first; nothing kept is a way of its own there.
COMPARED: tuple[float, ...] = (0.9, 0.5, 0.25, 0.1, 0.01)
#: Where so little is removed that a first-order prediction can be trusted.
GENTLE: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95)
