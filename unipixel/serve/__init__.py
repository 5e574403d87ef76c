"""Serving: an HTTP API around one engine, OpenAI's chat and sessions for tools in which people click.

app.py              the application put together       running.py          the process: listen, and stop gracefully
connections.py      one HTTP connection, bounded
settings.py         what a server is told              guard.py            keys, origins, sizes, before anything else
worker.py           the model's thread and its queue   runtime.py          the parts of a server and their life
chat_routes.py      OpenAI's chat                      session_routes.py   sessions; object_routes.py their objects
conversation.py     messages to a conversation         session_work.py     what a session does on the model's thread
oneshot.py          chat on the model's thread         sessions.py         sessions by id, saved and woken
delivery.py         JSON or server-sent events         exports.py          COCO, DAVIS, MP4, YOLO
faults.py           every error as an HTTP answer      counters.py         Prometheus
"""

from unipixel.serve.app import create_app
from unipixel.serve.server import run
from unipixel.serve.settings import ServeSettings

__all__ = ["ServeSettings", "create_app", "run"]
