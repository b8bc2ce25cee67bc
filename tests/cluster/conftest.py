"""Settings that Ray reads when it is imported: before any test module imports it."""

import os

from cluster.local import ENVIRONMENT

os.environ.update(ENVIRONMENT)
