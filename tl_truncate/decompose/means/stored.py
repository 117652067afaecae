"""Means that lie in a file, for cuts that are written down."""

from dataclasses import dataclass

from tl_truncate.decompose.fits.stored import Reference
from tl_truncate.decompose.means.token_means import TokenMeans


@dataclass(frozen=True)
class StoredMeans(Reference):
    """Token means by the hash of their content and, if they were saved, their file."""

    def read(self) -> TokenMeans:
        """The means.

        Raises:
            ValueError: if they were never saved, or the file holds others now.
        """
        return self.follow(TokenMeans.load, "token means")
