"""Settings for ``gunicorn -c python:flask_warmcache.gunicorn_small``: for hosts with about 512 MB of memory.

As ``gunicorn_conf``, with at most two workers, forked from one that has loaded the app, so that they share it
and a worker that is replaced is there at once.
"""

from . import gunicorn_conf
from .host import gunicorn_settings

gunicorn_conf._compose(globals(), gunicorn_settings.defaults(small=True))
