"""Serving: an HTTP API around one engine. A module imports only from lines above its own; rooms not from each other.

settings.py, schemas.py, errors.py       settings of a server; records of the API; errors as responses
worker.py, serializers.py, media.py      the model's thread and its queue; engine records to API records; files and URLs
folder.py                                the server's folder
responses.py, guard.py, metrics.py       JSON and event streams; keys, origins and sizes; counters for Prometheus
runtime.py                               what all requests share, and how routes get it
openai/, sessions/, label_studio/        the three APIs
service.py                               models, health, metrics, routes of the server's folder, the web page
app.py, server.py                        the application put together; the process
"""

from unipixel.serve.app import create_app
from unipixel.serve.folder import MediaFolder
from unipixel.serve.server import run
from unipixel.serve.sessions.store import lock_state
from unipixel.serve.settings import ServeSettings

__all__ = ["MediaFolder", "ServeSettings", "create_app", "lock_state", "run"]
