"""Where this process's AWS credentials come from; never what they are."""

import boto3
from botocore.exceptions import BotoCoreError

from pipeline.sqs.errors import sqs_error


def credentials_source() -> str | None:
    """Where boto3's chain finds credentials, in botocore's word for it; None: nowhere.

    "env" are access keys in the environment, "shared-credentials-file" and "config-file" keys in a profile,
    "sso" and "login" a person's; "iam-role", "container-role", "assume-role" and
    "assume-role-with-web-identity" a role's.
    """
    try:
        credentials = boto3.session.Session().get_credentials()
    except BotoCoreError as error:
        raise sqs_error(error, "find AWS credentials") from error
    return credentials.method if credentials else None
