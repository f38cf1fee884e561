"""The Celery settings of the bridge's workers, for whoever starts `celery` from this folder.

Only departures from Celery's defaults; the reasons stand in `bridge/celeryconfig.py`, where the installed
package takes them from: `celery -A bridge.app worker` never reads a `celeryconfig` of the working directory.
"""

from bridge.celeryconfig import build
from bridge.settings import load

globals().update(build(load()))
