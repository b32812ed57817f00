"""Lightning's CSV logger for runs that are resumed, and for DDP."""

from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.core.saving import load_hparams_from_yaml
from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from sagehound.storage.atomic import read_csv


class CSVLogger(LightningCSVLogger):
    """Lightning's, but it appends to existing files of a resumed run or another DDP process."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401 - Lightning gives others a stand-in
        """The writer; it starts with the rows and hyperparameters of the files."""
        if self._experiment is None:
            path = Path(self.log_dir, ExperimentWriter.NAME_METRICS_FILE)
            rows = [{k: v for k, v in row.items() if v} for row in read_csv(path)] if path.exists() else []
            hparams = load_hparams_from_yaml(str(path.with_name(ExperimentWriter.NAME_HPARAMS_FILE)))
            writer = ExperimentWriter(log_dir=self.log_dir)
            writer.metrics.extend(rows)  # type: ignore[arg-type]
            writer.log_hparams(hparams)
            writer.save()
            self._experiment = writer
        return self._experiment

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: a DDP process writes instead of this one, and both read the files again."""
        self.save()
        self._experiment = None
        return self.__dict__.copy()
