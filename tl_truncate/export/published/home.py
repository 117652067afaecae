"""A model together with the Hugging Face tensors that it is made of."""

from dataclasses import dataclass

from tl_truncate.export.published.base import Base
from tl_truncate.export.published.originals import Held, Layout, Originals
from tl_truncate.export.published.places import Place, find_place
from tl_truncate.weights.linear import Linear


@dataclass(frozen=True)
class Home:
    """Where each weight of a model belongs.

    Attributes:
        base: by what name the weights are found.
        layout: of the Hugging Face model.
        originals: its tensors: those of the base's files, or of the Bridge where there are none.
        held: those that a Bridge holds.
    """

    base: Base
    layout: Layout
    originals: Originals
    held: Held

    def place(self, linear: Linear) -> Place:
        """Where the matrix of a linear of all heads lies.

        Raises:
            ValueError: if that is not known, or another weight would change with it.
        """
        found = find_place(linear, self.originals, self.held, self.layout)
        tied = set(self.layout.same_as(found.name))
        stored = self.held.tensors.get(found.name)
        if stored is not None:
            tied |= {
                name
                for name, other in self.held.tensors.items()
                if other.data_ptr() == stored.data_ptr() and other.shape == stored.shape
            }
        others = sorted(tied - {found.name})
        if others:
            raise ValueError(
                f"A cut must change one weight, but {found.name}, in which {linear.site} is cut, is "
                f"also {', '.join(others)}. Give each a tensor of its own first."
            )
        return found
