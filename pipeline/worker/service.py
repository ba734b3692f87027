"""What an app of Celery holds of this project: ``app.pipeline``."""

from functools import cached_property

from pipeline.errors import PipelineError
from pipeline.jobs import JobStore
from pipeline.payloads import Payloads
from pipeline.settings import Settings, load_settings
from pipeline.vault import environment
from pipeline.worker.celerychecks import start_refused


class Service:
    """The service that an app belongs to. The environment is read only when a setting is needed."""

    @cached_property
    def settings(self) -> Settings:
        """Return the settings of this process. Invalid ones, or an error of Vault, end it with one line."""
        try:
            return load_settings(environment())
        except PipelineError as error:
            raise start_refused(error) from error

    @cached_property
    def job_store(self) -> JobStore:
        """Return the job store of this process and of those it forks."""
        return JobStore(self.settings)

    @cached_property
    def payloads(self) -> Payloads:
        """Return the payloads on S3 of this process and of those it forks."""
        return Payloads(self.settings)
