"""The form of the messages that an installed app publishes: Celery's protocol 2, whatever it sets."""

from celery.app import amqp


class AMQP(amqp.AMQP):  # type: ignore[misc]
    """Celery's ``app.amqp``.

    Protocol 1 has no headers for the trace and the message group, nor for what Celery itself passes on: root,
    parent, stamps, ``ignore_result``, the rest of a chain. They are lost when its message is made, so that a
    later conversion could not bring them back.
    """

    create_task_message = amqp.AMQP.as_task_v2
