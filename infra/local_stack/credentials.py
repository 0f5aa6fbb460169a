"""The credentials of the local stack. Every process that reaches its loopback port may use them; they are no secret."""

import os
from typing import Final

import boto3
import botocore.session

ACCESS_KEY: Final = "LOCALSIMPLESTREAMS00"
SECRET_KEY: Final = "local-only-not-a-secret"  # noqa: S105  (everybody may know it)


NO_CONFIGURATION: Final = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Variables for processes of the local stack: the user's own settings for AWS do not apply to it."""


def local_session(access_key: str, secret_key: str, region: str) -> boto3.Session:
    """Return a session that takes nothing from the user's own AWS configuration.

    A missing profile, or an option such as FIPS endpoints, would stop programs that never call AWS.
    """
    nowhere = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in botocore.session.Session.SESSION_VARIABLES.items()
    }
    for file in ("config_file", "credentials_file"):
        nowhere[file] = (None, None, os.devnull, None)
    return boto3.Session(
        access_key, secret_key, region_name=region, botocore_session=botocore.session.Session(session_vars=nowhere)
    )
