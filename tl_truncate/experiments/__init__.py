"""Questions asked of a model, answered with intervals and with a record of what was asked."""
