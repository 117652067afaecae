"""A model's files on the hub: whether they are here, what is to be fetched, and what can go again.

All through huggingface_hub, in its own cache or one of the caller's. Only what transformers reads is
fetched: configuration, tokenizer, and the weights in one format.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_truncate.weights.files import as_path

_READ = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("*.safetensors", "*.bin")
_WHOLE = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Repository:
    """One model on the hub, and the cache that its files are kept in.

    Args:
        name: such as `EleutherAI/pythia-160m`.
        cache_dir: the hub's own cache if None.
    """

    name: str
    cache_dir: str | None = None

    @property
    def folder(self) -> Path:
        """Where the cache has the repository."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        cache = self.cache_dir or constants.HF_HUB_CACHE
        return as_path(cache) / repo_folder_name(repo_id=self.name, repo_type="model")

    def here(self, revision: str) -> Path | None:
        """The folder of a revision, if all that is read of it is in the cache."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            self.name, "config.json", cache_dir=self.cache_dir, revision=revision
        )
        if not isinstance(found, str):
            return None
        folder = Path(found).parent
        return folder if _has_weights(folder) and any(folder.glob("tokenizer*")) else None

    def revisions(self) -> set[str]:
        """The commits that the cache has anything of."""
        return {path.name for path in self.folder.glob("snapshots/*")}

    def missing_bytes(self, revision: str) -> int:
        """How much a fetch of a revision downloads.

        Raises:
            OSError: if the hub cannot be reached or does not have it.
        """
        files = self._asked(revision, dry_run=True)
        return sum(each.file_size or 0 for each in files if each.will_download)

    def bytes_by_configuration(self) -> int | None:
        """How large a revision's weights are, by a configuration in the cache; None if there is none."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        known = sorted(self.folder.glob("snapshots/*/config.json"))
        if not known:
            return None
        config = AutoConfig.from_pretrained(known[0].parent)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        stored: torch.dtype = getattr(config, "dtype", None) or torch.float16
        return int(stored.itemsize * sum(each.numel() for each in model.parameters()))

    def fetch(self, revision: str, *, again: bool = False) -> Path:
        """The folder of a revision, downloaded if need be.

        Args:
            revision: a branch, tag or commit.
            again: downloads what is there once more.

        Raises:
            OSError: if the hub cannot be reached or does not have it, or has no weights there.
        """
        found = None if again else self.here(revision)
        if found is not None:
            return found
        folder = Path(self._asked(revision, force_download=again))
        if not _has_weights(folder):
            raise OSError(
                f"{self.name} at {revision} must have weights, {' or '.join(_WHOLE)} or parts of them, "
                f"but there are none in {folder}."
            )
        return folder

    def commit(self, revision: str) -> str | None:
        """The commit that the cache has a branch or tag stand for."""
        path = self.folder / "refs" / revision
        return path.read_text().strip() if path.is_file() else None

    def delete(self, revision: str) -> None:
        """Removes a branch or tag with its files from the cache.

        Files that another revision has too stay, and all of them if another branch or tag stands for the
        same commit. huggingface_hub deletes nothing from a repository in which another process has just
        begun a download, so its files are looked at one by one.

        Raises:
            OSError: if a file cannot be deleted.
        """
        commit = self.commit(revision)
        names = [path for path in self.folder.glob("refs/**/*") if path.is_file()]
        if commit is None or [path.read_text().strip() for path in names].count(commit) > 1:
            return
        folder = self.folder / "snapshots" / commit
        own = [path for path in folder.rglob("*") if not path.is_dir()]
        blobs = {path.resolve() for path in own}
        for path in own:
            path.unlink(missing_ok=True)
        used = {path.resolve() for path in self.folder.glob("snapshots/**/*") if path.is_symlink()}
        for blob in blobs - used:
            blob.unlink(missing_ok=True)
        shutil.rmtree(folder)
        (self.folder / "refs" / revision).unlink(missing_ok=True)

    def _asked(self, revision: str, **options: Any) -> Any:
        """`snapshot_download` of what transformers reads."""
        from huggingface_hub import snapshot_download

        common: dict[str, Any] = dict(
            revision=revision, cache_dir=self.cache_dir, ignore_patterns=["*/*"]
        )
        with _as_os_errors(self.name, revision):
            files = snapshot_download(
                self.name, allow_patterns=[*_READ, *_WEIGHTS], dry_run=True, **common
            )
            endings = [Path(each.filename).suffix for each in files]
            weights = next((each for each in _WEIGHTS if each[1:] in endings), _WEIGHTS[0])
            return snapshot_download(self.name, allow_patterns=[*_READ, weights], **common, **options)


def _has_weights(folder: Path) -> bool:
    """Whether all files of the weights are there, in one of the formats."""
    for name in _WHOLE:
        if (folder / name).is_file():
            return True
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return all((folder / part).is_file() for part in parts)
    return False


@contextmanager
def _as_os_errors(name: str, revision: str) -> Iterator[None]:
    """What clients of the hub raise about the network, as what the rest of Python does."""
    from huggingface_hub import errors

    # Of httpx, under one name or another; the class for Xet is younger than the oldest version.
    failures: tuple[Any, ...] = (
        errors.HfHubHTTPError.__mro__[1],
        getattr(errors, "XetDownloadError", RuntimeError),
        errors.EntryNotFoundError,
        RuntimeError,
    )
    try:
        yield
    except failures as problem:
        if isinstance(problem, OSError):
            raise
        raise OSError(f"{name} at {revision} could not be fetched: {problem}") from problem
