"""``pipeline.install``: an app of Celery gets this project's transport, consumer, steps and stages."""

from functools import partial
from typing import Final, NoReturn

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from pipeline.control.transport import SCHEME, configure
from pipeline.errors import ConfigurationError
from pipeline.results.asyncresult import TaskResult
from pipeline.worker import errbacks, signals
from pipeline.worker.bootsteps import Health, Loops, Preflight, Runtime, Settling
from pipeline.worker.celerychecks import start_refused
from pipeline.worker.celerysettings import Defaults
from pipeline.worker.loader import import_modules
from pipeline.worker.service import Service

#: The name under which a pool process that is spawned, and so makes the app anew, installs this again.
FIXUP: Final = f"{__name__}:fixup"


def install(app: Celery) -> Celery:
    """Make ``app`` run on SQS FIFO, Kafka and DynamoDB; return it. A second call changes nothing.

    Call it where the app is made::

        app = Celery("shop")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        pipeline.install(app)

    ``broker_url`` is ``fifo://`` then, unless the app sets another. The service's own settings are read from
    the environment, at the first use of one. A worker checks Celery's settings when it starts: some values of
    the app do not count, and it names them (``pipeline.worker.celerysettings``).
    """
    if not hasattr(app, "pipeline"):
        service = app.pipeline = Service()
        app.fixups = {*app.fixups, FIXUP}
        app.amqp_cls = "pipeline.transport.amqp:AMQP"
        app.control_cls = "pipeline.control.mailbox:Control"
        app.events_cls = "pipeline.worker.dispatcher:Events"
        app.backend_cls = "pipeline.results.backend:Backend"
        app.AsyncResult = app.subclass_with_self(TaskResult, reverse="AsyncResult")
        app.loader.import_default_modules = partial(import_modules, app, app.loader.import_default_modules)
        errbacks.register(app)
        app.steps["worker"].update({Preflight, Loops, Runtime, Health})
        app.steps["consumer"].add(Settling)
        signals.connect()
        app.add_defaults(partial(_defaults, app, service))
    return app


def fixup(app: Celery) -> Service:
    """Install as one of Celery's fixups, which it calls with each app that has them."""
    service: Service = install(app).pipeline
    return service


def refuse_other_apps() -> None:
    """Refuse ``fifo://``, with the line to add, in this process's commands for an app without ``install``."""
    TRANSPORT_ALIASES.setdefault(SCHEME, _refuse)


def _refuse() -> NoReturn:
    raise start_refused(
        ConfigurationError(
            f'The broker is {SCHEME}://, and this app was not made for it. Add "pipeline.install(app)" (with '
            '"import pipeline") where the app is made, or run celery with -A pipeline.'
        )
    )


def _defaults(app: Celery, service: Service) -> Defaults:
    """Return Celery's settings of ``app`` that it does not set itself, when it is configured."""
    configure(lambda: service.settings)
    return Defaults(app.conf, lambda: service.settings)
