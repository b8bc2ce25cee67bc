"""Settings that Ray reads when it is imported, and the token that a process reads once: before any test runs."""

import os

from cluster.local import ENVIRONMENT, access_token
from tests.cluster.head import CACHE

os.environ.update(ENVIRONMENT, RAY_AUTH_TOKEN_PATH=str(access_token(CACHE)))
