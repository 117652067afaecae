"""Cuts as the options name them."""

from dataclasses import dataclass

from tl_truncate.cli.shared.options import CutFile, CutTexts
from tl_truncate.cli.shared.parse import parse_cut
from tl_truncate.surgery.cut import Cuts


@dataclass(frozen=True, kw_only=True)
class CutOptions:
    """Cuts that are made together."""

    cut: CutTexts = None
    cuts: CutFile = None

    def read(self) -> Cuts:
        """The cuts, which may be none.

        Raises:
            ValueError: if a text or the file reads otherwise.
        """
        return Cuts(
            [parse_cut(text) for text in self.cut or []], Cuts.load(self.cuts) if self.cuts else []
        )
