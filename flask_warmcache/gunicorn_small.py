"""Settings for ``gunicorn -c python:flask_warmcache.gunicorn_small``: for hosts with about 512 MB of memory.

Like ``gunicorn_conf``, with at most two workers.  They are forked after the app was loaded: so they share its
memory, and a replaced worker is ready at once.
"""

from . import gunicorn_conf
from .host import gunicorn_settings

gunicorn_conf._compose(globals(), gunicorn_settings.defaults(small=True))
