"""Trained models on disk, so that a restart serves at once: a file each, beside the database."""

import glob
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from hmm_regime_detector import Model, ModelError, decode, encode

log = logging.getLogger("models")


def _stem(database: Path) -> str:
    return database.name.removesuffix(".db")


def copy_models(database: Path, target: Path) -> list[Path]:
    """Copy the models beside a database to beside its copy; return the new files."""
    made = []
    for file in sorted(database.parent.glob(f"{glob.escape(_stem(database))}.hmm-*.model")):
        new = target.with_name(_stem(target) + file.name.removeprefix(_stem(database)))
        with suppress(FileNotFoundError):  # a newer model has just taken its place
            made.append(Path(shutil.copy(file, new)))
    return made


class ModelFiles:
    """The files of one timeframe, `<stem>.hmm-<seconds>-<model id>.model` beside the database."""

    def __init__(self, database: Path, interval_sec: float) -> None:
        self.trouble = ""  # why the newest model is not kept
        self._folder = database.parent
        self._stem = f"{_stem(database)}.hmm-{interval_sec:g}-"

    def path(self, model_id: str) -> Path:
        """Return where a model is kept."""
        return self._folder / f"{self._stem}{model_id}.model"

    def save(self, model: Model) -> None:
        """Keep a model, whole or not at all. Raises OSError."""
        path = self.path(model.ref.id)
        part = path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(encode(model))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load(self, model_id: str) -> tuple[Model | None, str]:
        """Return a model, or None and what is wrong with it."""
        path = self.path(model_id)
        try:
            model = decode(path.read_bytes())
        except OSError as error:
            return None, f"the model file {path.name} cannot be read: {error.strerror}"
        except ModelError as error:
            return None, f"the model file {path.name} cannot be used: {error}"
        if model.ref.id != model_id:
            return None, f"the model file {path.name} holds another model, {model.ref.id}"
        return model, ""

    def forget_others(self, model_id: str) -> None:
        """Delete the files of models that no longer serve."""
        kept = self.path(model_id)
        for path in self._folder.glob(f"{glob.escape(self._stem)}*"):
            if path == kept:
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # it lies there unread; nothing depends on it
                log.warning("the old model %s cannot be deleted: %s", path.name, error.strerror)
