"""Means that lie in a file, for cuts that are written down."""

from dataclasses import dataclass

from tl_truncate.decompose.means.token_means import TokenMeans


@dataclass(frozen=True)
class StoredMeans:
    """Token means by the hash of their content and, if they were saved, their file.

    What a cut's JSON holds in place of the means themselves; they are read when they are needed.
    """

    hash: str
    path: str | None

    def read(self) -> TokenMeans:
        """The means.

        Raises:
            ValueError: if they were never saved, or the file holds others now.
        """
        if self.path is None:
            raise ValueError(
                f"The token means {self.hash} of this cut must have been saved to be used again, but "
                "they were not. Fit them again, save them and make the cut anew."
            )
        means = TokenMeans.load(self.path)
        if means.hash != self.hash:
            raise ValueError(
                f"The token means in {self.path} must be those that the cut was made with, {self.hash}, "
                f"got {means.hash}."
            )
        return means
