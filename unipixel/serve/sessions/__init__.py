"""Sessions for tools in which people click: a clip, its objects, and the conversation about it, kept by the server."""
