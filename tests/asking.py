"""A page of the live view without a browser: it asks, and hears all answers at once."""

from tl_truncate.explore.asked import read
from tl_truncate.explore.desk import Visitor
from tl_truncate.explore.show import exploration

PROMPT = "When Mary and John went to the store , John gave a drink to"


class Page:
    """A page that asks, and hears all answers at once."""

    def __init__(self, model, prompts=None):
        self.model = model
        self.exploration = exploration(model, prompts)
        self.told = []  # that nobody asked for
        self.visitor = Visitor(self.told.append)

    def ask(self, kind, **fields):
        asked = read({"kind": kind, "id": 1, **fields})
        return [each for each in self.exploration.answer(self.visitor, asked) if each is not None]

    def prompt(self, text=PROMPT, in_context=" Mary", global_=" the"):
        return self.ask("prompt", text=text, in_context=in_context, **{"global": global_})

    def cut(self, *cuts, control=False):
        (answer,) = self.ask("cut", cut=cuts[-1], cuts=list(cuts[:-1]), control=control)
        return answer


def of(site, amount=0.5, rule="largest", **fields):
    return {"site": site, "rule": rule, "amount": amount, **fields}
